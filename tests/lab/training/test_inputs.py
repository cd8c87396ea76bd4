"""A model, a tokenizer and data that do not fit are found out when the run is made; what can be made to fit, is."""

import warnings

import pytest
import torch
import transformers
from datasets import Dataset, DatasetDict
from tiny import (
    EVERY,
    VOCABULARY,
    classification,
    language_model,
    tiny_data,
    tiny_language_data,
    tiny_model,
    tiny_run,
    tiny_tokenizer,
    tiny_tokens,
)

pytestmark = pytest.mark.usefixtures("one_thread")
CAUSAL = ("gpt2", "opt", "llama", "qwen2")


def xlnet():
    torch.manual_seed(0)
    shape = {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64, "vocab_size": len(VOCABULARY)}
    config = transformers.XLNetConfig(**shape, pad_token_id=0, num_labels=2, dropout=0.0)
    return transformers.XLNetForSequenceClassification(config)


def losses(model, data, split, tokenizer, loss=classification):
    sizes = (1, 3, 32)
    return [tiny_run(model, data, tokenizer=tokenizer, loss=loss, batch_size=n).evaluate(split) for n in sizes]


# padding


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("arch", EVERY)
def test_the_tokenizers_padding_side_changes_no_number(arch, side):
    model = tiny_model(arch, dropout=False)
    one, *others = losses(model, tiny_data(8, 8, 24), "test", tiny_tokenizer(side))
    for other in others:
        assert other == pytest.approx(one, abs=2e-5)


@pytest.mark.parametrize("arch", CAUSAL)
def test_the_tokenizers_padding_side_changes_no_perplexity(arch):
    model, data = tiny_model(arch, "causal_lm", dropout=False), tiny_language_data()
    left = losses(model, data, "validation", tiny_tokenizer("left"), language_model)
    right = losses(model, data, "validation", tiny_tokenizer("right"), language_model)
    for metrics in left + right[1:]:
        assert metrics == pytest.approx(right[0], rel=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_who_reads_the_answer_at_the_end_is_padded_in_front(side):
    one, *others = losses(xlnet(), tiny_data(8, 8, 24), "test", tiny_tokenizer(side))
    for other in others:
        assert other == pytest.approx(one, abs=2e-5)


@pytest.mark.parametrize("arch", ["gpt2", "llama", "qwen2", "bert"])
def test_a_classifier_whose_padding_token_is_another_is_refused(arch):
    model = tiny_model(arch)
    model.config.pad_token_id = 6
    with pytest.raises(ValueError, match=r"pads with 0 .*but the model takes 6 .*pad_token_id = tokenizer"):
        tiny_run(model)


@pytest.mark.parametrize("arch", ["gpt2", "llama", "qwen2", "opt"])
def test_a_classifier_without_a_padding_token_gets_the_tokenizers(arch):
    model = tiny_model(arch, dropout=False)
    expected = tiny_run(model).evaluate("test")
    model.config.pad_token_id = None
    assert tiny_run(model, batch_size=32).evaluate("test") == pytest.approx(expected, abs=1e-5)


def test_a_language_model_may_be_padded_with_anything():
    model = tiny_model("gpt2", "causal_lm", pad_token_id=6)
    next(tiny_run(model, tiny_language_data(), loss=language_model))


@pytest.mark.parametrize(("arch", "kind"), [("bert", "classifier"), ("gpt2", "classifier"), ("gpt2", "causal_lm")])
def test_tokens_without_a_mask_get_one(arch, kind):
    whole = tiny_tokens() if kind == "classifier" else tiny_language_data()
    loss = classification if kind == "classifier" else language_model
    given = [whole, whole.remove_columns("attention_mask")]
    steps = [next(tiny_run(tiny_model(arch, kind, dropout=False), data, loss=loss)) for data in given]
    assert steps[0].loss == steps[1].loss and steps[0].tokens == steps[1].tokens > 0


def test_tokens_that_were_padded_without_a_mask_get_one_that_hides_the_padding():
    whole = tiny_tokens()
    padded = whole.map(lambda row: {"input_ids": row["input_ids"] + [0] * (30 - len(row["input_ids"]))})
    runs = [tiny_run(tiny_model("bert", dropout=False), d) for d in (whole, padded.remove_columns("attention_mask"))]
    assert runs[1].evaluate("test") == pytest.approx(runs[0].evaluate("test"), abs=1e-5)


# tokens that the model does not know


def test_added_tokens_need_rows_in_the_embedding():
    tokenizer, model = tiny_tokenizer(), tiny_model("bert")
    tokenizer.add_tokens(["word0word"])
    data = DatasetDict(train=Dataset.from_dict({"text": ["word1", "word2 word0word"], "label": [0, 1]}))
    with pytest.raises(ValueError, match="row 1 of .* has the token 103, but the model knows 103.*resize_token"):
        tiny_run(model, data, tokenizer=tokenizer)
    model.resize_token_embeddings(len(tokenizer))
    next(tiny_run(model, data, tokenizer=tokenizer))


def test_an_added_padding_token_needs_a_row_too():
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[NEW]"})
    with pytest.raises(ValueError, match="pads with the token 103, but the model knows 103 tokens"):
        tiny_run(tiny_model("gpt2", "causal_lm"), tiny_language_data(), loss=language_model, tokenizer=tokenizer)


def test_a_model_that_does_not_say_how_much_it_takes_takes_all():
    run = tiny_run(xlnet(), tokenizer=tiny_tokenizer(model_max_length=10**30))
    assert xlnet().config.max_position_embeddings == -1 and next(run).loss > 0


def test_a_model_that_cannot_tell_padding_is_said_to():
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64, "max_position_embeddings": 64}
    config = transformers.FNetConfig(vocab_size=len(VOCABULARY), pad_token_id=0, num_labels=2, **shape)
    with pytest.warns(UserWarning, match="FNetForSequenceClassification takes no attention mask, so padding") as said:
        next(tiny_run(transformers.FNetForSequenceClassification(config)))
    assert said[0].filename == tiny_run.__code__.co_filename  # where the run is made


def test_a_model_without_an_embedding_of_words_is_trained():
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = transformers.CanineConfig(pad_token_id=0, num_labels=2, max_position_embeddings=64, **shape)
    assert next(tiny_run(transformers.CanineForSequenceClassification(config))).loss > 0


def test_making_a_run_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        next(tiny_run(data=tiny_data()))

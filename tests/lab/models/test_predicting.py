"""Predictions of texts: by name, the same in every batch, and only of what can be predicted."""

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from datasets import Dataset
from tiny import DECODERS, EVERY, VOCABULARY, same_bits, tiny_model, tiny_rows, tiny_tokenizer, weights

from finetune_lessons.lab.models.predicting import predict
from finetune_lessons.lora import add_lora
from finetune_lessons.prompt_tuning import add_prompt

pytestmark = pytest.mark.usefixtures("one_thread")
NAMES = {0: "angry", 1: "glad", 2: "afraid"}
TEXTS = tiny_rows(9)["text"]


def named(arch="bert", **config):
    return tiny_model(arch, num_labels=3, id2label=NAMES, label2id={name: i for i, name in NAMES.items()}, **config)


def xlnet():
    config = transformers.XLNetConfig(vocab_size=103, d_model=32, n_layer=2, n_head=4, d_inner=64, num_labels=3)
    config.id2label = NAMES
    return transformers.XLNetForSequenceClassification(config)


def one_by_one(model, tokenizer):
    with torch.no_grad():
        rows = [model.eval()(**tokenizer(text, return_tensors="pt")).logits for text in TEXTS]
    return torch.cat(rows)


@pytest.mark.parametrize("arch", [*EVERY, "xlnet"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_the_batch_changes_no_number(arch, side, capfd):
    model = xlnet() if arch == "xlnet" else named(arch)
    tokenizer = tiny_tokenizer("left" if arch == "xlnet" else side)
    expected = one_by_one(model, tokenizer).softmax(-1).numpy()
    for size in (1, 3, 32):
        table = predict(model, tokenizer, TEXTS, batch_size=size)
        np.testing.assert_allclose(table[list(NAMES.values())].to_numpy(), expected, rtol=1e-5, atol=1e-5)
        assert table["prediction"].tolist() == [NAMES[i] for i in expected.argmax(1)]
        np.testing.assert_allclose(table["confidence"], expected.max(1), rtol=1e-5)
    assert table["text"].tolist() == TEXTS and list(table.index) == list(range(9))
    assert "".join(capfd.readouterr()) == ""


@pytest.mark.parametrize("arch", DECODERS)
def test_predictions_of_a_model_of_ones_own_do_not_depend_on_its_padding(arch):
    model, tokenizer = tiny_model(arch, pad_token_id=VOCABULARY["[MASK]"]), tiny_tokenizer()
    together, alone = (predict(model, tokenizer, TEXTS, batch_size=size)["confidence"] for size in (4, 1))
    torch.testing.assert_close(torch.tensor(together), torch.tensor(alone), rtol=1e-5, atol=1e-5)


def test_the_model_and_the_tokenizer_are_as_before():
    model, tokenizer = named(), tiny_tokenizer("left")
    model.train().bert.encoder.eval()
    modes, before, random = [m.training for m in model.modules()], weights(model), torch.get_rng_state()
    a, b = predict(model, tokenizer, TEXTS), predict(model, tokenizer, TEXTS)
    pd.testing.assert_frame_equal(a, b)
    assert [m.training for m in model.modules()] == modes and same_bits(weights(model), before)
    assert tokenizer.padding_side == "left" and torch.equal(torch.get_rng_state(), random)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_one_text_is_a_row_and_none_are_no_rows():
    assert predict(named(), tiny_tokenizer(), "good word1")["text"].tolist() == ["good word1"]
    empty = predict(named(), tiny_tokenizer(), [])
    assert len(empty) == 0 and list(empty.columns) == ["text", "prediction", "confidence", *NAMES.values()]


@pytest.mark.parametrize(
    "make", [list, tuple, np.array, pd.Series, iter, lambda texts: Dataset.from_dict({"a": texts})["a"]]
)
def test_texts_come_as_any_sequence(make):
    assert predict(named(), tiny_tokenizer(), make(TEXTS))["text"].tolist() == TEXTS


def test_a_regression_gives_numbers():
    model, tokenizer = tiny_model("bert", num_labels=1), tiny_tokenizer()
    table = predict(model, tokenizer, TEXTS, batch_size=4)
    assert list(table.columns) == ["text", "prediction"]
    np.testing.assert_allclose(table["prediction"], one_by_one(model, tokenizer)[:, 0], rtol=1e-5, atol=1e-5)
    several = predict(named(problem_type="regression"), tokenizer, TEXTS)
    assert list(several.columns) == ["text", "prediction"] and len(several["prediction"][0]) == 3


def test_several_classes_a_text_are_those_over_one_half():
    model, tokenizer = named(problem_type="multi_label_classification"), tiny_tokenizer()
    table = predict(model, tokenizer, TEXTS)
    expected = one_by_one(model, tokenizer).sigmoid()
    np.testing.assert_allclose(table[list(NAMES.values())].to_numpy(), expected, rtol=1e-5, atol=1e-5)
    assert table["prediction"].tolist() == [[NAMES[i] for i in range(3) if row[i] > 0.5] for row in expected]
    assert "confidence" not in table and len({len(names) for names in table["prediction"]}) > 1


def test_longer_texts_are_cut_and_counted(capsys):
    model, tokenizer = named(), tiny_tokenizer()
    long = "word1 " * 100
    table = predict(model, tokenizer, [long, "good", long + "bad"])
    assert capsys.readouterr().out == "2 of 3 texts cut to the 64 tokens that the model takes\n"
    assert table["glad"][0] == pytest.approx(table["glad"][2]) and table["text"][0] == long
    predict(add_prompt(named(), 20), tokenizer, [long])
    assert "cut to the 44 tokens" in capsys.readouterr().out


def test_a_model_with_a_method_inside_predicts():
    model = add_lora(named())
    assert set(predict(model, tiny_tokenizer(), TEXTS)["prediction"]) <= set(NAMES.values())


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["good", 3], "number 1 is 3"),
        (["good", None], "number 1 is None"),
        ([["good"]], r"number 0 is \['good'\]"),
        (5, "a text or a list of texts; given: 5"),
        (None, "a text or a list of texts; given: None"),
        ({"text": ["good"]}, "given: dict. Pass its column"),
        (pd.DataFrame({"text": ["good"]}), "given: DataFrame. Pass its column"),
        (Dataset.from_dict({"text": ["good"]}), "given: Dataset. Pass its column"),
    ],
)
def test_what_is_no_text_is_refused(texts, says):
    with pytest.raises(ValueError, match=says):
        predict(named(), tiny_tokenizer(), texts)


@pytest.mark.parametrize("size", [0, -1, 1.5, "8"])
def test_a_batch_is_a_number_of_texts(size):
    with pytest.raises(ValueError, match=f"batch_size is a number of texts, at least 1; given: {size!r}"):
        predict(named(), tiny_tokenizer(), TEXTS, batch_size=size)


@pytest.mark.parametrize(("arch", "kind"), [("gpt2", "causal_lm"), ("bert", "masked_lm"), ("t5", "seq2seq")])
def test_a_language_model_does_not_classify(arch, kind):
    with pytest.raises(ValueError, match="predict is for a model that classifies texts.*given: "):
        predict(tiny_model(arch, kind), tiny_tokenizer(), TEXTS)


@pytest.mark.parametrize("names", [{0: "text", 1: "b"}, {0: "a", 1: "a"}])
def test_classes_need_names_that_columns_can_have(names):
    with pytest.raises(ValueError, match="each class needs a name of its own"):
        predict(tiny_model("bert", id2label=names), tiny_tokenizer(), TEXTS)


def test_a_text_without_tokens_is_named():
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = None
    with pytest.raises(ValueError, match="text 1 has no tokens: ' '"):
        predict(named(), tokenizer, ["good", " "])

"""Generation in batches gives what each prompt gives alone, and only that."""

import logging

import pytest
import torch
import transformers
from tiny import DECODERS, ENCODER_DECODERS, VOCABULARY, tiny_model, tiny_tokenizer

from finetune_lessons.lab.models.generating import generate
from finetune_lessons.lora import add_lora

pytestmark = pytest.mark.usefixtures("one_thread")
PROMPTS = ["good", "word1 word2 word3 word4 bad word5", "word6 fine", "dull word7 word8 word9", "poor word10 word11"]
WORDS = {number: token for token, number in VOCABULARY.items()}


def model_of(arch, **config):
    "Untied: a tied one of this size says its last token for ever."
    return tiny_model(arch, "seq2seq" if arch in ENCODER_DECODERS else "causal_lm", tie_word_embeddings=False, **config)


def alone(model, tokenizer, prompt, new):
    "What plain transformers says: one prompt, no padding, up to the end."
    ids = torch.tensor([tokenizer(prompt)["input_ids"]])
    start = 1 if model.config.is_encoder_decoder else ids.shape[1]
    with torch.no_grad():
        said = model.eval().generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False)
    tokens = said[0, start:].tolist()
    end = model.generation_config.eos_token_id
    return tokens[: tokens.index(end)] if end in tokens else tokens


@pytest.fixture
def said_by_transformers(caplog):
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


def other_decoders():
    shape = {"vocab_size": 103, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape |= {"intermediate_size": 64, "max_position_embeddings": 64, "pad_token_id": 0, "initializer_range": 0.2}
    ends = {"bos_token_id": 5, "eos_token_id": 6}
    yield transformers.GPTNeoXConfig(**shape, **ends)
    yield transformers.BloomConfig(vocab_size=103, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.2, **ends)
    yield transformers.MistralConfig(**shape, **ends, num_key_value_heads=2, sliding_window=8)
    yield transformers.FalconConfig(**shape, **ends, alibi=False)
    yield transformers.Gemma2Config(**shape, **ends, num_key_value_heads=2, head_dim=8)


@pytest.mark.parametrize("arch", [*DECODERS, *ENCODER_DECODERS, *range(5)])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_gives_what_each_prompt_gives_alone(arch, side, said_by_transformers, capfd):
    if isinstance(arch, int):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(list(other_decoders())[arch])
    else:
        model = model_of(arch)
    tokenizer = tiny_tokenizer(side)
    expected = [" ".join(WORDS[i] for i in alone(model, tokenizer, prompt, 8) if i > 6) for prompt in PROMPTS]
    for size in (1, 2, 8):
        found = generate(model.train(), tokenizer, PROMPTS, max_new_tokens=8, batch_size=size)
        assert [" ".join(text.split()) for text in found] == expected
    assert len(set(expected)) > 1 and model.training and tokenizer.padding_side == side
    assert said_by_transformers.text == "" and "".join(capfd.readouterr()) == ""


@pytest.mark.parametrize("arch", [*DECODERS, *ENCODER_DECODERS])
def test_nothing_stands_behind_the_end(arch):
    model, tokenizer = model_of(arch), tiny_tokenizer()
    end = alone(model, tokenizer, PROMPTS[1], 12)[2]
    model.generation_config.eos_token_id = end
    expected = [alone(model, tokenizer, prompt, 12) for prompt in PROMPTS]
    found = generate(model, tokenizer, PROMPTS, max_new_tokens=12, batch_size=5)
    assert [text.split() for text in found] == [[WORDS[i] for i in tokens if i > 6] for tokens in expected]
    assert min(map(len, expected)) <= 2 < max(map(len, expected))


def test_padding_may_be_the_end_and_several_tokens_may_end():
    model, tokenizer = model_of("opt"), tiny_tokenizer()
    expected = generate(model, tokenizer, PROMPTS, max_new_tokens=8)
    tokenizer.pad_token = tokenizer.eos_token
    assert generate(model, tokenizer, PROMPTS, max_new_tokens=8) == expected
    tokenizer.pad_token = None
    assert generate(model, tokenizer, PROMPTS, max_new_tokens=8) == expected
    ends = [VOCABULARY["[EOS]"], VOCABULARY[expected[0].split()[2]], VOCABULARY[expected[1].split()[1]]]
    shorter = generate(model, tokenizer, PROMPTS, max_new_tokens=8, eos_token_id=ends)
    assert not [text for text in shorter if {WORDS[end] for end in ends} & set(text.split())]
    assert all(text.startswith(short) for text, short in zip(expected, shorter, strict=True))


def test_a_text_for_a_text_and_a_list_for_a_list():
    model, tokenizer = model_of("llama"), tiny_tokenizer()
    one = generate(model, tokenizer, PROMPTS[0], max_new_tokens=4)
    assert (
        isinstance(one, str)
        and one.startswith(" ")
        and generate(model, tokenizer, PROMPTS[:1], max_new_tokens=4) == [one]
    )
    assert generate(model, tokenizer, [], max_new_tokens=4) == []


def test_it_is_greedy_unless_told_and_sampling_has_a_seed(said_by_transformers):
    model, tokenizer = model_of("llama"), tiny_tokenizer()
    greedy = generate(model, tokenizer, PROMPTS, max_new_tokens=8)
    model.generation_config.update(do_sample=True, temperature=0.5, top_p=0.9, max_length=30)
    random = torch.get_rng_state()
    assert generate(model, tokenizer, PROMPTS, max_new_tokens=8) == greedy
    a, b, other = (
        generate(model, tokenizer, PROMPTS, max_new_tokens=8, do_sample=True, temperature=3.0, seed=seed)
        for seed in (1, 1, 2)
    )
    assert a == b and a != other and a != greedy
    assert torch.equal(torch.get_rng_state(), random) and said_by_transformers.text == ""


def test_a_start_is_not_doubled_and_an_end_not_gone_on_from():
    model, tokenizer = model_of("llama"), tiny_tokenizer()
    expected = generate(model, tokenizer, "good", max_new_tokens=6)
    from tokenizers.processors import TemplateProcessing

    ends = [("[BOS]", 5), ("[EOS]", 6), ("[CLS]", 2), ("[SEP]", 3)]
    template = TemplateProcessing(single="[BOS] $A [EOS]", special_tokens=ends)
    tokenizer.backend_tokenizer.post_processor = template
    with_start = generate(model, tokenizer, "good", max_new_tokens=6)
    assert generate(model, tokenizer, "[BOS] good", max_new_tokens=6) == with_start != expected
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="[BOS] $A", special_tokens=ends)
    assert generate(model, tokenizer, "good", max_new_tokens=6) == with_start


def test_an_empty_prompt_starts_from_the_start_or_is_refused():
    model, tokenizer = model_of("gpt2"), tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = None
    assert generate(model, tokenizer, "", max_new_tokens=4) == generate(model, tokenizer, "[BOS]", max_new_tokens=4)
    tokenizer.bos_token = None
    with pytest.raises(ValueError, match="a prompt is empty, and the tokenizer has no token that starts a text"):
        generate(model, tokenizer, ["good", ""], max_new_tokens=4)


@pytest.mark.parametrize("arch", ["gpt2", "opt", "llama", "bart"])
def test_a_prompt_needs_room_for_what_is_new(arch, said_by_transformers):
    model, tokenizer = model_of(arch), tiny_tokenizer(model_max_length=20)
    assert generate(model, tokenizer, "word1 " * 52, max_new_tokens=10)
    with pytest.raises(
        ValueError, match="prompt 1 has 65 tokens and 10 new ones are asked for, but the model takes 64"
    ):
        generate(model, tokenizer, ["good", "word1 " * 63], max_new_tokens=10)
    with pytest.raises(ValueError, match="100 new ones are asked for, but the model takes 64"):
        generate(model, tokenizer, "good", max_new_tokens=100)
    assert said_by_transformers.text == ""


def test_a_model_with_a_method_inside_generates():
    model, tokenizer = model_of("llama"), tiny_tokenizer()
    before = generate(model, tokenizer, PROMPTS, max_new_tokens=4)
    assert generate(add_lora(model), tokenizer, PROMPTS, max_new_tokens=4) == before


@pytest.mark.parametrize(
    "model", [tiny_model("bert"), tiny_model("bert", "masked_lm"), tiny_model("gpt2"), torch.nn.Linear(2, 2)]
)
def test_what_does_not_generate_says_so(model):
    with pytest.raises(ValueError, match=f"{type(model).__name__} does not generate: take load_causal_lm"):
        generate(model, tiny_tokenizer(), "good")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"prompts": 3}, "prompts are a text or a list of texts; given: 3"),
        ({"prompts": ["good", 3]}, "prompts are a text or a list of texts, but number 1 is 3"),
        ({"max_new_tokens": 0}, "max_new_tokens is a number of tokens, at least 1; given: 0"),
        ({"max_new_tokens": 2.5}, "max_new_tokens is a number of tokens, at least 1; given: 2.5"),
        ({"batch_size": 0}, "batch_size is a number of texts, at least 1; given: 0"),
        ({"num_return_sequences": 2}, "one continuation a prompt"),
        ({"temprature": 2}, "temprature"),
    ],
)
def test_arguments_that_cannot_work_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        generate(
            **{"model": model_of("gpt2"), "tokenizer": tiny_tokenizer(), "prompts": "good", "max_new_tokens": 4}
            | settings
        )

"""A soft prompt is read once: with a cache of any kind a model says what it says without one."""

import copy
import pickle

import pytest
import torch
import zoo
from test_methods import disturbed
from torch.testing import assert_close
from transformers import DynamicCache, StaticCache

from finetune_lessons.model_surgery import disable
from finetune_lessons.prompt_tuning import add_prompt

DECODERS = [arch for arch, kind in zoo.PAIRS if kind == "causal_lm"]
RECURRENT = ("mamba", "mamba2", "falcon_mamba", "rwkv", "jamba", "bamba", "zamba2", "recurrent_gemma")
UNMOVED = ("falcon", "gpt_neo")  # with a static cache they fail, or say something else, without a prompt too
pytestmark = pytest.mark.usefixtures("one_thread")


def a_model(arch: str):
    return disturbed(add_prompt(zoo.model(arch, "causal_lm"), 3)).eval()


def ids(length: int = 9) -> torch.Tensor:
    return torch.randint(7, zoo.VOCABULARY, (1, length), generator=torch.Generator().manual_seed(1))


def generated(model, text, new=6, **settings):
    "The new tokens, and the logits that they were chosen by."
    fixed = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0, "max_new_tokens": new}
    asked = {"output_logits": True, "return_dict_in_generate": True}
    mask = settings.pop("attention_mask", torch.ones_like(text))
    said = model.generate(input_ids=text, attention_mask=mask, **fixed | asked | settings)
    return said.sequences[:, text.shape[1] :], torch.stack(said.logits)


def assert_same(one, other):
    assert torch.equal(one[0], other[0])
    assert_close(one[1], other[1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("arch", DECODERS)
def test_a_cache_changes_nothing(arch):
    model = a_model(arch)
    without = generated(model, ids(), use_cache=False)
    assert_same(generated(model, ids()), without)
    with disable(model):
        assert (generated(model, ids())[1][0] - without[1][0]).abs().max() > 1e-3  # the prompt is read at all


@pytest.mark.parametrize("arch", [arch for arch in DECODERS if arch not in (*RECURRENT, *UNMOVED)])
def test_a_static_cache_has_room_for_the_prompt(arch):
    if arch == "bloom":
        zoo.needs_transformers("5.21", "bloom with a static cache and virtual tokens stops with an error")
    model = a_model(arch)
    assert_same(generated(model, ids(), cache_implementation="static"), generated(model, ids(), use_cache=False))


@pytest.mark.parametrize("arch", [arch for arch in DECODERS if arch not in (*RECURRENT, "mpt")])
def test_a_cache_goes_on_in_a_second_turn(arch):
    model, cache = a_model(arch), DynamicCache(config=zoo.config(arch))
    first, _ = generated(model, ids(), past_key_values=cache)
    assert cache.get_seq_length() == 9 + 5  # the text alone
    more = torch.cat([ids(), first, ids(4)], dim=1)
    kept = pickle.loads(pickle.dumps(copy.deepcopy(cache)))
    without = generated(model, more, use_cache=False)
    assert_same(generated(model, more, past_key_values=cache), without)
    assert_same(generated(model, more, past_key_values=kept), without)


@pytest.mark.parametrize("arch", ["gpt2", "llama", "bloom", "gemma2", "mistral", "opt"])
def test_tokens_are_guessed_ahead_from_the_text(arch):
    model, text = a_model(arch), ids().repeat(1, 2)
    assert torch.equal(
        generated(model, text, prompt_lookup_num_tokens=3)[0], generated(model, text, use_cache=False)[0]
    )


@pytest.mark.parametrize("arch", ["gpt2", "llama", "gemma2", "mamba", "mamba2", "jamba", "bart"])
@pytest.mark.parametrize("settings", [{"num_beams": 3}, {"do_sample": True}])
def test_several_continuations_of_a_text(arch, settings):
    kind = "causal_lm" if arch != "bart" else "seq2seq"
    model = disturbed(add_prompt(zoo.model(arch, kind), 3)).eval()
    said = []
    for use_cache in (True, False):
        torch.manual_seed(0)
        said.append(generated(model, ids(), num_return_sequences=3, use_cache=use_cache, **settings)[0])
    assert torch.equal(*said)


@pytest.mark.parametrize("arch", ["llama", "gpt2", "gemma2", "mistral", "mamba", "mamba2", "jamba", "bloom", "gpt_oss"])
def test_padding_on_the_left_stays_outside(arch):
    "The prompt stands between padding and text: for windows and recurrent layers it is as near as without padding."
    model, text = a_model(arch), ids()
    padded = torch.cat([torch.zeros_like(text[:, :4]), text[:, :5]], dim=1)
    batch = torch.cat([text, padded])
    tokens, logits = generated(model, batch, attention_mask=(batch > 0).long())
    assert_same((tokens[1:], logits[:, 1:]), generated(model, text[:, :5]))


def test_a_cache_that_holds_another_beginning_is_refused():
    plain = zoo.model("llama", "causal_lm")
    cache = plain(ids()).past_key_values
    model = add_prompt(plain, 3)
    with pytest.raises(ValueError, match="holds a text after 0 virtual tokens, but the model puts 3 in front"):
        model(ids(1), past_key_values=cache)
    cache = model(ids()).past_key_values
    with disable(model), pytest.raises(ValueError, match="after 3 virtual tokens, but the model puts 0"):
        model(ids(1), past_key_values=cache)
    with pytest.raises(ValueError, match="attention_mask has 9 tokens and input_ids 1.*use_cache=False"):
        model(ids(1), attention_mask=torch.ones(1, 9))
    full = StaticCache(config=model.config, max_cache_len=9)
    full.early_initialization(1, model.config.num_key_value_heads, 8, torch.float32, torch.device("cpu"))
    with pytest.raises(ValueError, match="static cache has its length already"):
        model(ids(), past_key_values=full)


def test_an_emptied_cache_is_a_new_one():
    zoo.needs_transformers("5.18", "an emptied cache keeps its length")
    model, cache = a_model("llama"), DynamicCache()
    with torch.no_grad():
        first = model(ids(), past_key_values=cache).logits
        cache.reset()
        assert cache.get_seq_length() == 0
        assert torch.equal(model(ids(), past_key_values=cache).logits, first)
        assert cache.get_seq_length() == 9

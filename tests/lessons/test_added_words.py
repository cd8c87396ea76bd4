"""Words added to the vocabulary: their rows are trained and kept with a method, or the loss of them is said."""

import json

import pytest
import tiny
import torch
from test_methods import disturbed
from torch.testing import assert_close

from finetune_lessons.adapters import add_adapters
from finetune_lessons.lora import add_lora
from finetune_lessons.model_surgery import TrainedCopy, disable, eject, load_method, save_method, unfreeze, wrappers
from finetune_lessons.prompt_tuning import add_prompt

pytestmark = pytest.mark.usefixtures("one_thread")
OLD = len(tiny.VOCABULARY)
NEW = OLD + 5
IDS = torch.tensor([[7, 50, NEW - 1, 9, NEW - 5, 3], [NEW - 3, 8, 60, NEW - 2, 11, 3]])
LANGUAGE_MODELS = {"bert": "masked_lm", "t5": "seq2seq", "bart": "seq2seq"}
every_architecture = pytest.mark.parametrize("arch", tiny.EVERY)


def resized(arch, kind=None, seed=0, **config):
    "A model with five new words, whose rows are random by the seed."
    model = tiny.tiny_model(arch, kind or LANGUAGE_MODELS.get(arch, "causal_lm"), **config)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model.resize_token_embeddings(NEW, mean_resizing=False)
    return model


def embedding(model):
    "The last part of the name of the module that holds the words."
    words = model.get_input_embeddings()
    return next(path for path, module in model.named_modules() if module is words).rpartition(".")[2]


def logits(model):
    inputs = {"input_ids": IDS}
    if model.config.is_encoder_decoder and not type(model).__name__.endswith("Classification"):
        inputs["decoder_input_ids"] = IDS
    with torch.no_grad():
        return model.eval()(**inputs).logits


def with_words(model, add=add_lora):
    head = ["classifier"] if type(model).__name__ == "BertForSequenceClassification" else []
    return add(model, modules_to_save=[embedding(model), *head])


@every_architecture
def test_words_are_trained_whole_and_kept_in_the_file(arch, tmp_path):
    model = resized(arch, "classifier")
    before = logits(model)
    disturbed(with_words(model))
    trained = logits(model)
    assert (trained - before).abs().max() > 1e-3
    with disable(model):
        assert torch.equal(logits(model), before)
    save_method(model, tmp_path)
    other = load_method(resized(arch, "classifier", seed=1), tmp_path)
    assert_close(logits(other), trained, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("arch", [*tiny.DECODERS, *LANGUAGE_MODELS])
@pytest.mark.parametrize("tied", [True, False])
def test_the_output_layer_goes_along_if_it_shares_the_weight(arch, tied, tmp_path):
    model = resized(arch, tie_word_embeddings=tied)
    shared = model.get_input_embeddings().weight is model.get_output_embeddings().weight  # T5 always is
    before = logits(model)
    disturbed(with_words(model))
    words, output = model.get_input_embeddings(), model.get_output_embeddings()
    assert isinstance(output, TrainedCopy) == shared and (words.weight is output.weight) == shared
    assert words.weight.requires_grad and len({*model.parameters()}) == len(list(model.parameters()))
    trained = logits(model)
    with disable(model):
        assert torch.equal(logits(model), before)
    save_method(model, tmp_path)
    assert_close(logits(load_method(resized(arch, seed=0, tie_word_embeddings=tied), tmp_path)), trained)
    eject(model, merge=True)
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == shared
    assert_close(logits(model), trained, rtol=1e-4, atol=1e-4)
    assert tiny.weights(model).keys() == tiny.weights(resized(arch, tie_word_embeddings=tied)).keys()


def test_an_output_layer_of_its_own_has_new_words_too(tmp_path):
    def model(seed):
        return resized("llama", seed=seed, tie_word_embeddings=False)

    save_method(add_lora(model(0), modules_to_save=["embed_tokens"]), tmp_path / "half")
    with pytest.raises(ValueError, match=r"modules_to_save=\['lm_head'\]"):
        load_method(model(1), tmp_path / "half")
    whole = disturbed(add_lora(model(0), modules_to_save=["embed_tokens", "lm_head"]))
    save_method(whole, tmp_path / "whole")
    assert_close(logits(load_method(model(1), tmp_path / "whole")), logits(whole))


@pytest.mark.parametrize("add", [add_lora, add_adapters, add_prompt])
def test_words_that_are_others_are_found_out(add, tmp_path):
    save_method(disturbed(add(resized("llama"))), tmp_path)
    assert load_method(resized("llama"), tmp_path)
    for other in (resized("llama", seed=1), resized("llama", seed=2)):
        with pytest.raises(ValueError, match=r"newest words are others.*modules_to_save=\['embed_tokens', 'lm_head'\]"):
            load_method(other, tmp_path)
        assert not wrappers(other) and all(p.requires_grad for p in other.parameters())


def test_a_model_without_the_words_is_told_to_take_them(tmp_path):
    save_method(add_lora(resized("llama")), tmp_path)
    with pytest.raises(
        ValueError, match=rf"a model of {NEW} words, this one has {OLD}: .*resize_token_embeddings\({NEW}\)"
    ):
        load_method(tiny.tiny_model("llama", "causal_lm"), tmp_path)


@pytest.mark.parametrize(("arch", "module"), [("llama", "embed_tokens"), ("bert", "word_embeddings"), ("gpt2", "wte")])
def test_what_is_trained_beside_a_method_is_not_lost_without_a_word(arch, module, tmp_path):
    model = add_lora(resized(arch))
    unfreeze(model, module)
    says = rf"{module}\.weight, one of 1, is trained too.*modules_to_save=\['{module}'\]"
    with pytest.raises(ValueError, match=says):
        save_method(model, tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_is_trained_inside_a_wrapper_is_named_without_it(tmp_path):
    model = add_lora(tiny.tiny_model("bert"))
    unfreeze(model, "layer.1.attention.self.query")
    with pytest.raises(
        ValueError, match=r"bert\.encoder\.layer\.1\.attention\.self\.query\.weight, one of 2, .*'query'"
    ):
        save_method(model, tmp_path)


def test_words_that_were_trained_and_frozen_again_are_found_out(tmp_path):
    model = add_lora(resized("qwen2"))
    with torch.no_grad():
        model.get_input_embeddings().weight[OLD:] += 0.5
    save_method(model, tmp_path)
    with pytest.raises(ValueError, match="newest words are others"):
        load_method(resized("qwen2"), tmp_path)


def test_a_module_is_not_wrapped_and_trained_whole_at_once():
    model = tiny.tiny_model("gpt2", "causal_lm")
    with pytest.raises(ValueError, match="lm_head is trained whole, it or one that shares its weight"):
        add_lora(model, target_modules=["lm_head"], modules_to_save=["wte"])
    assert not wrappers(model) and all(p.requires_grad for p in model.parameters())


def test_what_is_asked_of_a_trained_copy_is_its_own():
    model = disturbed(with_words(resized("llama")))
    words = model.get_input_embeddings()
    assert words.weight is words.copy.weight and not torch.equal(words.weight, words.base.weight)
    with disable(model):
        assert words.weight is words.base.weight
    add_adapters(model, modules_to_save=["embed_tokens"])  # around the first
    outer = model.get_input_embeddings()
    assert outer.weight is outer.copy.weight
    with disable(model, "adapters"):
        assert outer.weight is words.copy.weight


def test_a_file_that_says_less_of_its_model_is_of_an_earlier_version(tmp_path):
    save_method(add_lora(tiny.tiny_model("bert"), r=2), tmp_path)
    file = tmp_path / "method.json"
    described = json.loads(file.read_text())
    del described["format"]
    file.write_text(json.dumps(described))
    with pytest.raises(ValueError, match="was written by an earlier version, which said less of the model"):
        load_method(tiny.tiny_model("bert"), tmp_path)

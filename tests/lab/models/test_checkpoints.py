"""A load fills all of a model but for a new head, and says in a sentence when it would not."""

import json
import re

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny import ARCHITECTURES, DECODERS, EVERY, same_bits, tiny_model, tiny_tokenizer, weights

from finetune_lessons.adapters import add_adapters
from finetune_lessons.lab.models.loading import load_causal_lm, load_encoder, load_seq2seq
from finetune_lessons.lora import add_lora
from finetune_lessons.model_surgery import TrainedCopy, inject
from finetune_lessons.prefix_tuning import add_prefix
from finetune_lessons.prompt_tuning import add_prompt

pytestmark = pytest.mark.usefixtures("one_thread")
POOLER = ["pooler.dense.weight", "pooler.dense.bias"]
EMOTIONS = {0: "anger", 1: "joy", 2: "fear"}


def saved(model, folder, rename=lambda key: key):
    "Its folder, with the weights under other names."
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    file = folder / "model.safetensors"
    save_file({rename(key): tensor for key, tensor in load_file(file).items()}, file, metadata={"format": "pt"})
    return folder


def language_model(arch):
    kind = "seq2seq" if arch in ("t5", "bart") else "causal_lm" if arch in DECODERS else "masked_lm"
    return tiny_model(arch, kind)


# what may be new


@pytest.mark.parametrize("arch", EVERY)
@pytest.mark.parametrize("part", ["language model", "body"])
def test_the_head_is_all_that_is_new(arch, part, tmp_path):
    model = language_model(arch)
    if part == "body":
        model = model.base_model
    loaded, _ = load_encoder(saved(model, tmp_path), num_labels=3)
    body, before = weights(loaded.base_model), weights(model.base_model)
    assert loaded.config.num_labels == 3
    assert [key for key in body if key not in before or not torch.equal(body[key], before[key])] in ([], POOLER)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_new_head_is_what_transformers_makes_of_the_seed(arch, tmp_path):
    folder = saved(language_model(arch), tmp_path)
    torch.manual_seed(7)
    expected = transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3)
    assert same_bits(weights(load_encoder(folder, num_labels=3, seed=7)[0]), weights(expected))


def test_the_packaged_encoder_gets_two_outputs_and_the_same_head_as_ever():
    from finetune_lessons.lab.data.assets import asset_path

    torch.manual_seed(0)
    expected = transformers.AutoModelForSequenceClassification.from_pretrained(asset_path("minilm"), num_labels=2)
    assert same_bits(weights(load_encoder("minilm")[0]), weights(expected))


@pytest.mark.parametrize("load", [load_causal_lm, load_encoder])
def test_a_head_of_another_task_is_left_out(load, tmp_path):
    folder = saved(tiny_model("gpt2", "causal_lm" if load is load_encoder else "classifier"), tmp_path)
    assert load(folder)


# a head that was saved


@pytest.mark.parametrize("arch", EVERY)
def test_a_saved_head_and_its_names_are_kept(arch, tmp_path):
    model = tiny_model(arch, num_labels=3, id2label=EMOTIONS, label2id={name: i for i, name in EMOTIONS.items()})
    folder = saved(model, tmp_path)
    for loaded, _ in (load_encoder(folder), load_encoder(folder, num_labels=3)):
        assert same_bits(weights(loaded), weights(model))
        assert loaded.config.id2label == EMOTIONS


@pytest.mark.parametrize("number", [1, 2, 4])
def test_another_number_of_outputs_than_was_saved_is_refused_in_numbers(number, tmp_path):
    folder = saved(tiny_model("bert", num_labels=3, id2label=EMOTIONS), tmp_path)
    says = rf"saved with 3 outputs \(anger, joy, fear\), given: num_labels={number}\. .*new_head=True"
    with pytest.raises(ValueError, match=says):
        load_encoder(folder, num_labels=number)


@pytest.mark.parametrize("arch", EVERY)
def test_a_new_head_in_the_place_of_a_saved_one_keeps_nothing_of_it(arch, tmp_path):
    model = tiny_model(arch, num_labels=3, id2label=EMOTIONS, problem_type="multi_label_classification")
    folder = saved(model, tmp_path)
    fresh, _ = load_encoder(folder, num_labels=3, new_head=True, seed=4)
    other, _ = load_encoder(folder, num_labels=2, new_head=True, seed=4)
    assert same_bits(weights(fresh.base_model), weights(model.base_model))
    assert fresh.config.id2label == EMOTIONS and other.config.id2label == {0: "LABEL_0", 1: "LABEL_1"}
    assert other.config.problem_type is None
    outside = [name for name in weights(fresh) if not name.startswith(f"{fresh.base_model_prefix}.")]
    matrices = [name for name in outside if fresh.get_parameter(name).ndim == 2]  # biases and norms start alike
    assert matrices and not [n for n in matrices if torch.equal(weights(fresh)[n], weights(model)[n])]
    again, _ = load_encoder(folder, new_head=True, seed=5)
    assert not [name for name in matrices if torch.equal(weights(fresh)[name], weights(again)[name])]


@pytest.mark.parametrize("head", ["BertForTokenClassification", "BertForMultipleChoice"])
def test_a_head_of_the_same_name_but_another_task_is_not_taken(head, tmp_path):
    config = tiny_model("bert").config
    config.id2label = EMOTIONS
    model = getattr(transformers, head)(config)
    number = len(model.classifier.weight)
    loaded, _ = load_encoder(saved(model, tmp_path), num_labels=number)
    assert not torch.equal(loaded.classifier.weight, model.classifier.weight)
    assert loaded.config.id2label == {i: f"LABEL_{i}" for i in range(number)}
    assert load_encoder(tmp_path)[0].config.num_labels == 2


def test_a_classifier_whose_head_is_missing_is_refused(tmp_path):
    folder = saved(tiny_model("bert"), tmp_path, lambda key: key.replace("classifier", "old_classifier"))
    with pytest.raises(ValueError, match=r"lacks the head .*classifier\.bias, classifier\.weight.*new_head=True"):
        load_encoder(folder)
    assert load_encoder(folder, new_head=True)


def test_a_language_model_needs_its_head(tmp_path):
    with pytest.raises(ValueError, match=r"lacks the head of LlamaForCausalLM \(lm_head\.weight\): load_encoder gives"):
        load_causal_lm(saved(tiny_model("llama"), tmp_path))


# weights of something else


@pytest.mark.parametrize("wrapping", ["_orig_mod.", "module.", "module._orig_mod."])
@pytest.mark.parametrize("arch", ["bert", "llama"])
def test_weights_of_a_compiled_or_distributed_model_are_found(arch, wrapping, tmp_path):
    model = tiny_model(arch)
    loaded, _ = load_encoder(saved(model, tmp_path, lambda key: wrapping + key))
    assert same_bits(weights(loaded), weights(model))
    loaded.save_pretrained(tmp_path / "again")
    assert load_file(tmp_path / "again" / "model.safetensors").keys() == weights(model).keys()


def test_weights_of_a_model_with_one_compiled_part_are_found(tmp_path):
    model = language_model("gpt2")
    folder = saved(model, tmp_path, lambda key: key.replace("transformer.h.1.", "transformer.h.1._orig_mod."))
    assert same_bits(weights(load_causal_lm(folder)[0]), weights(model))


def copied_head(model):
    return inject(model, TrainedCopy, [], name="head")


@pytest.mark.parametrize("arch", ["bert", "gpt2", "qwen2"])
@pytest.mark.parametrize("add", [add_lora, add_adapters, add_prefix, add_prompt, copied_head])
def test_a_folder_that_holds_a_method_is_refused_with_the_way_out(add, arch, tmp_path):
    folder = saved(add(tiny_model(arch)), tmp_path)
    for new_head in (False, True):
        with pytest.raises(ValueError, match=r"while a method .*\.(lora|adapters|prefix|prompt|head)\.") as error:
            load_encoder(folder, new_head=new_head)
        assert all(name in str(error.value) for name in ("eject(model, merge=True)", "save_model", "save_method"))


@pytest.mark.parametrize(
    ("load", "kind", "arch"), [(load_causal_lm, "causal_lm", "gpt2"), (load_seq2seq, "seq2seq", "t5")]
)
def test_a_language_model_that_holds_a_method_is_refused(load, kind, arch, tmp_path):
    with pytest.raises(ValueError, match="while a method was in the model"):
        load(saved(add_lora(tiny_model(arch, kind)), tmp_path))


def test_names_of_another_library_are_refused_with_their_number(tmp_path):
    folder = saved(tiny_model("bert"), tmp_path, lambda key: key.replace("attention.self.query", "attn.q"))
    with pytest.raises(ValueError) as error:
        load_encoder(folder)
    assert re.search(r"the model lacks bert.*attention\.self\.query\.bias, .* and 1 more;", str(error.value))
    assert re.search(r"the weights have besides .*attn\.q\.bias, .* and 1 more\. .*save_model", str(error.value))


@pytest.mark.parametrize(("layers", "says"), [(1, "the weights have besides"), (3, "the model lacks")])
def test_another_depth_than_the_configuration_says_is_refused(layers, says, tmp_path):
    folder = saved(language_model("bert"), tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": layers}))
    with pytest.raises(ValueError, match=says):
        load_encoder(folder)


def test_another_width_than_the_configuration_says_is_refused_in_numbers(tmp_path):
    folder = saved(language_model("bert"), tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 110}))
    with pytest.raises(ValueError, match=r"embeddings.weight has the shape \(103, 32\), expected \(110, 32\)"):
        load_encoder(folder)

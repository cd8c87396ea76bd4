"""Naming, freezing, wrapping and unwrapping parts of a model; the files of a method."""

import json
import pickle
import shutil

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from test_methods import disturbed, logits
from torch import nn

from finetune_lessons.adapters import BottleneckAdapter, add_adapters, sublayers
from finetune_lessons.lora import LoRALinear, add_lora, merge_lora, unmerge_lora
from finetune_lessons.model_surgery import (
    TrainedCopy,
    Wrapper,
    activate,
    disable,
    eject,
    find_modules,
    freeze,
    inject,
    layer_groups,
    load_method,
    save_method,
    saved_megabytes,
    trainable_parameters,
    unfreeze,
    wrappers,
)
from finetune_lessons.prefix_tuning import add_prefix, drop_reparametrization, init_prefix, prefixes
from finetune_lessons.prompt_tuning import Verbalizer, add_prompt, init_prompt, nearest_words, soft_prompt

pytestmark = pytest.mark.usefixtures("one_thread")


class Doubled(Wrapper):
    def change(self, output, *inputs):
        return 2 * output


@pytest.fixture
def model():
    return tiny.tiny_model("bert", num_hidden_layers=12)


# names


def test_a_name_means_a_path_or_its_last_parts(model):
    assert len(find_modules(model, ["query", "value"])) == 24
    assert list(find_modules(model, "layer.1")) == ["bert.encoder.layer.1"]  # and neither layer.10 nor layer.11
    assert list(find_modules(model, "layer.1.attention.self.query")) == ["bert.encoder.layer.1.attention.self.query"]
    assert len(find_modules(model, "attention.output.dense")) == 12
    assert len(find_modules(model, "output.dense")) == 24


def test_a_name_that_matches_nothing_raises_and_lists_those_that_there_are(model):
    with pytest.raises(ValueError, match=r"'values'; there are: .*query, key, value"):
        find_modules(model, ["query", "values"])


def test_wrapped_modules_keep_their_names(model):
    before = list(find_modules(model, ["query", "value"]))
    add_lora(add_adapters(model))
    assert list(find_modules(model, ["query", "value"])) == before


# freezing


def test_freezing_and_unfreezing_by_name(model):
    freeze(model)
    assert trainable_parameters(model).empty
    unfreeze(model, ["layer.11", "classifier"])
    table = trainable_parameters(model)
    assert all("layer.11." in name or name.startswith("classifier") for name in table.index)
    assert table["parameters"].sum() == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert table.loc["classifier.weight", "shape"] == (2, 32)
    assert table["share"].sum() == pytest.approx(table["parameters"].sum() / sum(p.numel() for p in model.parameters()))


@pytest.mark.parametrize("arch", tiny.EVERY)
def test_layer_groups_hold_every_parameter_once_from_input_to_output(arch):
    model = tiny.tiny_model(arch)
    groups = layer_groups(model)
    layers = 4 if arch in tiny.ENCODER_DECODERS else 2
    assert list(groups)[0] == "embeddings" and list(groups)[-1] == "head" and len(groups) == layers + 2
    assert sorted(name for names in groups.values() for name in names) == sorted(n for n, _ in model.named_parameters())
    assert all(names for names in groups.values())
    assert {name.split(".")[0] for name in groups["embeddings"]} == {model.base_model_prefix}


def test_a_model_without_layers_has_no_groups():
    with pytest.raises(ValueError, match="Linear has no transformer layers"):
        layer_groups(nn.Linear(2, 2))


# wrapping


def test_a_second_method_of_the_same_name_is_refused_and_the_model_untouched(model):
    add_lora(model)
    before = tiny.weights(model)
    with pytest.raises(ValueError, match="already holds 'lora'"):
        add_lora(model)
    assert tiny.same_bits(tiny.weights(model), before)


@pytest.mark.parametrize("name", ["", "a b", "../lora", "a.b"])
def test_names_of_methods_are_plain(model, name):
    with pytest.raises(ValueError, match="letters, digits"):
        add_lora(model, name=name)


@pytest.mark.parametrize(
    ("add", "says"),
    [
        (lambda m: add_lora(m, r=0), "r is a rank"),
        (lambda m: add_lora(m, target_modules=["word_embeddings"]), "LoRA goes around .* given: Embedding"),
        (lambda m: add_adapters(m, placement="everywhere"), "houlsby, pfeiffer, parallel"),
        (lambda m: add_adapters(m, bottleneck_size=0), "at least 1"),
        (lambda m: add_adapters(m, activation="gelo"), "gelo"),
        (lambda m: add_prefix(m, num_virtual_tokens=0), "at least 1"),
        (lambda m: add_prompt(m, num_virtual_tokens=0), "at least 1"),
        (lambda m: add_lora(m, modules_to_save=["clasifier"]), "clasifier"),
    ],
)
def test_arguments_that_cannot_work_are_refused_and_the_model_untouched(model, add, says):
    before = tiny.weights(model)
    with pytest.raises(ValueError, match=says):
        add(model)
    assert tiny.same_bits(tiny.weights(model), before) and not wrappers(model)
    assert all(p.requires_grad for p in model.parameters())


def test_an_unknown_architecture_is_named_with_a_way_out():
    with pytest.raises(ValueError, match="Sequential .* target_modules="):
        sublayers(nn.Sequential(nn.Linear(2, 2)))


def test_any_wrapper_works_on_any_module(model):
    before = logits(model)
    inject(model, Doubled, ["bert.pooler.dense"], modules_to_save=[])
    assert not torch.equal(logits(model), before)
    with pytest.raises(ValueError, match="Doubled cannot be merged"):
        eject(model, merge=True)
    assert wrappers(model)
    eject(model)
    assert torch.equal(logits(model), before)


def test_a_new_head_is_trained_and_that_of_a_language_model_is_not():
    classifier, lm = add_lora(tiny.tiny_model("llama")), add_lora(tiny.tiny_model("llama", "causal_lm"))
    assert [path for w, path in wrappers(classifier).items() if isinstance(w, TrainedCopy)] == ["score"]
    assert not [w for w in wrappers(lm) if isinstance(w, TrainedCopy)]
    body = add_lora(tiny.tiny_model("bert").bert)
    assert all(isinstance(w, LoRALinear) for w in wrappers(body))


def test_several_methods_of_a_kind_are_switched_and_stacked(model):
    before = logits(model)
    disturbed(add_adapters(model, 4, name="films"))
    films = logits(model)
    add_adapters(model, 4, name="shops", seed=1)
    activate(model, "shops")
    assert torch.equal(logits(model), before)  # fresh adapters, and a fresh head
    assert {w.name for w in wrappers(model) for p in w.own_parameters().values() if p.requires_grad} == {"shops"}
    disturbed(model)
    shops = logits(model)
    activate(model, "films")
    assert torch.equal(logits(model), films)
    activate(model, "films", "shops")
    assert not torch.equal(logits(model), films) and not torch.equal(logits(model), shops)
    eject(model, "shops")
    assert torch.equal(logits(model), films)
    with pytest.raises(ValueError, match="nothing called 'shops'; it holds: films"):
        activate(model, "shops")


def test_disable_switches_back_after_an_error(model):
    disturbed(add_lora(model))
    trained = logits(model)
    with pytest.raises(KeyError), disable(model):
        raise KeyError
    assert torch.equal(logits(model), trained)


def test_two_loras_add_up_and_merge(model):
    disturbed(add_lora(add_lora(model), name="second", seed=1))
    both = logits(model)
    with disable(model, "second"):
        assert not torch.equal(logits(model), both)
    eject(model, merge=True)
    assert torch.allclose(logits(model), both, atol=1e-4) and not wrappers(model)


def test_of_two_loras_on_a_layer_only_the_one_that_is_on_is_merged(model):
    disturbed(add_lora(add_lora(model, name="first"), name="second", seed=1))
    activate(model, "second")
    second = logits(model)
    merge_lora(model, "second")
    assert torch.allclose(logits(model), second, atol=1e-4)
    unmerge_lora(model, "second")
    with pytest.raises(ValueError, match="'second' lies around 'first'"):
        eject(model, "second", merge=True)
    assert torch.equal(logits(model), second)
    eject(model, merge=True)
    assert torch.allclose(logits(model), second, atol=1e-4) and not wrappers(model)


def test_a_merged_lora_is_one_product_and_unmerges_to_the_bit(model):
    disturbed(add_lora(model))
    trained = logits(model)
    merge_lora(model)
    assert torch.allclose(logits(model), trained, atol=1e-5)
    with pytest.raises(RuntimeError, match="unmerge_lora"):
        model.train()(input_ids=torch.tensor([[7, 8]]))
    unmerge_lora(model)
    assert torch.equal(logits(model), trained)


def test_adapters_leave_the_size_of_the_bottleneck_to_the_caller(model):
    add_adapters(model, 5, placement="pfeiffer", activation="relu")
    found = [w for w in wrappers(model) if isinstance(w, BottleneckAdapter)]
    assert len(found) == 12 and {tuple(w.down.weight.shape) for w in found} == {(5, 32)}


# files


@pytest.fixture
def saved(tmp_path):
    save_method(disturbed(add_lora(tiny.tiny_model("bert"))), tmp_path / "saved")
    return tmp_path / "saved"


def change_json(folder, **changes):
    file = folder / "method.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def drop_tensor(folder):
    tensors = load_file(folder / "method.safetensors")
    tensors.pop(next(iter(tensors)))
    save_file(tensors, folder / "method.safetensors")


def pickled(folder):
    (folder / "method.safetensors").write_bytes(pickle.dumps({"weight": [1.0]}))


def linked_outside(folder):
    shutil.move(folder / "method.safetensors", folder.parent / "elsewhere")
    (folder / "method.safetensors").symlink_to(folder.parent / "elsewhere")


def truncated(folder):
    file = folder / "method.safetensors"
    file.write_bytes(file.read_bytes()[:-40])


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (drop_tensor, "has the shape None, expected"),
        (pickled, "or it is damaged"),
        (truncated, "or it is damaged"),
        (linked_outside, "leads out of its folder"),
        (lambda folder: (folder / "method.json").unlink(), r"no method\.json"),
        (lambda folder: (folder / "method.json").write_text("[]"), "or it is damaged"),
        (lambda folder: (folder / "method.json").write_text("{"), "or it is damaged"),
        (lambda folder: change_json(folder, method="os.system"), "known are add_lora"),
        (lambda folder: change_json(folder, arguments={"rank": 3}), "does not fit"),
        (lambda folder: change_json(folder, arguments={"r": 3, "name": "lora"}), "has the shape"),
        (lambda folder: change_json(folder, arguments={"r": "four"}), "does not fit"),
        (lambda folder: change_json(folder, name="../lora"), "letters, digits"),
        (lambda folder: change_json(folder, model={}), "made for another model"),
        (lambda folder: change_json(folder, arguments=[]), "does not fit"),
        (lambda folder: change_json(folder, method=["add_lora"]), "known are add_lora"),
        (lambda folder: change_json(folder, name=3), "its name is 3"),
    ],
)
def test_a_damaged_file_is_a_clear_error_and_the_model_untouched(saved, damage, says):
    damage(saved)
    model = tiny.tiny_model("bert")
    before, random = tiny.weights(model), torch.get_rng_state()
    with pytest.raises(ValueError, match=says):
        load_method(model, saved)
    assert tiny.same_bits(tiny.weights(model), before) and not wrappers(model)
    assert all(p.requires_grad for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize(
    "other",
    [
        lambda: tiny.tiny_model("bert", seed=1),
        lambda: tiny.tiny_model("bert", num_hidden_layers=3),
        lambda: tiny.tiny_model("roberta"),
        lambda: tiny.tiny_model("bert", "masked_lm"),
    ],
)
def test_a_file_of_another_model_is_refused(saved, other):
    with pytest.raises(ValueError, match="made for another model"):
        load_method(other(), saved)


def test_a_method_of_ones_own_is_not_loaded_by_its_name(tmp_path):
    model = inject(tiny.tiny_model("bert"), BottleneckAdapter, ["query"], name="own")
    save_method(model, tmp_path)
    with pytest.raises(ValueError, match="made by a method of your own; known are add_lora"):
        load_method(tiny.tiny_model("bert"), tmp_path)


def test_a_file_loads_into_the_same_model_in_half_precision(saved):
    assert wrappers(load_method(tiny.tiny_model("bert").bfloat16(), saved))


def test_a_file_loads_under_another_name_beside_the_first(saved):
    model = load_method(load_method(tiny.tiny_model("bert"), saved), saved, name="again")
    assert {wrapper.name for wrapper in wrappers(model)} == {"lora", "again"}
    with pytest.raises(ValueError, match="already holds 'lora'"):
        load_method(model, saved)
    with pytest.raises(ValueError, match="say which method: the model holds again, lora"):
        save_method(model, saved)


def test_a_save_that_fails_leaves_the_last_one_whole(saved, monkeypatch):
    before = {file.name: file.read_bytes() for file in saved.iterdir()}

    def full(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="no space"):
        save_method(disturbed(add_lora(tiny.tiny_model("bert"), r=2)), saved)
    assert {file.name: file.read_bytes() for file in saved.iterdir()} == before


def test_the_size_of_what_is_kept():
    run = tiny.tiny_run(add_lora(tiny.tiny_model("bert")))
    parameters = sum(p.numel() for p in run.model.parameters() if p.requires_grad)
    assert 4 * parameters < saved_megabytes(run)["file_mb"] * 1e6 < 4 * parameters + 10_000
    full = saved_megabytes(tiny.tiny_run())["file_mb"] * 1e6
    assert full > 4 * sum(p.numel() for p in tiny.tiny_model("bert").parameters())


# with a run


@pytest.mark.parametrize(
    ("add", "lr"), [(add_lora, 1e-2), (add_adapters, 1e-2), (add_prefix, 3e-2), (add_prompt, 3e-2)]
)
def test_a_run_learns_with_every_method_and_resumes_to_the_bit(add, lr, tmp_path):
    def new():
        return add(tiny.tiny_model("bert"))

    whole = tiny.tiny_run(new(), lr=lr, epochs=6)
    whole_losses = [step.loss for step in whole]
    assert sum(whole_losses[-8:]) < 0.95 * sum(whole_losses[:8])
    run = tiny.tiny_run(new(), lr=lr, epochs=6)
    first = [next(run).loss for _ in range(5)]
    run.save(tmp_path / "run")
    again = type(run).resume(tmp_path / "run", new(), tiny.tiny_tokenizer(), tiny.tiny_tokens(), loss=run.loss)
    assert first + [step.loss for step in again] == whole_losses


# prefixes


def test_a_prefix_starts_from_a_real_text(model):
    ids = torch.randint(7, 100, (1, 9))
    add_prefix(model.eval(), 6)
    init_prefix(model, ids)
    (first, *_) = prefixes(model).values()
    with disable(model):
        hidden = model.bert.embeddings(ids)
        expected = first.base.key(hidden)[0, :6].view(6, 4, 8).transpose(0, 1)
    assert torch.allclose(first.table[0], expected, atol=1e-6)
    with pytest.raises(ValueError, match="at least 6 tokens"):
        init_prefix(model, ids[:, :5])


def test_the_network_behind_a_prefix_can_be_dropped(model, tmp_path):
    disturbed(add_prefix(model, 6, reparametrization=16))
    before = logits(model)
    drop_reparametrization(model)
    assert torch.equal(logits(model), before)
    assert {path.rpartition(".")[2] for path, _ in model.named_parameters() if "attention.self" in path} >= {"table"}
    assert not [name for name, _ in model.named_parameters() if "trunk" in name or "branch" in name]
    save_method(model, tmp_path)
    assert torch.equal(logits(load_method(tiny.tiny_model("bert", num_hidden_layers=12), tmp_path)), before)


def test_an_error_inside_the_attention_leaves_the_model_as_it_was(model):
    implementation = model.config._attn_implementation
    expected = logits(add_prefix(model))
    (first, *_) = prefixes(model).values()
    hook = first.base.value.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        logits(model)
    hook.remove()
    assert model.config._attn_implementation == implementation
    assert torch.equal(logits(model), expected)


@pytest.mark.parametrize("arch", ["bert", "gpt2", "llama", "t5"])
def test_a_prefix_is_the_same_in_eager_attention(arch):
    model = disturbed(add_prefix(tiny.tiny_model(arch)))
    fused = logits(model)
    model.set_attn_implementation("eager")
    assert torch.allclose(logits(model), fused, atol=1e-5)


# prompts


def test_a_prompt_starts_from_real_words_and_finds_them_again(model):
    words = [tiny.VOCABULARY[word] for word in ("good", "bad", "dull")]
    add_prompt(model, 5)
    init_prompt(model, words)
    assert torch.equal(soft_prompt(model).vectors[:3], model.bert.embeddings.word_embeddings.base.weight[words])
    assert torch.equal(soft_prompt(model).vectors[3], soft_prompt(model).vectors[0])
    table = nearest_words(model, tiny.tiny_tokenizer(), k=2)
    assert table[1].tolist() == ["good", "bad", "dull", "good", "bad"]
    assert table["cosine"].tolist() == pytest.approx([1.0] * 5)


def test_a_prompt_needs_words_and_room():
    model = add_prompt(tiny.tiny_model("bert"), 20)
    with pytest.raises(ValueError, match="goes before input_ids; given: inputs_embeds"):
        model(inputs_embeds=torch.zeros(1, 3, 32))
    with pytest.raises(ValueError, match="65 tokens with the soft prompt; the model takes 64"):
        model(input_ids=torch.full((1, 45), 7))
    with pytest.raises(ValueError, match="has a soft prompt already"):
        add_prompt(model, name="second")
    with pytest.raises(ValueError, match="no soft prompt"):
        soft_prompt(tiny.tiny_model("bert"))


def test_a_run_leaves_room_for_the_prompt():
    data = tiny.tiny_data(train=8)
    data["train"] = data["train"].map(lambda row: {"text": " ".join([row["text"]] * 20)})
    run = tiny.tiny_run(add_prompt(tiny.tiny_model("bert"), 20), data)
    assert run.splits["train"].lengths[""].max() == 44
    next(run)


@pytest.mark.parametrize(
    ("arch", "side"), [("bert", "right"), *((arch, side) for arch in tiny.DECODERS for side in ("right", "left"))]
)
@pytest.mark.parametrize("prompt", [False, True])
def test_a_verbalizer_reads_the_class_words_at_the_place_of_the_answer(arch, side, prompt):
    lm = tiny.tiny_model(arch, "masked_lm" if arch == "bert" else "causal_lm").eval()
    if prompt:
        add_prompt(lm, 4)
    tokenizer = tiny.tiny_tokenizer(padding_side=side)
    texts = ["word1 good word2 [MASK]", "bad [MASK]"]
    batch = tokenizer(texts, return_tensors="pt", padding=True, return_token_type_ids=False)
    model = Verbalizer(lm, tokenizer, ["bad", "good"])
    with torch.no_grad():
        together = model(**batch).logits
        for row, text in enumerate(texts):
            alone = tokenizer([text], return_tensors="pt", return_token_type_ids=False)
            place = -1 if arch != "bert" else alone["input_ids"][0].tolist().index(tokenizer.mask_token_id)
            whole = lm(**alone).logits[0, place, [tiny.VOCABULARY["bad"], tiny.VOCABULARY["good"]]]
            assert torch.allclose(together[row], whole, atol=1e-5)


def test_what_a_verbalizer_cannot_read_is_refused():
    with pytest.raises(ValueError, match="'very good' has 2"):
        Verbalizer(tiny.tiny_model("gpt2", "causal_lm"), tiny.tiny_tokenizer(), ["bad", "very good"])
    with pytest.raises(ValueError, match="encoder-decoder"):
        Verbalizer(tiny.tiny_model("t5", "seq2seq"), tiny.tiny_tokenizer(), ["bad", "good"])

"""Files know the plain names of a model that holds a method, and say what they are."""

import importlib.metadata
import json
import shutil
import warnings
from copy import deepcopy
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file
from test_methods import METHODS, disturbed, every_architecture, every_method, logits, texts
from torch import nn
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments

from finetune_lessons.lab.models.loading import load_encoder
from finetune_lessons.lora import add_lora
from finetune_lessons.model_surgery import (
    disable,
    eject,
    load_method,
    method_parameters,
    push_method,
    save_method,
    wrappers,
)

pytestmark = pytest.mark.usefixtures("one_thread")
OF_FORMAT_1 = Path(__file__).parent / "method_of_format_1"


@every_architecture
@every_method
def test_a_state_dict_is_that_of_the_plain_model_and_what_the_method_added(arch, method):
    plain = tiny.tiny_model(arch).state_dict()
    model = disturbed(METHODS[method](tiny.tiny_model(arch)))
    state = model.state_dict()
    (name,) = {wrapper.name for wrapper in wrappers(model)}
    assert all(torch.equal(state[key], plain[key]) for key in plain)
    more = state.keys() - plain.keys()
    assert more and all(f".{name}." in key for key in more)
    assert {id_of(state[key]) for key in more} == {id_of(p) for p in method_parameters(model, name).values()}

    again = METHODS[method](tiny.tiny_model(arch, seed=3))
    assert not any(again.load_state_dict(state))
    assert torch.equal(logits(again), logits(model))


def id_of(tensor):
    return tensor.data_ptr(), tensor.numel()


@every_architecture
@every_method
def test_a_folder_of_a_model_with_a_method_is_the_plain_model_for_others(arch, method, tmp_path):
    model = disturbed(METHODS[method](tiny.tiny_model(arch)))
    model.save_pretrained(tmp_path)
    others = type(model).from_pretrained(tmp_path, num_labels=2)  # which BART's configuration does not write
    with disable(model):
        assert torch.equal(logits(others), logits(model))


def test_two_methods_one_around_the_other_keep_their_own_names():
    model = disturbed(add_lora(add_lora(tiny.tiny_model("bert"), name="a"), name="b"))
    query = "bert.encoder.layer.0.attention.self.query"
    assert {f"{query}.weight", f"{query}.a.A", f"{query}.b.A"} <= model.state_dict().keys()
    again = add_lora(add_lora(tiny.tiny_model("bert", seed=5), name="a", seed=9), name="b", seed=9)
    assert not any(again.load_state_dict(model.state_dict()))
    assert torch.equal(logits(again), logits(model))
    with pytest.raises(RuntimeError, match="Unexpected key"):
        tiny.tiny_model("bert").load_state_dict(model.state_dict())


def test_a_folder_with_a_method_inside_is_refused_where_the_method_would_be_lost(tmp_path):
    add_lora(tiny.tiny_model("bert")).save_pretrained(tmp_path)
    tiny.tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"was saved while a method was in the model .*eject\(model, merge=True\)"):
        load_encoder(tmp_path)


def trainer(model, folder, **settings):
    ids = torch.randint(7, 100, (16, 6), generator=torch.Generator().manual_seed(0))
    ids[:, -1] = tiny.VOCABULARY["[SEP]"]
    rows = [{"input_ids": row, "attention_mask": torch.ones(6), "labels": int(row[0] > 50)} for row in ids]
    arguments = TrainingArguments(
        str(folder), per_device_train_batch_size=4, num_train_epochs=2, learning_rate=3e-2, save_strategy="epoch",
        eval_strategy="epoch", report_to=[], disable_tqdm=True, use_cpu=True, seed=0, **settings,
    )  # fmt: skip
    return Trainer(model, arguments, train_dataset=rows, eval_dataset=rows)


@every_method
@pytest.mark.parametrize("arch", ["bert", "gpt2", "t5"])
def test_trainer_saves_resumes_and_loads_the_best(arch, method, tmp_path):
    def new(seed=0):
        return METHODS[method](tiny.tiny_model(arch, dropout=False, seed=seed))

    whole = trainer(new(), tmp_path / "whole")
    whole.train()
    resumed = trainer(new(), tmp_path / "again")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4"))
    assert torch.equal(logits(resumed.model), logits(whole.model))

    losses = [row["eval_loss"] for row in whole.state.log_history if "eval_loss" in row]
    first = {"metric_for_best_model": "eval_loss", "greater_is_better": losses[0] > losses[1]}
    best = trainer(new(), tmp_path / "best", load_best_model_at_end=True, **first)
    best.train()
    kept = new(seed=7)
    kept.load_state_dict(load_file(tmp_path / "whole" / "checkpoint-4" / "model.safetensors"), strict=False)
    assert best.state.best_model_checkpoint.endswith("checkpoint-4")
    assert torch.equal(logits(best.model), logits(kept)) and not torch.equal(logits(best.model), logits(whole.model))


@every_method
def test_trainer_trains_beside_half_precision(method, tmp_path):
    model = METHODS[method](tiny.tiny_model("bert", dropout=False).bfloat16())
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    trainer(model, tmp_path).train()
    assert all(p.isfinite().all() for p in model.parameters())
    assert {name for name, p in model.named_parameters() if not torch.equal(p, before[name])} == trained


def test_a_file_says_its_format_its_versions_and_its_base(tmp_path):
    model = tiny.tiny_model("bert")
    model.save_pretrained(tmp_path / "base")
    save_method(add_lora(AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")), tmp_path / "lora")
    described = json.loads((tmp_path / "lora" / "method.json").read_text())
    assert described["format"] == 1 and described["base"] == str(tmp_path / "base")
    assert described["transformers_version"] and described["finetune_lessons_version"] and described["torch_version"]


def test_a_checkout_that_nobody_installed_saves_too(tmp_path, monkeypatch):
    def not_installed(name):
        raise importlib.metadata.PackageNotFoundError(name)

    found = importlib.metadata.distribution
    monkeypatch.setattr(
        importlib.metadata, "distribution", lambda name: (not_installed if name == "finetune_lessons" else found)(name)
    )
    save_method(add_lora(tiny.tiny_model("bert")), tmp_path)
    assert json.loads((tmp_path / "method.json").read_text())["finetune_lessons_version"]


@pytest.mark.parametrize(("format", "says"), [(2, "format 2, known are 1 to 1: update"), ("1", "format 1, known")])
def test_a_file_of_a_later_version_says_so(format, says, tmp_path):
    save_method(add_lora(tiny.tiny_model("bert")), tmp_path)
    file = tmp_path / "method.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": format}))
    with pytest.raises(ValueError, match=says):
        load_method(tiny.tiny_model("bert"), tmp_path)


@pytest.mark.parametrize("method", ["LoRA", "parallel", "prefix", "prompt"])
def test_a_file_of_the_first_format_is_read_by_every_later_version(method):
    "The files stay as they were written, and with them what the model answered then."
    model = load_method(tiny.tiny_model("bert"), OF_FORMAT_1 / method)
    expected = load_file(OF_FORMAT_1 / method / "logits.safetensors")["logits"]
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)


def test_a_method_fits_another_kind_of_model_with_the_same_body(tmp_path):
    language = tiny.tiny_model("bert", "masked_lm")
    save_method(disturbed(add_lora(language)), tmp_path)
    classifier = tiny.tiny_model("bert", seed=4)
    body = {key: value for key, value in language.bert.state_dict().items() if ".lora." not in key}
    classifier.bert.load_state_dict(body, strict=False)
    load_method(classifier, tmp_path)
    for ours, theirs in zip(*(hidden(model) for model in (classifier, language)), strict=True):
        assert torch.equal(ours, theirs)
    assert classifier.classifier.weight.requires_grad and len(method_parameters(classifier, "lora")) == 10

    save_method(classifier, tmp_path)
    with pytest.raises(ValueError, match="this model: no module of BertForMaskedLM is called 'classifier'"):
        load_method(eject(language), tmp_path)


def hidden(model):
    with torch.no_grad():
        return model.eval().bert(**texts(), output_hidden_states=True).hidden_states


def test_a_method_is_saved_from_and_loaded_into_wrapped_models(tmp_path):
    class Distributed(nn.parallel.DistributedDataParallel):
        def __init__(self, module):
            nn.Module.__init__(self)
            self.module = module

    model = disturbed(add_lora(tiny.tiny_model("bert")))
    save_method(Distributed(model), tmp_path / "distributed")
    save_method(torch.compile(model), tmp_path / "compiled")
    for folder in ("distributed", "compiled"):
        other = load_method(Distributed(tiny.tiny_model("bert")), tmp_path / folder)
        assert torch.equal(logits(other.module), logits(model))


def test_a_copy_of_a_model_is_a_model_of_its_own():
    for method in METHODS.values():
        model = disturbed(method(tiny.tiny_model("bert")))
        copy = deepcopy(model)
        before = logits(model)
        assert torch.equal(logits(copy), before)
        disturbed(copy)
        assert torch.equal(logits(model), before) and not torch.equal(logits(copy), before)


def test_a_method_goes_to_the_hub_and_comes_back(tmp_path, monkeypatch):
    import huggingface_hub

    made = {}

    def create_repo(self, repo_id, private, exist_ok):
        made[repo_id] = private

    def upload_folder(self, repo_id, folder_path):
        shutil.copytree(folder_path, tmp_path / repo_id)

    def snapshot_download(repo_id, allow_patterns, local_dir):
        for name in allow_patterns:
            shutil.copy(tmp_path / repo_id / name, local_dir)

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create_repo)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload_folder)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    model = disturbed(add_lora(tiny.tiny_model("bert")))
    assert push_method(model, "somebody/films", private=True).endswith("/somebody/films")
    assert made == {"somebody/films": True}
    assert torch.equal(logits(load_method(tiny.tiny_model("bert"), "somebody/films")), logits(model))


def test_a_name_that_neither_disk_nor_hub_knows_is_a_sentence(tmp_path):
    with pytest.raises(ValueError, match="there is no folder nobody/nothing, and the hub does not give it"):
        load_method(tiny.tiny_model("bert"), "nobody/nothing")
    with pytest.raises(ValueError, match="holds no saved method"):
        load_method(tiny.tiny_model("bert"), tmp_path / "nothing")


def test_nothing_is_said_while_a_method_is_saved_and_loaded(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_method(add_lora(tiny.tiny_model("bert")), tmp_path)
        load_method(tiny.tiny_model("bert"), tmp_path)

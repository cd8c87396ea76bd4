"""A saved model is a plain one: for transformers, and for us."""

import pytest
import torch
import transformers
from safetensors.torch import load_file
from tiny import DECODERS, ENCODER_DECODERS, EVERY, same_bits, tiny_model, tiny_tokenizer, weights

from finetune_lessons.adapters import add_adapters
from finetune_lessons.lab.models.loading import load_causal_lm, load_encoder, load_seq2seq
from finetune_lessons.lab.models.saving import save_model
from finetune_lessons.lora import add_lora
from finetune_lessons.model_surgery import eject
from finetune_lessons.multitask import MultiTaskModel
from finetune_lessons.prefix_tuning import add_prefix
from finetune_lessons.prompt_tuning import add_prompt

pytestmark = pytest.mark.usefixtures("one_thread")
NAMES = {0: "angry", 1: "glad", 2: "afraid"}
IDS = torch.tensor([[2, 20, 30, 3], [2, 40, 50, 3]])


def named(arch="bert"):
    return tiny_model(arch, num_labels=3, id2label=NAMES, label2id={name: i for i, name in NAMES.items()}).eval()


def logits(model):
    with torch.no_grad():
        return model.eval()(IDS).logits


@pytest.mark.parametrize("arch", EVERY)
def test_a_classifier_comes_back_to_the_bit_with_its_names(arch, tmp_path, capfd):
    model = named(arch).train()
    save_model(model, tiny_tokenizer(), tmp_path / "new" / "folder")
    assert model.training
    loaded, tokenizer = load_encoder(tmp_path / "new" / "folder")
    assert torch.equal(logits(loaded), logits(model)) and same_bits(weights(loaded), weights(model))
    assert loaded.config.id2label == NAMES and tokenizer.get_vocab() == tiny_tokenizer().get_vocab()
    assert "".join(capfd.readouterr()) == ""


@pytest.mark.parametrize("arch", [*DECODERS, *ENCODER_DECODERS])
@pytest.mark.parametrize("tied", [True, False])
def test_a_language_model_comes_back_to_the_bit_with_its_settings(arch, tied, tmp_path):
    seq2seq = arch in ENCODER_DECODERS
    model = tiny_model(arch, "seq2seq" if seq2seq else "causal_lm", tie_word_embeddings=tied)
    model.generation_config.repetition_penalty = 1.25
    save_model(model, tiny_tokenizer(), tmp_path)
    loaded, _ = (load_seq2seq if seq2seq else load_causal_lm)(tmp_path)
    assert same_bits(weights(loaded), weights(model))
    assert loaded.generation_config.repetition_penalty == 1.25


def test_what_was_loaded_and_saved_is_read_by_a_pipeline(tmp_path):
    save_model(named(), tiny_tokenizer(), tmp_path / "once")
    save_model(*load_encoder(tmp_path / "once"), tmp_path / "twice")
    said = transformers.pipeline("text-classification", str(tmp_path / "twice"), device="cpu")("good word1", top_k=None)
    assert {row["label"] for row in said} == set(NAMES.values())
    expected = logits(load_encoder(tmp_path / "once")[0])
    assert expected.shape == (2, 3)


def wrapped(how):
    model = named()
    if how == "compiled part":
        model.bert.encoder = torch.compile(model.bert.encoder)
    elif how == "compiled":
        return model, torch.compile(model)
    elif how == "parallel":
        return model, torch.nn.DataParallel(model)
    return model, model


@pytest.mark.parametrize("how", ["compiled", "compiled part", "parallel"])
def test_a_wrapped_model_is_saved_unwrapped(how, tmp_path):
    model, given = wrapped(how)
    save_model(given, tiny_tokenizer(), tmp_path)
    keys = load_file(tmp_path / "model.safetensors").keys()
    assert keys == weights(named()).keys()
    assert same_bits(weights(load_encoder(tmp_path)[0]), weights(named()))


def test_half_precision_stays_half(tmp_path):
    save_model(named().bfloat16(), tiny_tokenizer(), tmp_path)
    assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} == {torch.bfloat16}


# what is not plain


@pytest.mark.parametrize("arch", ["bert", "gpt2", "t5"])
@pytest.mark.parametrize("add", [add_lora, add_adapters, add_prefix, add_prompt])
def test_a_model_that_holds_a_method_is_refused_and_nothing_written(add, arch, tmp_path):
    model = add(named(arch))
    with pytest.raises(ValueError, match=r"eject\(model, merge=True\), or write it by save_method"):
        save_model(model, tiny_tokenizer(), tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize("arch", EVERY)
def test_a_merged_model_is_plain(arch, tmp_path):
    model = add_lora(named(arch))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    eject(model, merge=True)
    save_model(model, tiny_tokenizer(), tmp_path)
    assert torch.equal(logits(load_encoder(tmp_path)[0]), logits(model))


def test_a_resized_model_is_plain_and_a_cut_one_is_not(tmp_path):
    model = named("gpt2")
    model.resize_token_embeddings(110)
    save_model(model, tiny_tokenizer(), tmp_path)
    assert torch.equal(logits(load_encoder(tmp_path)[0]), logits(model))
    del model.transformer.h[1]
    with pytest.raises(ValueError, match="is not what its configuration makes"):
        save_model(model, tiny_tokenizer(), tmp_path)


def test_what_transformers_does_not_know_is_named(tmp_path):
    model = MultiTaskModel(tiny_model("bert").bert, {"a": 2})
    with pytest.raises(ValueError, match="models of transformers; given: MultiTaskModel"):
        save_model(model, tiny_tokenizer(), tmp_path)


def test_a_folder_with_an_adapter_that_would_be_loaded_on_top_is_refused(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="loaded on top of this model"):
        save_model(named(), tiny_tokenizer(), tmp_path)


# whole or not at all


@pytest.mark.parametrize("error", [OSError("no space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("when", ["weights", "tokenizer"])
def test_a_save_that_fails_leaves_the_last_one_whole(error, when, tmp_path, monkeypatch):
    save_model(named(), tiny_tokenizer(), tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def fails(*_, **__):
        raise error

    tokenizer = tiny_tokenizer()
    if when == "weights":
        monkeypatch.setattr("transformers.modeling_utils.safe_save_file", fails)
    else:
        monkeypatch.setattr(tokenizer, "save_pretrained", fails)
    with pytest.raises(type(error)):
        save_model(tiny_model("bert"), tokenizer, tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_another_model_takes_the_place_of_the_first_and_other_files_stay(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    save_model(named(), tiny_tokenizer(), tmp_path)
    save_model(tiny_model("gpt2", num_labels=2), tiny_tokenizer(), tmp_path)
    assert load_encoder(tmp_path)[0].config.model_type == "gpt2"
    assert (tmp_path / "notes.txt").read_text() == "mine"

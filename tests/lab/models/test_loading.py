"""Models load quietly, with a head that the seed fixes, or say in one sentence why not."""

import logging
import random
from io import StringIO

import numpy as np
import pytest
import torch
from tiny import ARCHITECTURES, DECODERS, same_bits, tiny_data, tiny_model, tiny_run, tiny_tokenizer, weights

from finetune_lessons.lab.models import loading as models
from finetune_lessons.lab.models.loading import load_causal_lm, load_encoder, load_seq2seq
from finetune_lessons.lab.models.new_modules import new_modules
from finetune_lessons.lab.training.batches import model_inputs

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("models")
    for arch in ARCHITECTURES:
        kind = "seq2seq" if arch == "t5" else "causal_lm" if arch in DECODERS else "masked_lm"
        tiny_model(arch, kind).half().save_pretrained(root / arch)
        tiny_tokenizer().save_pretrained(root / arch)
    return root


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_gets_a_head_that_the_seed_fixes(arch, folders, capfd):
    a, b, other = (load_encoder(folders / arch, num_labels=3, seed=seed)[0] for seed in (7, 7, 8))
    assert same_bits(weights(a), weights(b))
    differing = {name for name, tensor in weights(a).items() if not torch.equal(tensor, weights(other)[name])}
    assert differing and all("score" in name or "classif" in name or "pooler" in name for name in differing)
    assert {p.dtype for p in a.parameters()} == {torch.float32} and a.config.num_labels == 3
    assert "".join(capfd.readouterr()) == ""
    model, tokenizer = load_encoder(str(folders / arch))
    assert len(list(tiny_run(model, tiny_data(8), tokenizer=tokenizer, epochs=1))) == 1


def test_language_models_keep_their_heads(folders, capfd):
    for arch in (*DECODERS, "t5"):
        model, tokenizer = (load_seq2seq if arch == "t5" else load_causal_lm)(folders / arch)
        saved = tiny_model(arch, "seq2seq" if arch == "t5" else "causal_lm").half().float()
        assert same_bits(weights(model), weights(saved))
        assert model.generate(torch.tensor([[5, 7]]), max_new_tokens=3).ndim == 2
    assert "".join(capfd.readouterr()) == ""


def test_loading_leaves_the_random_numbers_of_the_process_alone(folders):
    def drawn(work) -> list:
        torch.manual_seed(1), np.random.seed(1), random.seed(1)
        work()
        return [torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()]

    assert drawn(lambda: load_encoder(folders / "bert", seed=5)) == drawn(lambda: None)


def test_bars_are_as_before(folders):
    from transformers.utils import logging

    for bars in (False, True):
        (logging.enable_progress_bar if bars else logging.disable_progress_bar)()
        load_encoder(folders / "bert")
        assert logging.is_progress_bar_enabled() == bars


@pytest.mark.parametrize("propagate", [False, True])  # transformers' own choice goes by the variable CI
def test_what_is_decided_here_is_not_said_and_anything_else_comes_through(monkeypatch, propagate):
    said = StringIO()
    library, handler = logging.getLogger("transformers"), logging.StreamHandler(said)
    monkeypatch.setattr(library, "propagate", propagate)
    monkeypatch.setattr(library, "handlers", [])
    monkeypatch.setattr(logging.getLogger() if propagate else library, "handlers", [handler])
    logger = logging.getLogger("transformers.tokenization_utils")
    with models.quiet():
        for notice in models.DECIDED_HERE:
            logger.warning(f"... {notice} ...")
        logger.warning("This will lead to incorrect tokenization.")
    logger.warning(f"afterwards {models.DECIDED_HERE[0]}")
    assert "incorrect tokenization" in said.getvalue() and "afterwards" in said.getvalue()
    assert "..." not in said.getvalue() and not handler.filters


def test_weights_that_were_saved_apart_stay_apart(tmp_path):
    model = tiny_model("gpt2", "causal_lm", tie_word_embeddings=False)
    model.save_pretrained(tmp_path), tiny_tokenizer().save_pretrained(tmp_path)
    config = (tmp_path / "config.json").read_text()
    assert '"tie_word_embeddings": false' in config
    (tmp_path / "config.json").write_text(config.replace('"tie_word_embeddings": false', '"tie_word_embeddings": true'))
    assert same_bits(weights(load_causal_lm(tmp_path)[0]), weights(model))


def test_a_padding_token_is_found_where_there_is_none(tmp_path):
    tokenizer, model = tiny_tokenizer(), tiny_model("gpt2", "causal_lm")
    tokenizer.pad_token, model.config.pad_token_id = None, None
    tokenizer.save_pretrained(tmp_path), model.save_pretrained(tmp_path)
    model, tokenizer = load_encoder(tmp_path)
    assert tokenizer.pad_token == "[EOS]" and tokenizer.pad_token_id == model.config.pad_token_id == 6


# what cannot be loaded


@pytest.mark.parametrize("load", [load_encoder, load_causal_lm, load_seq2seq])
def test_an_unknown_name_lists_the_packaged_ones(load, tmp_path):
    for name in ("no-such-org/no-such-model", str(tmp_path / "nowhere"), "minilm2"):
        with pytest.raises(ValueError, match="minilm, smollm2") as error:
            load(name)
        assert repr(name) in str(error.value)


def test_a_data_set_is_no_model():
    with pytest.raises(ValueError, match="'news' is a data set; packaged models: minilm, smollm2, e5"):
        load_encoder("news")


def test_a_model_of_another_kind_is_refused(folders):
    for load, arch in ((load_causal_lm, "t5"), (load_seq2seq, "bert")):
        with pytest.raises(ValueError, match=f"could not load .*{arch}"):
            load(folders / arch)


@pytest.mark.parametrize("arch", ["bert", "roberta", "electra"])
def test_an_encoder_is_no_causal_model(arch, folders):
    with pytest.raises(ValueError, match=f"{arch}' is no causal language model: .*load_encoder"):
        load_causal_lm(folders / arch)


def test_the_packaged_encoder_is_no_causal_model():
    with pytest.raises(ValueError, match="'minilm' lacks the head of BertLMHeadModel .*: load_encoder gives it one"):
        load_causal_lm("minilm")


@pytest.mark.parametrize("arch", ["bert", "roberta", "electra"])
def test_an_encoder_made_a_decoder_is_a_causal_model(arch, tmp_path):
    tiny_model(arch, "causal_lm", is_decoder=True).save_pretrained(tmp_path), tiny_tokenizer().save_pretrained(tmp_path)
    assert load_causal_lm(tmp_path)[0].config.is_decoder


def test_weights_that_are_not_safetensors_are_refused(folders, tmp_path):
    model = tiny_model("bert", "masked_lm")
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="with weights in safetensors from a folder"):
        load_encoder(tmp_path)


@pytest.mark.parametrize("damage", ["empty", "cut", "config"])
def test_a_damaged_folder_is_refused_in_words(damage, tmp_path):
    tiny_model("bert").save_pretrained(tmp_path), tiny_tokenizer().save_pretrained(tmp_path)
    weights_file = tmp_path / "model.safetensors"
    if damage == "empty":
        weights_file.write_bytes(b"")
    elif damage == "cut":
        weights_file.write_bytes(weights_file.read_bytes()[:-10])
    else:
        (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="could not load"):
        load_encoder(tmp_path, num_labels=2)


@pytest.mark.parametrize("number", [0, -1])
def test_a_head_needs_outputs(number):
    with pytest.raises(ValueError, match=f"at least 1 .*given: {number}"):
        load_encoder("minilm", num_labels=number)


# the packaged ones


def test_minilm_loads_with_a_new_head_and_reads(capfd):
    model, tokenizer = load_encoder("minilm", num_labels=2, seed=0)
    assert "".join(capfd.readouterr()) == ""
    assert 22e6 < model.num_parameters() < 23e6 and model.config.num_hidden_layers == 6
    batch = tokenizer(["A film.", "Another film that is longer."], padding=True, return_tensors="pt")
    assert model.eval()(**model_inputs(batch)).logits.shape == (2, 2)
    words = model.bert.embeddings.word_embeddings.weight
    king, queen, bread = (words[tokenizer.convert_tokens_to_ids(word)] for word in ("king", "queen", "bread"))
    assert torch.cosine_similarity(king, queen, 0) > torch.cosine_similarity(king, bread, 0)


def test_e5_loads_with_a_new_pooler_and_a_new_head_which_a_method_trains():
    (model, tokenizer), (other, _) = (load_encoder("e5", num_labels=3, seed=seed) for seed in (0, 1))
    differing = {name for name, tensor in weights(model).items() if not torch.equal(tensor, weights(other)[name])}
    assert differing == {"bert.pooler.dense.weight", "classifier.weight"}  # biases begin at 0
    assert new_modules(model) == ["bert.pooler", "classifier"]
    batch = tokenizer(["这本书很好。", "A film that is longer."], padding=True, return_tensors="pt")
    assert model.eval()(**model_inputs(batch)).logits.shape == (2, 3)


def test_smollm2_knows_some_geography(capfd):
    model, tokenizer = load_causal_lm("smollm2")
    assert "".join(capfd.readouterr()) == ""
    batch = tokenizer("The capital of France is", return_tensors="pt")
    with torch.no_grad():
        (likeliest,) = model(**model_inputs(batch)).logits[:, -1].argmax(-1)
    assert tokenizer.decode(likeliest).strip() == "Paris" and tokenizer.pad_token_id is not None

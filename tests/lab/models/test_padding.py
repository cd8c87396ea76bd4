"""A model and its tokenizer mean the same padding, however they were saved."""

import pytest
import torch
from tiny import DECODERS, EVERY, SPECIAL, VOCABULARY, tiny_model, tiny_tokenizer

from finetune_lessons.lab.models.loading import load_causal_lm, load_encoder, load_seq2seq

pytestmark = pytest.mark.usefixtures("one_thread")
TEXTS = ["good", "word1 word2 word3 word4 bad", "word5 fine word6", "word7 word8 word9 word10 word11 word12 dull"]


def saved(folder, model, pad_token="[PAD]"):
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = pad_token
    model.save_pretrained(folder), tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("arch", EVERY)
@pytest.mark.parametrize("number", [None, 0, 4, 9])
def test_both_name_one_token(arch, number, tmp_path):
    if arch in ("roberta", "t5", "bart") and number is None:
        number = 8  # they cannot be built without
    model, tokenizer = load_encoder(saved(tmp_path, tiny_model(arch, pad_token_id=number)))
    assert tokenizer.pad_token_id == model.config.pad_token_id is not None


@pytest.mark.parametrize("arch", DECODERS)
def test_a_decoder_finds_the_last_token_before_the_padding(arch, tmp_path):
    model, tokenizer = load_encoder(saved(tmp_path, tiny_model(arch, pad_token_id=VOCABULARY["[MASK]"])))
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        together = model.eval()(**batch).logits
        alone = torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in TEXTS])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_a_model_that_counts_from_its_padding_keeps_its_answers(tmp_path):
    model = tiny_model("roberta", pad_token_id=1).eval()
    ids = torch.tensor([[2, 20, 30, 3]])
    loaded, tokenizer = load_encoder(saved(tmp_path, model))
    assert tokenizer.pad_token_id == 1 and tokenizer.pad_token == SPECIAL["unk_token"]
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, model(ids).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("number", [-1, 5000])
def test_a_number_that_no_token_has_is_no_padding(number, tmp_path):
    folder = saved(tmp_path, tiny_model("llama"), pad_token=None)
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"pad_token_id": 0', f'"pad_token_id": {number}'))
    if number > 0:  # beyond the vocabulary a model cannot be built
        with pytest.raises(ValueError, match="could not load"):
            load_encoder(folder)
        return
    model, tokenizer = load_encoder(folder)
    assert tokenizer.pad_token == "[EOS]" and model.config.pad_token_id == VOCABULARY["[EOS]"]


def test_a_tokenizer_without_padding_takes_the_models(tmp_path):
    model, tokenizer = load_causal_lm(saved(tmp_path, tiny_model("gpt2", "causal_lm", pad_token_id=4), pad_token=None))
    assert tokenizer.pad_token == "[MASK]"
    assert model.config.pad_token_id == model.generation_config.pad_token_id == 4


def test_a_tokenizer_with_neither_padding_nor_end_is_refused(tmp_path):
    model, tokenizer = tiny_model("gpt2"), tiny_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token = model.config.pad_token_id = None
    model.save_pretrained(tmp_path), tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="neither a padding token nor an end of text.*pad_token = "):
        load_encoder(tmp_path)


def test_an_encoder_decoder_keeps_the_token_that_it_starts_with(tmp_path):
    model, tokenizer = load_seq2seq(saved(tmp_path, tiny_model("t5", "seq2seq"), pad_token="[MASK]"))
    assert model.config.pad_token_id == tokenizer.pad_token_id == 4 and model.config.decoder_start_token_id == 0

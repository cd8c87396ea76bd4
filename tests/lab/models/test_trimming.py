"""A model with fewer words says of the texts that they were taken from what it said before, to the bit."""

import string

import pytest
import torch
import transformers
from tiny import (
    ARCHITECTURES,
    DECODERS,
    ENCODERS,
    EVERY,
    same_bits,
    tiny_data,
    tiny_model,
    tiny_rows,
    tiny_run,
    tiny_tokenizer,
    weights,
)
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from finetune_lessons.lab.data.datasets import load_data
from finetune_lessons.lab.models.loading import load_causal_lm, load_encoder
from finetune_lessons.lab.models.new_modules import new_modules
from finetune_lessons.lab.models.saving import save_model
from finetune_lessons.lab.models.trimming import trim_vocabulary
from finetune_lessons.lab.training.batches import model_inputs
from finetune_lessons.lora import add_lora

pytestmark = pytest.mark.usefixtures("one_thread")

TEXTS = ["good film word1 word2", "bad word1", "word3 dull good good unheardof"]


def logits(model, tokenizer, texts=TEXTS) -> torch.Tensor:
    batch = tokenizer(list(texts), padding=True, return_tensors="pt")
    with torch.no_grad():
        return model.eval()(**model_inputs(batch)).logits


def near(a: torch.Tensor, b: torch.Tensor) -> bool:
    "What is read from a file lies elsewhere in the memory, and is added up in another order."
    return torch.allclose(a, b, rtol=0, atol=1e-6)


def pieces(tokenizer, text: str) -> list[str]:
    return tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids)


def vocabulary_of(model) -> int:
    return len(model.get_input_embeddings().weight)


# the model


@pytest.mark.parametrize("arch", EVERY)
def test_a_classifier_says_the_same_with_fewer_words(arch):
    model, tokenizer = tiny_model(arch), tiny_tokenizer()
    before, old = weights(model), logits(model, tokenizer)
    small, fewer = trim_vocabulary(model, tokenizer, TEXTS)
    assert torch.equal(logits(small, fewer), old)
    assert vocabulary_of(small) == small.config.vocab_size == len(fewer) == 7 + 6  # special tokens, and words
    assert same_bits(weights(model), before) and len(tokenizer) == vocabulary_of(model) == 103
    assert len(list(tiny_run(small, tiny_data(8), tokenizer=fewer, epochs=1))) == 1


KINDS = [*((arch, "masked_lm") for arch in ENCODERS), *((arch, "causal_lm") for arch in DECODERS)]
KINDS += [("bert", "causal_lm"), ("t5", "seq2seq"), ("bart", "seq2seq")]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("arch", "kind"), KINDS)
def test_a_language_model_gives_each_word_that_is_left_the_logit_it_had(arch, kind, tied):
    model, tokenizer = tiny_model(arch, kind, tie_word_embeddings=tied).eval(), tiny_tokenizer()
    small, fewer = trim_vocabulary(model, tokenizer, TEXTS)
    batches = (t(TEXTS, padding=True, return_tensors="pt") for t in (tokenizer, fewer))
    old, new = (m(**model_inputs(b), **_decoded(m, b)).logits for m, b in zip((model, small), batches, strict=True))
    kept = tokenizer.convert_tokens_to_ids(fewer.convert_ids_to_tokens(range(len(fewer))))
    assert torch.equal(new, old[..., kept]) and len(kept) == 13
    ties = [m.get_output_embeddings().weight is m.get_input_embeddings().weight for m in (model, small)]
    assert ties[0] == ties[1] == (tied or arch == "t5") and small.num_parameters() < model.num_parameters()


def _decoded(model, batch):
    return {"decoder_input_ids": batch["input_ids"]} if model.config.is_encoder_decoder else {}


@pytest.mark.parametrize("arch", EVERY)
def test_special_tokens_are_called_what_they_were(arch):
    model, tokenizer = tiny_model(arch, "seq2seq" if arch in ("t5", "bart") else "classifier"), tiny_tokenizer()
    small, fewer = trim_vocabulary(model, tokenizer, TEXTS)
    pairs = [[getattr(m, name, m.config) for m in (model, small)] for name in ("config", "generation_config")]
    for old, new in pairs:
        for name, number in vars(old).items():
            if name.endswith("_token_id") and number is not None:
                known = tokenizer.convert_ids_to_tokens(number)
                assert fewer.convert_ids_to_tokens(getattr(new, name)) == known, name


def test_numbers_in_the_configuration_move_with_their_words():
    model = tiny_model("llama", "causal_lm", eos_token_id=[6, 40], bos_token_id=50)
    model.generation_config.forced_eos_token_id = 45
    small, fewer = trim_vocabulary(model, tiny_tokenizer(), TEXTS)
    words = fewer.convert_ids_to_tokens
    old = tiny_tokenizer().convert_ids_to_tokens
    assert words(small.config.eos_token_id) == old([6, 40]) and words(small.config.bos_token_id) == old(50)
    assert words(small.generation_config.forced_eos_token_id) == old(45)
    assert model.config.eos_token_id == [6, 40] and model.generation_config.forced_eos_token_id == 45


def test_mode_freezing_type_and_what_is_new_are_as_they_were(tmp_path):
    tiny_model("bert", "masked_lm").save_pretrained(tmp_path), tiny_tokenizer().save_pretrained(tmp_path)
    model, tokenizer = load_encoder(tmp_path)
    model.eval().bfloat16().classifier.float()
    model.bert.embeddings.word_embeddings.weight.requires_grad_(False)
    small, _ = trim_vocabulary(model, tokenizer, TEXTS)
    assert not small.training and trim_vocabulary(model.train(), tokenizer, TEXTS)[0].training
    of = {name: (p.dtype, p.requires_grad) for name, p in model.named_parameters()}
    assert {name: (p.dtype, p.requires_grad) for name, p in small.named_parameters()} == of
    assert new_modules(small) == new_modules(model) == ["bert.pooler", "classifier"]
    assert not {p.data_ptr() for p in small.parameters()} & {p.data_ptr() for p in model.parameters()}


def test_it_draws_nothing():
    torch.manual_seed(0)
    expected = torch.rand(3).tolist()
    torch.manual_seed(0)
    trim_vocabulary(tiny_model("bert"), tiny_tokenizer(), TEXTS)
    assert torch.rand(3).tolist() == expected


@pytest.mark.parametrize("arch", [arch for arch in ARCHITECTURES if arch != "qwen2"])  # which has its own tokenizer
def test_it_is_saved_and_loaded_as_any_other(arch, tmp_path):
    small, fewer = trim_vocabulary(tiny_model(arch), tiny_tokenizer(), TEXTS)
    save_model(small, fewer, tmp_path)
    model, tokenizer = load_encoder(tmp_path)
    assert near(logits(model, tokenizer), logits(small, fewer)) and len(tokenizer) == 13
    again, fewest = trim_vocabulary(model, tokenizer, TEXTS[:1])
    assert near(logits(again, fewest, TEXTS[:1]), logits(model, tokenizer, TEXTS[:1])) and len(fewest) == 10


def test_what_is_left_is_said(capsys):
    trim_vocabulary(tiny_model("bert"), tiny_tokenizer(), TEXTS)
    said = capsys.readouterr().out
    assert said.startswith("trim_vocabulary: kept 13 of 103 words and 0.0 of 0.0 million parameters; ")
    assert said.endswith("11.76% of the tokens of these texts are unknown, as before.\n")  # 2 of 17: film, unheardof


# the tokenizer

WORDS = "the film is a moving one and the acting moves nobody who films films filming it, acted unaffectedly".split()
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
NAMED = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), SPECIAL, strict=True))


def trained(kind: str) -> PreTrainedTokenizerFast:
    "A tokenizer of about 150 pieces that has learnt some English."
    corpus = [" ".join(WORDS[i:] + WORDS[:i]) + f" {string.ascii_letters}{string.digits}" for i in range(len(WORDS))]
    sizes = {"vocab_size": 150, "special_tokens": SPECIAL, "show_progress": False}
    if kind == "Unigram":
        scores = {piece: -2.0 - len(piece) % 3 - i / 50 for i, piece in enumerate(_substrings(corpus[0]))}
        tokenizer = Tokenizer(models.Unigram([(s, 0.0) for s in SPECIAL] + list(scores.items()), 3))
        tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        tokenizer.add_special_tokens(SPECIAL)
    elif kind == "WordPiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
        tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
        tokenizer.train_from_iterator(corpus, trainers.WordPieceTrainer(**sizes))
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
        sizes |= {"vocab_size": 330, "initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
        tokenizer.train_from_iterator(corpus, trainers.BpeTrainer(**sizes))
    ends = [("<s>", 0), ("</s>", 2)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=ends
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **NAMED)


def _substrings(text: str) -> list[str]:
    words = [f"▁{word}" for word in text.split()]
    return sorted(
        {word[i:j] for word in words for i in range(len(word)) for j in range(i + 1, min(i + 6, len(word) + 1))}
    )


def model_for(tokenizer):
    named = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), tokenizer.pad_token_id)
    return tiny_model("bert", vocab_size=len(tokenizer), **named)


@pytest.mark.parametrize("kind", ["Unigram", "WordPiece", "BPE"])
def test_texts_are_cut_into_the_same_pieces(kind):
    tokenizer = trained(kind)
    texts = ["the film moves nobody", "acting, films and filming", "unaffectedly xyz moved"]
    small, fewer = trim_vocabulary(model_for(tokenizer), tokenizer, texts)
    assert len(fewer) < len(tokenizer) - 30
    for text in texts:
        assert pieces(fewer, text) == pieces(tokenizer, text)
        assert fewer.decode(fewer(text).input_ids) == tokenizer.decode(tokenizer(text).input_ids)
    assert pieces(fewer, "film")[0] == "<s>" and pieces(fewer, "film")[-1] == "</s>"
    assert fewer.convert_ids_to_tokens(fewer("the", "film").input_ids).count("</s>") == 2


@pytest.mark.parametrize("kind", ["Unigram", "WordPiece", "BPE"])
def test_other_words_in_the_same_letters_are_read_and_other_letters_are_unknown(kind):
    tokenizer = trained(kind)
    _, fewer = trim_vocabulary(model_for(tokenizer), tokenizer, ["the film moves"])
    assert "<unk>" not in pieces(fewer, "them") + pieces(fewer, "vest hot film flim mites ilsef")
    if kind == "BPE":
        assert fewer.decode(fewer("quäck 世").input_ids, skip_special_tokens=True) == " quäck 世"  # of bytes
    else:
        assert "<unk>" in pieces(fewer, "quack") and "<unk>" not in pieces(tokenizer, "quack")


@pytest.mark.parametrize("kind", ["Unigram", "WordPiece", "BPE"])
def test_a_tokenizer_that_was_saved_reads_the_same(kind, tmp_path):
    tokenizer = trained(kind)
    small, fewer = trim_vocabulary(model_for(tokenizer), tokenizer, ["the film moves nobody", "acted"])
    save_model(small, fewer, tmp_path)
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in ("the film moves nobody", "the unseen film", "acted <mask> acted"):
        assert loaded(text).input_ids == fewer(text).input_ids
    assert loaded.mask_token_id == fewer.mask_token_id == fewer.convert_tokens_to_ids("<mask>")


def unigram(vocabulary: dict[str, float]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.Unigram([(s, 0.0) for s in SPECIAL] + list(vocabulary.items()), 3))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(SPECIAL)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **NAMED)


def test_what_an_unknown_character_costs_is_as_before():
    tokenizer = unigram({"xy": -17.0, "z": -17.0, "yz": -1.0, "unused": -25.0, "abc": -2.0})
    assert pieces(tokenizer, "xyz yz") == ["xy", "z", "yz"]  # dearer unknown: at -27 it would be <unk>, yz
    _, fewer = trim_vocabulary(model_for(tokenizer), tokenizer, ["xyz yz"])
    assert pieces(fewer, "xyz yz") == ["xy", "z", "yz"] and len(fewer) == 5 + 4


def test_a_piece_of_bpe_is_made_of_the_parts_it_was_made_of():
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate([*SPECIAL, *"abcd", "ab", "abc", "cd", "abcd", "da"])},
                                     [("a", "b"), ("ab", "c"), ("abc", "d"), ("c", "d"), ("d", "a")]))  # fmt: skip
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **NAMED)
    assert pieces(tokenizer, "abcd") == ["abcd"]
    _, fewer = trim_vocabulary(model_for(tokenizer), tokenizer, ["abcd"])
    assert pieces(fewer, "abcd") == ["abcd"] and set(fewer.get_vocab()) == {*SPECIAL, *"abcd", "ab", "abc", "abcd"}


def test_bytes_of_a_fallback_are_kept():
    in_bytes = [f"<0x{byte:02X}>" for byte in range(256)]
    words = {piece: i for i, piece in enumerate([*SPECIAL, *in_bytes, *"abcd", "ab", "cd"])}
    bpe = Tokenizer(models.BPE(words, [("a", "b"), ("c", "d")], unk_token="<unk>", byte_fallback=True))
    bpe.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    bpe.add_special_tokens(SPECIAL)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, **NAMED)
    _, fewer = trim_vocabulary(model_for(tokenizer), tokenizer, ["ab"])
    assert fewer.decode(fewer("ab世d").input_ids) == "ab世d" and "cd" not in fewer.get_vocab()


PROCESSORS = {
    "bert": processors.BertProcessing(("[SEP]", 39), ("[CLS]", 38)),
    "roberta": processors.RobertaProcessing(("[SEP]", 39), ("[CLS]", 38)),
    "several": processors.Sequence([processors.ByteLevel(), processors.BertProcessing(("[SEP]", 39), ("[CLS]", 38))]),
    "none": None,
}


@pytest.mark.parametrize("processor", PROCESSORS)
def test_whatever_puts_special_tokens_around_a_text_goes_on_doing_so(processor):
    words = ["[PAD]", "[UNK]", *(f"w{i}" for i in range(36)), "[CLS]", "[SEP]", "[MASK]", "good"]
    order = {word: number for number, word in enumerate(words)}
    backend = Tokenizer(models.WordLevel(order, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if PROCESSORS[processor] is not None:
        backend.post_processor = PROCESSORS[processor]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", sep_token="[SEP]"
    )
    tokenizer.add_special_tokens({"cls_token": "[CLS]", "mask_token": "[MASK]"})
    _, fewer = trim_vocabulary(model_for(tokenizer), tokenizer, ["good w7"])
    expected = ["good", "w7"] if processor == "none" else ["[CLS]", "good", "w7", "[SEP]"]
    assert pieces(fewer, "good w7") == pieces(tokenizer, "good w7") == expected and len(fewer) == 7


def test_words_that_were_added_to_a_vocabulary_are_kept():
    tokenizer, model = tiny_tokenizer(), tiny_model("bert")
    tokenizer.add_tokens(["unheardof", AddedToken("[HERE]", special=True)])
    model.resize_token_embeddings(len(tokenizer))
    old = logits(model, tokenizer)
    small, fewer = trim_vocabulary(model, tokenizer, TEXTS)
    assert torch.equal(logits(small, fewer), old)
    assert fewer.convert_ids_to_tokens([13, 14]) == ["unheardof", "[HERE]"] and fewer.unk_token_id == 1


def test_rows_that_no_word_has_go():
    tokenizer, model = tiny_tokenizer(), tiny_model("bert", vocab_size=128)
    small, fewer = trim_vocabulary(model, tokenizer, TEXTS)
    assert torch.equal(logits(small, fewer), logits(model, tokenizer)) and vocabulary_of(small) == len(fewer) == 13


def test_padding_and_cutting_of_earlier_calls_change_nothing():
    tokenizer = tiny_tokenizer()
    tokenizer(TEXTS, padding="max_length", truncation=True, max_length=4)
    _, fewer = trim_vocabulary(tiny_model("bert"), tokenizer, TEXTS)
    assert pieces(fewer, TEXTS[0]) == pieces(tokenizer, TEXTS[0]) and len(fewer) == 13
    _, fewer = trim_vocabulary(tiny_model("bert"), tokenizer, [" ".join(f"word{i}" for i in range(80))])
    assert len(fewer) == 87, "a text longer than the model takes has words, too"


# what cannot be


def test_a_text_that_would_be_cut_otherwise_is_named():
    words = {piece: i for i, piece in enumerate([*SPECIAL, "abc", "ab", "x", "##cd"])}
    backend = Tokenizer(models.WordPiece(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **NAMED)
    assert pieces(tokenizer, "abcd ab xcd") == ["<unk>", "ab", "x", "##cd"]  # abc, and nothing for the d
    with pytest.raises(ValueError, match="with fewer pieces the tokenizer cuts 'abcd' otherwise"):
        trim_vocabulary(model_for(tokenizer), tokenizer, ["ab xcd", "abcd"])


@pytest.mark.parametrize("vocabulary", [102, 103 + 1025])
def test_a_tokenizer_of_another_model_is_refused(vocabulary):
    with pytest.raises(
        ValueError, match=rf"the tokenizer has 103 pieces and the model embeds {vocabulary:,}: it is not"
    ):
        trim_vocabulary(tiny_model("bert", vocab_size=vocabulary), tiny_tokenizer(), TEXTS)


def test_a_model_with_a_method_in_it_is_refused():
    with pytest.raises(ValueError, match="is not what its configuration makes .*: trim the vocabulary first"):
        trim_vocabulary(add_lora(tiny_model("bert")), tiny_tokenizer(), TEXTS)


def test_what_is_no_model_of_transformers_is_refused():
    with pytest.raises(ValueError, match="trim_vocabulary takes a model of transformers; given: Linear"):
        trim_vocabulary(torch.nn.Linear(2, 2), tiny_tokenizer(), TEXTS)


def test_a_tokenizer_of_another_library_is_refused():
    class Slow:
        pad_token_id = 0

    with pytest.raises(ValueError, match="Slow is not of the library tokenizers"):
        trim_vocabulary(tiny_model("bert"), Slow(), TEXTS)


@pytest.mark.parametrize(
    ("texts", "said"), [([], "given: none"), (tiny_data(8), "DatasetDict"), ([1], "number 0 is 1")]
)
def test_what_is_no_text_is_refused(texts, said):
    with pytest.raises(ValueError, match=f"texts are .*{said}"):
        trim_vocabulary(tiny_model("bert"), tiny_tokenizer(), texts)


def test_a_vocabulary_that_a_layer_uses_in_its_own_way_is_refused():
    class Own(transformers.BertForSequenceClassification):
        def __init__(self, config):
            super().__init__(config)
            self.counts = torch.nn.Linear(config.vocab_size * 2, 2)

    with pytest.raises(ValueError, match=r"counts.weight depends on the vocabulary in a way that is not known"):
        trim_vocabulary(Own(tiny_model("bert").config), tiny_tokenizer(), TEXTS)


# the packaged ones


def test_e5_says_the_same_of_chinese_reviews_with_a_thirtieth_of_its_words(tmp_path):
    model, tokenizer = load_encoder("e5")
    texts = [f"query: {text}" for text in load_data("reviews_zh", 300)["train"]["text"][:]]
    small, fewer = trim_vocabulary(model, tokenizer, texts)
    assert torch.equal(logits(small, fewer, texts[:16]), logits(model, tokenizer, texts[:16]))
    assert len(fewer) < 250_037 / 30 and small.num_parameters() < 27e6 and new_modules(small) == new_modules(model)
    save_model(small, fewer, tmp_path)
    again, loaded = load_encoder(tmp_path)
    assert torch.equal(logits(again, loaded, texts[:16]), logits(small, fewer, texts[:16]))
    assert loaded("query: 很好").input_ids == fewer("query: 很好").input_ids


def test_minilm_reads_movies_with_fewer_words(tmp_path):
    model, tokenizer = load_encoder("minilm")
    texts = load_data("movies", 300)["train"]["text"][:]
    small, fewer = trim_vocabulary(model, tokenizer, texts)
    assert torch.equal(logits(small, fewer, texts[:16]), logits(model, tokenizer, texts[:16])) and len(fewer) < 3500
    save_model(small, fewer, tmp_path)
    again, loaded = load_encoder(tmp_path)
    assert torch.equal(logits(again, loaded, texts[:16]), logits(small, fewer, texts[:16]))


def test_smollm2_speaks_in_the_words_that_are_left():
    model, tokenizer = load_causal_lm("smollm2")
    texts = [*tiny_rows(4)["text"], "The capital of France is Paris.", "<|im_start|>user\nHi<|im_end|>"]
    small, fewer = trim_vocabulary(model, tokenizer, texts)
    kept = tokenizer.convert_tokens_to_ids(fewer.convert_ids_to_tokens(range(len(fewer))))
    assert torch.equal(logits(small, fewer, texts[-2:-1]), logits(model, tokenizer, texts[-2:-1])[..., kept])
    prompt = fewer("The capital of France is", return_tensors="pt")
    assert fewer.decode(small.generate(**prompt, max_new_tokens=1, do_sample=False)[0, -1]) == " Paris"
    assert small.lm_head.weight is small.model.embed_tokens.weight and fewer.eos_token_id == small.config.eos_token_id
    assert fewer.chat_template == tokenizer.chat_template

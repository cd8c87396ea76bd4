"""multilingual-e5-small as its package holds it, turned into the files that transformers loads."""

from pathlib import Path
from typing import TYPE_CHECKING

from finetune_lessons.lab.data.archives import AssetError
from finetune_lessons.lab.data.e5_file import E5File, read_e5
from finetune_lessons.lab.data.weights import save_in_halves

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.normalizers import Normalizer
    from transformers import BertConfig

_EMBEDDINGS = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}
_OF_A_LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


def convert_e5(
    folder: Path,  # holds model.bin
) -> None:
    """Replace `model.bin` by the weights (safetensors, float16), configuration and tokenizer made from it.

    It is a `BertModel` without pooler: a classifier gets a new one with its head. Raises `AssetError` for a file that
    is cut or of another layout, and for one whose tensors are not those of its configuration.
    """
    print("e5: turning the 4-bit file into safetensors, once.")
    file = read_e5(folder / "model.bin")
    _save_bert(file, folder)
    _save_tokenizer(file, folder)
    (folder / "model.bin").unlink()


def _save_bert(file: E5File, folder: Path) -> None:
    """Write the dequantised weights and config.json."""
    import torch
    from transformers import BertModel

    config = _bert_config(file)
    with torch.device("meta"):
        shapes = {name: p.shape for name, p in BertModel(config, add_pooling_layer=False).named_parameters()}
    names = _names(config.num_hidden_layers)
    if differing := sorted(file.places.keys() ^ names.keys()):
        whose = "it has a tensor" if differing[0] in file.places else "it lacks the tensor"
        raise AssetError(f"the file of e5 is of another layout: {whose} {differing[0]}; it was not used")
    weights = {}
    for theirs, ours in names.items():
        weights[ours] = torch.tensor(file.tensor(theirs, tuple(shapes.pop(ours))))
    assert not shapes, shapes
    save_in_halves(weights, config, folder)


def _names(layers: int) -> dict[str, str]:
    """The file's names of the tensors, and transformers'."""
    names = dict(_EMBEDDINGS)
    for i in range(layers):
        for theirs, ours in _OF_A_LAYER.items():
            names[f"l{i}.{theirs}.w"] = f"encoder.layer.{i}.{ours}.weight"
            names[f"l{i}.{theirs}.b"] = f"encoder.layer.{i}.{ours}.bias"
    return names


def _bert_config(file: E5File) -> "BertConfig":
    from transformers import BertConfig

    sizes, special = file.sizes, file.special
    return BertConfig(
        vocab_size=sizes["vocabulary"],  # some more than there are pieces, as in the original
        hidden_size=sizes["hidden"],
        num_hidden_layers=sizes["layers"],
        num_attention_heads=sizes["heads"],
        intermediate_size=sizes["ffn"],
        max_position_embeddings=sizes["positions"],
        type_vocab_size=sizes["types"],
        layer_norm_eps=round(file.epsilon, 15),  # float32's 9.99999996e-13
        bos_token_id=special["bos"],
        eos_token_id=special["eos"],
        pad_token_id=special["pad"],
        architectures=["BertModel"],
        dtype="float32",
    )


def _save_tokenizer(file: E5File, folder: Path) -> None:
    """Write XLM-R's tokenizer, which e5 reads with: a unigram model over words that begin with a mark."""
    from transformers import PreTrainedTokenizerFast

    words = [word for word, _ in file.pieces]
    bos, eos, pad, unk = (words[file.special[role]] for role in ("bos", "eos", "pad", "unk"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_unigram(file, bos, eos),
        bos_token=bos,
        eos_token=eos,
        cls_token=bos,
        sep_token=eos,
        pad_token=pad,
        unk_token=unk,
        mask_token="<mask>",
        model_max_length=file.sizes["positions"],
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )
    if len(tokenizer) != len(words):
        raise AssetError("the file of e5 is of another layout: it has no piece <mask>; it was not used")
    tokenizer.save_pretrained(folder)


def _unigram(file: E5File, bos: str, eos: str) -> "Tokenizer":
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    unigram = Tokenizer(models.Unigram(file.pieces, file.special["unk"]))
    unigram.normalizer = _normalizer(file)
    unigram.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    unigram.decoder = decoders.Metaspace()
    unigram.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A {eos}",
        pair=f"{bos} $A {eos} {eos} $B {eos}",
        special_tokens=[(bos, file.special["bos"]), (eos, file.special["eos"])],
    )
    special = [*(file.pieces[number][0] for number in file.special.values())]
    unigram.add_special_tokens([AddedToken(word, normalized=False, special=True) for word in special])
    unigram.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=False, special=True)])
    return unigram


def _normalizer(file: E5File) -> "Normalizer":
    """NFKC with the exceptions of the file's table, which is checked against it."""
    from tokenizers import Regex, normalizers

    nfkc = normalizers.NFKC()
    dropped = [c for c, read in file.normalised.items() if not read]
    spaces = [c for c, read in file.normalised.items() if read == " " != nfkc.normalize_str(c)]
    characters = {c for word, _ in file.pieces for c in word}
    kept = sorted(c for c in characters - file.normalised.keys() if nfkc.normalize_str(c) != c)  # the wide tilde
    stand_ins = list(zip(kept, dropped, strict=False))  # no text has them any more when they are put in
    normalizer = normalizers.Sequence(
        [
            normalizers.Replace(Regex(_any_of(dropped)), ""),
            normalizers.Replace(Regex(_any_of(spaces)), " "),
            *(normalizers.Replace(c, stand_in) for c, stand_in in stand_ins),
            nfkc,
            *(normalizers.Replace(stand_in, c) for c, stand_in in stand_ins),
        ]
    )
    as_read = file.normalised | {c: c for c in kept}
    if wrong := [c for c, read in as_read.items() if normalizer.normalize_str(c) != read]:
        raise AssetError(f"the file of e5 reads {wrong[0]!r} in a way that is not known; it was not used")
    return normalizer


def _any_of(characters: list[str]) -> str:
    return "[" + "".join(f"\\x{{{ord(c):x}}}" for c in characters) + "]"

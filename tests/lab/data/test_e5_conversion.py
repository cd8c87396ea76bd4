"""The packaged multilingual encoder: its file is read whole or refused; what is made of it reads and means the same."""

import struct
from itertools import accumulate

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoTokenizer, BertModel

from finetune_lessons.lab.data.archives import AssetError
from finetune_lessons.lab.data.assets import asset_path
from finetune_lessons.lab.data.e5_conversion import convert_e5
from finetune_lessons.lab.data.e5_file import read_e5

SIZES = {"hidden": 32, "layers": 2, "heads": 4, "ffn": 64, "vocabulary": 20, "positions": 16, "types": 2}
WORDS = ["▁", "▁good", "▁film", "go", "o", "d", "f", "i", "l", "m", "～", "s"]
PIECES = ["<s>", "<pad>", "</s>", "<unk>", *WORDS, "<mask>"]
SCORES = [0.0] * 4 + [-4.0, -5.0, -5.5, *[-9.0 - i / 8 for i in range(9)], 0.0]
READ_AS = {"\x01": "", "\x02": "", "\t": " ", "\u3000": " ", "ｏ": "o", "①": "1", "▁": " "}
SHAPES = {
    "emb.word": (20, 32), "emb.pos": (16, 32), "emb.type": (2, 32), "emb.ln.w": (32,), "emb.ln.b": (32,),
} | {
    f"l{i}.{part}.{kind}": (shape if kind == "w" else shape[:1])
    for i in range(2)
    for part, shape in {
        "q": (32, 32), "k": (32, 32), "v": (32, 32), "ao": (32, 32), "aln": (32,), "fi": (64, 32), "fo": (32, 64),
        "oln": (32,),
    }.items()
    for kind in ("w", "b")
}  # fmt: skip


def in_blocks(rng, count: int) -> tuple[bytes, np.ndarray]:
    "Random numbers in blocks of 32, each with a scale in half precision and 4 bits a number; and what they are."
    written, numbers = b"", []
    for _ in range(count // 32):
        scale, digits = np.float16(rng.uniform(0.001, 0.1)), rng.integers(0, 16, 32)
        written += scale.tobytes() + bytes(int(a) | int(b) << 4 for a, b in zip(digits[:16], digits[16:], strict=True))
        numbers += [np.float32(scale) * (int(digit) - 8) for digit in digits]
    return written, np.array(numbers, np.float32)


def tiny_e5(
    magic=b"E5S1", version=1, block=32, pieces=PIECES, read_as=READ_AS, shapes=SHAPES, kind_of=None, table_bytes=0
) -> tuple[bytes, dict[str, np.ndarray]]:
    "A file in the layout of e5-small-q4.bin, and the numbers that its tensors hold."
    text = [piece.encode() for piece in pieces]
    head = magic + struct.pack("<I7ifi", version, *SIZES.values(), 1e-12, block)
    head += struct.pack("<5iQ", len(pieces), 0, 2, 1, 3, sum(map(len, text)))
    head += struct.pack(f"<{len(text) + 1}I", 0, *accumulate(map(len, text)))
    head += struct.pack(f"<{len(text)}f", *SCORES[: len(text)]) + b"".join(text)
    table = b"".join(struct.pack(f"<IB{len(to)}I", ord(c), len(to), *map(ord, to)) for c, to in read_as.items())
    head += struct.pack("<iI", len(read_as), len(table) + table_bytes) + table + struct.pack("<i", len(shapes))
    rng, numbers, index, body = np.random.default_rng(0), {}, b"", b""
    start = len(head) + sum(23 + len(name) for name in shapes)
    for name, shape in shapes.items():
        if len(shape) > 1 and name != "emb.pos":
            kind, (written, numbers[name]) = 1, in_blocks(rng, int(np.prod(shape)))
        else:
            kind, numbers[name] = 0, rng.normal(size=shape).astype("<f4")
            written = numbers[name].tobytes()
        kind = (kind_of or {}).get(name, kind)
        place = kind, int(np.prod(shape)), start, len(written)
        index += struct.pack(f"<H{len(name)}sBIQQ", len(name), name.encode(), *place)
        numbers[name] = numbers[name].reshape(shape)
        body, start = body + written, start + len(written)
    return head + index + body, numbers


@pytest.fixture
def converted(tmp_path, capsys):
    content, numbers = tiny_e5()
    (tmp_path / "model.bin").write_bytes(content)
    convert_e5(tmp_path)
    assert capsys.readouterr().out == "e5: turning the 4-bit file into safetensors, once.\n"
    return tmp_path, numbers


def test_every_tensor_has_its_numbers_and_its_place(converted):
    folder, numbers = converted
    assert not (folder / "model.bin").exists()
    model, info = BertModel.from_pretrained(folder, add_pooling_layer=False, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert model.dtype == torch.float32 and model.config.layer_norm_eps == 1e-12
    layer = model.encoder.layer[1]
    for theirs, ours in {
        "emb.word": model.embeddings.word_embeddings.weight,
        "emb.pos": model.embeddings.position_embeddings.weight,
        "emb.type": model.embeddings.token_type_embeddings.weight,
        "emb.ln.w": model.embeddings.LayerNorm.weight,
        "emb.ln.b": model.embeddings.LayerNorm.bias,
        "l1.q.w": layer.attention.self.query.weight,
        "l1.k.w": layer.attention.self.key.weight,
        "l1.v.b": layer.attention.self.value.bias,
        "l1.ao.w": layer.attention.output.dense.weight,
        "l1.aln.b": layer.attention.output.LayerNorm.bias,
        "l1.fi.w": layer.intermediate.dense.weight,
        "l1.fo.w": layer.output.dense.weight,
        "l1.oln.w": layer.output.LayerNorm.weight,
    }.items():
        np.testing.assert_allclose(ours.detach().numpy(), numbers[theirs], rtol=2**-11, atol=1e-7, err_msg=theirs)
    assert len(load_file(folder / "model.safetensors")) == len(SHAPES)


def test_what_is_read_is_what_the_table_says(converted):
    tokenizer = AutoTokenizer.from_pretrained(converted[0])
    assert tokenizer.tokenize("good  film") == ["▁good", "▁film"]  # words, and runs of spaces
    assert tokenizer.tokenize("g\x01ｏo\x02d\u3000\tfilm ") == ["▁good", "▁film"]
    assert tokenizer.tokenize("～") == ["▁", "～"]  # NFKC would make ~ of it, which is no piece
    assert tokenizer.tokenize("▁good") == ["▁good"]
    assert tokenizer("good").input_ids == [0, 5, 2]
    assert tokenizer("good", "film").input_ids == [0, 5, 2, 2, 6, 2]
    assert tokenizer("good <mask> 世界").input_ids == [0, 5, 16, 4, 3, 2]
    names = ("bos_token", "cls_token", "eos_token", "sep_token", "pad_token", "unk_token", "mask_token")
    assert [getattr(tokenizer, name) for name in names] == ["<s>", "<s>", "</s>", "</s>", "<pad>", "<unk>", "<mask>"]
    assert tokenizer.model_max_length == 16 and set(tokenizer("good")) == {"input_ids", "attention_mask"}
    assert tokenizer.decode(tokenizer("good film").input_ids, skip_special_tokens=True) == "good film"


LESS = {name: shape for name, shape in SHAPES.items() if name != "l1.fo.w"}
FAULTS = {
    "magic": ({"magic": b"GGUF"}, r"it starts with b'GGUF' instead of b'E5S1'"),
    "version": ({"version": 2}, "it is of version 2, known is 1"),
    "block": ({"block": 64}, "its blocks are of 64 weights instead of 32"),
    "piece twice": ({"pieces": [*PIECES[:-2], "o", "<mask>"]}, "or one is there twice"),
    "no mask": ({"pieces": PIECES[:-1]}, "it has no piece <mask>"),
    "table's length": ({"table_bytes": 1}, "its table of characters is not as long as it says"),
    "reads otherwise": ({"read_as": READ_AS | {"a": "b"}}, "reads 'a' in a way that is not known"),
    "unknown tensor": ({"shapes": SHAPES | {"pooler.w": (32, 32)}}, "it has a tensor pooler.w"),
    "lacking tensor": ({"shapes": LESS}, "it lacks the tensor l1.fo.w"),
    "wrong count": ({"shapes": SHAPES | {"emb.word": (21, 32)}}, "emb.word has 672 numbers instead of 640"),
    "unknown type": ({"kind_of": {"l0.q.w": 2}}, "l0.q.w is said to have 1,024 numbers of type 2 in 576 bytes"),
    "wrong type": ({"kind_of": {"emb.ln.w": 1}}, "emb.ln.w is said to have 32 numbers of type 1 in 128 bytes"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_of_another_layout_is_refused_in_one_sentence(tmp_path, fault):
    changes, said = FAULTS[fault]
    (tmp_path / "model.bin").write_bytes(tiny_e5(**changes)[0])
    with pytest.raises(AssetError, match=said) as error:
        convert_e5(tmp_path)
    assert str(error.value).endswith("; it was not used") and "\n" not in str(error.value)


WHOLE = tiny_e5()[0]


@given(st.integers(4, len(WHOLE) - 1))
def test_a_cut_file_is_refused_wherever_it_is_cut(tmp_path_factory, length):
    file = tmp_path_factory.mktemp("cut") / "model.bin"
    file.write_bytes(WHOLE[:length])
    with pytest.raises(AssetError, match=f"it has {length:,} bytes and needs [0-9,]+ at least; it was not used"):
        read_e5(file)


@pytest.mark.parametrize("place", [WHOLE.index("～".encode()), WHOLE.index(struct.pack("<IB", ord("ｏ"), 1)) + 3])
def test_what_is_no_text_is_refused(tmp_path, place):
    (tmp_path / "model.bin").write_bytes(WHOLE[:place] + b"\xff" + WHOLE[place + 1 :])
    with pytest.raises(AssetError, match="^the file of e5 is damaged or of another layout: .*; it was not used$"):
        read_e5(tmp_path / "model.bin")


# the packaged one


@pytest.fixture(scope="module")
def e5():
    folder = asset_path("e5")
    model, info = BertModel.from_pretrained(folder, add_pooling_layer=False, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def test_e5_has_its_shape_and_no_pooler(e5):
    model, tokenizer = e5
    config = model.config
    assert (config.num_hidden_layers, config.hidden_size, config.vocab_size) == (12, 384, 250037)
    assert sum(p.numel() for p in model.parameters()) == 117_505_920 and model.dtype == torch.float32
    assert len(tokenizer) == 250_002 and tokenizer.model_max_length == config.max_position_embeddings == 512
    assert config.pad_token_id == tokenizer.pad_token_id == 1


def test_e5_reads_as_xlm_r_does(e5):
    _, tokenizer = e5
    assert set(tokenizer.all_special_ids) == {0, 1, 2, 3, 250001}
    assert tokenizer("Hello world").input_ids == [0, 35378, 8999, 2]
    assert tokenizer("Hello world!").input_ids == [0, 35378, 8999, 38, 2]
    assert tokenizer.tokenize("今天天气很好！ ｇｏ") == ["▁今天", "天气", "很好", "!", "▁go"]
    for text in ("这本书很好看,我喜欢。", "A film that moves.", "Быстрая лиса", "naïve café, £100", "～ ~"):
        assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text
        assert tokenizer.unk_token_id not in tokenizer(text).input_ids


TRANSLATIONS = {
    "The weather is lovely today.": "今天天气很好。",
    "I would like a cup of coffee.": "我想要一杯咖啡。",
    "The train to Shanghai leaves at noon.": "去上海的火车中午开。",
    "This book is boring.": "这本书很无聊。",
    "My computer does not start any more.": "我的电脑再也开不了机了。",
    "The hotel was clean and quiet.": "酒店又干净又安静。",
}


def test_e5_puts_translations_close(e5):
    model, tokenizer = e5

    def embedded(texts) -> torch.Tensor:
        batch = tokenizer([f"query: {text}" for text in texts], padding=True, return_tensors="pt")
        with torch.no_grad():
            states = model(**batch).last_hidden_state
        mask = batch.attention_mask[..., None]
        return torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1))

    similar = embedded(TRANSLATIONS) @ embedded(TRANSLATIONS.values()).T
    others = similar - 2 * torch.eye(len(TRANSLATIONS))
    assert (similar.diag() > others.max(0).values + 0.02).all() and (similar.diag() > others.max(1).values + 0.02).all()

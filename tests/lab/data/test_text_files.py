"""Bytes become the text that their writer saw, or one said to be a guess."""

import pytest

from finetune_lessons.lab.data.csv_files import read_csv

CHINESE = [
    "这部电影真的很好看，演员演技出色，剧情紧凑。",
    "服务态度太差了，再也不会来了！",
    "房间干净，位置方便，早餐一般",
    "质量不好，用了一天就坏了",
    "iPhone 15 屏幕很亮，电池能用10小时",
    "重庆火锅“麻辣鲜香”——推荐",
]
WESTERN = {
    "German": ["Das Essen war groß, die Größe auch.", "Überhaupt nicht schön: müde Bedienung", "DIE GRÖSSE ÄRGERT"],
    "French": ["Très bon film, créé avec goût", "Déçu: la qualité n’est pas là", "Noël à l’île, réussi"],
    "Spanish": ["¡¡Qué película más mala!!", "El niño lloró toda la noche", "¿¿Volveré?? Sí"],
    "Portuguese": ["Ótima atuação, coração", "Não gostei, péssimo", "Ação sem emoção"],
    "Danish": ["Rigtig god film, på trods af længden", "Kedelig og alt for lang, øv", "Små børn vil græde"],
    "signs": ["££5 for this", "½½ a star", "20°° hot"],
}


def table(texts: list[str], labels: tuple[str, str]) -> str:
    numbered = enumerate(text.replace(",", ";") for text in texts * 6)
    return "text,label\n" + "".join(f"{text} {i},{labels[i % 2]}\n" for i, text in numbered)


def read(tmp_path, content: str, encoding: str) -> tuple[set[str], list[str]]:
    (tmp_path / "own.csv").write_bytes(content.encode(encoding))
    data = read_csv(tmp_path / "own.csv")
    return {text for split in data.values() for text in split["text"]}, data["train"].features["label"].names


@pytest.mark.parametrize("n", [1, 2, 6])
@pytest.mark.parametrize("encoding", ["gb2312", "gbk", "gb18030"])
@pytest.mark.parametrize("labels", [("好", "坏"), ("pos", "neg")])
def test_chinese_is_read_as_chinese(tmp_path, capsys, n, encoding, labels):
    texts = [text.replace("—", "-") for text in CHINESE[:n]]
    read_texts, names = read(tmp_path, table(texts, labels), encoding)
    assert {f"{text} {i}" for i, text in enumerate(texts)} <= read_texts
    assert names == sorted(labels)
    assert "not UTF-8, read as gb18030" in capsys.readouterr().out


def test_rare_characters_among_common_ones_are_chinese(tmp_path):
    rare = ["朱镕基和陶喆来过这里，大家都很高兴", "𠮷野家的牛肉饭很好吃，还会再来"]
    texts, _ = read(tmp_path, table(rare, ("好", "坏")), "gb18030")
    assert {f"{rare[0]} 0", f"{rare[1]} 1"} <= texts


@pytest.mark.parametrize("language", WESTERN)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_western_texts_are_not_taken_for_chinese(tmp_path, capsys, language, n):
    for text in WESTERN[language][:n]:
        texts, names = read(tmp_path, table([text], ("gut", "schlecht")), "cp1252")
        assert f"{text.replace(',', ';')} 0" in texts
    texts, names = read(tmp_path, table(WESTERN[language][:n], ("süß", "öde")), "cp1252")
    assert {f"{text.replace(',', ';')} {i}" for i, text in enumerate(WESTERN[language][:n])} <= texts
    assert names == ["süß", "öde"]
    assert "gb18030" not in capsys.readouterr().out


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_chinese_in_unicode_is_read_without_a_word(tmp_path, capsys, encoding):
    texts, names = read(tmp_path, table(CHINESE, ("好", "坏")), encoding)
    assert f"{CHINESE[3]} 3" in texts and names == ["坏", "好"] == sorted(names)
    assert capsys.readouterr().out == ""

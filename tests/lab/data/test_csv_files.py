"""A learner's file is read whole, or refused for a stated reason."""

import csv
import io
from collections import Counter

import pytest
from datasets import DatasetDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune_lessons.lab.data.csv_files import read_csv
from finetune_lessons.lab.data.splits import normal_form

WORDS = "text,label\n" + "".join(f"good thing {i},pos\nbad thing {i},neg\n" for i in range(10))


def csv_file(tmp_path, content: str | bytes):
    path = tmp_path / "own.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_read_csv_splits_each_class_seven_one_two(tmp_path, capsys):
    data = read_csv(csv_file(tmp_path, WORDS))
    assert [Counter(split["label"]) for split in data.values()] == [{0: 7, 1: 7}, {0: 1, 1: 1}, {0: 2, 1: 2}]
    assert data["train"].features["label"].names == ["neg", "pos"]
    assert capsys.readouterr().out == ""
    assert read_csv(tmp_path / "own.csv", seed=4)["test"]["text"][:] == data["test"]["text"][:]
    assert len(read_csv(tmp_path / "own.csv", n_train=6)["train"]) == 6


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_encodings_and_separators_are_found(tmp_path, capsys, encoding, separator):
    content = WORDS.replace(",", separator).replace("thing", "café £")
    data = read_csv(csv_file(tmp_path, content.encode(encoding)))
    assert "good café £ 3" in [text for split in data.values() for text in split["text"]]
    assert ("read as cp1252" in capsys.readouterr().out) == (encoding == "cp1252")


def test_bytes_that_windows_1252_lacks_are_read_as_latin_1(tmp_path, capsys):
    read_csv(csv_file(tmp_path, WORDS.encode() + b"odd \x81,pos\n"))
    assert "latin-1" in capsys.readouterr().out


def test_quoted_commas_newlines_and_quotes_are_text(tmp_path):
    data = read_csv(csv_file(tmp_path, WORDS + '"one, ""two""\nthree",pos\n'))
    assert 'one, "two"\nthree' in [text for split in data.values() for text in split["text"]]


def test_a_very_long_text_is_read_and_the_csv_limit_stays(tmp_path):
    limit = csv.field_size_limit()
    data = read_csv(csv_file(tmp_path, WORDS + "long " * 100_000 + ",pos\n"))
    assert max(len(text) for split in data.values() for text in split["text"]) == 499_999
    assert csv.field_size_limit() == limit


def test_repairs_are_counted_aloud(tmp_path, capsys):
    extra = ",pos\n  ,neg\nno label,\nends early\nGOOD  thing 1,pos\nbad thing 2,pos\n"
    data = read_csv(csv_file(tmp_path, WORDS + extra))
    printed = capsys.readouterr().out
    assert "2 rows without text dropped" in printed
    assert "2 rows without a label dropped" in printed
    assert "3 rows with a repeated text dropped" in printed  # one copy, and both of a contradiction
    assert sum(len(split) for split in data.values()) == 19


def test_repairs_are_counted_for_a_file_with_braces_in_its_name(tmp_path, capsys):
    path = tmp_path / "own {1}.csv"
    path.write_text(WORDS + ",pos\n")
    read_csv(path)
    assert capsys.readouterr().out == "own {1}.csv: 1 row without text dropped.\n"


def test_numbers_are_classes_in_numeric_order(tmp_path):
    rows = "".join(f"text {i} {n},{n}\n" for i in range(4) for n in ("10", "2", "-1", "2.5", "2.0"))
    names = read_csv(csv_file(tmp_path, "text,label\n" + rows))["train"].features["label"].names
    assert names == ["-1", "2", "2.5", "10"]


SEPARATED = {  # all by semicolons
    "declared": "sep=;\ntext;label\n",
    "declared in quotes, as Excel saves it again": '"sep=;"\ntext;label\n',
    "declared, and in capitals": "SEP=;\r\n\r\ntext;label\r\n",
    "declared where commas would show as many columns": "sep=;\ntext;label;a,b,c,d\n",
    "spaces in the header": " text ; label \n",
    "a quoted name that holds other separators": '"a, b, c, d";text;label\n',
    "a quoted name over two lines": '"first,\nsecond";text;label\n',
}


@pytest.mark.parametrize("header", SEPARATED.values(), ids=SEPARATED)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_the_separator_is_found_in_the_header(tmp_path, header, encoding):
    first = '"x";' if '";' in header else ""
    rows = "".join(f"{first}good, | thing {i};pos\n{first}bad, | thing {i};neg\n" for i in range(10))
    data = read_csv(csv_file(tmp_path, (header + rows).encode(encoding)))
    assert {text for split in data.values() for text in split["text"]} >= {"good, | thing 0", "bad, | thing 9"}
    assert data["train"].features["label"].names == ["neg", "pos"]


@pytest.mark.parametrize("declared", ["", "sep=|\n", "sep=:\n", "sep=\t\n", "sep=\\t\n"])
def test_pipes_and_declared_separators_are_read(tmp_path, declared):
    separator = {"": "|", "\\": "\t"}.get(declared[4:5], declared[4:5])
    data = read_csv(csv_file(tmp_path, declared + WORDS.replace(",", separator)))
    assert sum(len(split) for split in data.values()) == 20


def test_cells_may_be_quoted_after_a_space(tmp_path):
    rows = "".join(f'"good, thing {i}", "pos"\n"bad, thing {i}", "neg"\n' for i in range(10))
    data = read_csv(csv_file(tmp_path, '"text", "label"\n' + rows))
    assert data["train"].features["label"].names == ["neg", "pos"]
    assert "good, thing 1" in [text for split in data.values() for text in split["text"]]


def test_a_line_number_counts_the_line_that_declares_the_separator(tmp_path):
    with pytest.raises(ValueError, match="line 4: 3 cells under 2 columns"):
        read_csv(csv_file(tmp_path, "sep=;\ntext;label\na;pos\nb;c;pos\n"))


def test_a_file_that_only_declares_a_separator_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no line below 'sep=;'"):
        read_csv(csv_file(tmp_path, "sep=;\n"))


def test_cells_stay_as_they_are_written(tmp_path):
    texts = ["007", "7", "1.50", "nan", "None", "1e3", "True", *map(str, range(100, 115))]
    content = "text,label\n" + "".join(f"{text}, {('None', 'NA')[i % 2]}\n" for i, text in enumerate(texts))
    data = read_csv(csv_file(tmp_path, content))
    assert {text for split in data.values() for text in split["text"]} == set(texts)
    assert data["train"].features["label"].names == ["NA", "None"]


REFUSED = {
    "": "is empty",
    " \n\n": "is empty",
    "text,label\n": "no row with both",
    "text,label\n,pos\nx,\n": "no row with both",
    "review,label\nx,pos\n": r"no column 'text'; its columns are 'review', 'label'",
    "Text,label\nx,pos\n": r"did you mean 'Text'",
    "text,text,label\nx,y,pos\n": "2 columns named 'text'",
    WORDS.replace("neg", "pos"): "all 20 labels are 'pos'",
    WORDS + "a,odd\nb,odd\n": r"fewer than 3 texts.*'odd' \(2\)",
    "text,label\na,pos\nb,neg\n": r"2 of the 2 classes.*'neg' \(1\), 'pos' \(1\)",
    WORDS + "a, b,pos\n": "line 22: 3 cells under 2 columns",
    WORDS + '"never closed,pos\n': "line 22.*double quotes",
}


@pytest.mark.parametrize("content", REFUSED)
def test_a_file_that_cannot_be_used_is_refused_for_a_stated_reason(tmp_path, content):
    with pytest.raises(ValueError, match=REFUSED[content]):
        read_csv(csv_file(tmp_path, content))


def test_what_is_not_a_text_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_csv(tmp_path / "none.csv")
    with pytest.raises(ValueError, match="is a folder; `load_data`"):
        read_csv(tmp_path)
    with pytest.raises(ValueError, match="not a text file"):
        read_csv(csv_file(tmp_path, b"PK\x03\x04\x00\x00"))
    with pytest.raises(ValueError, match="two columns"):
        read_csv(csv_file(tmp_path, WORDS), text="label")


CELL = st.one_of(st.text(max_size=8), st.sampled_from(["a", "b", "pos", "neg", "1", "2.0", "", '"', "x;y", "x\ny"]))


@given(
    rows=st.lists(st.lists(CELL, min_size=1, max_size=3), max_size=60),
    separator=st.sampled_from(",;\t"),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"]),
    quoted=st.booleans(),
    header=st.sampled_from([["text", "label"], ["label", "other", "text"], ["text"]]),
)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_table_is_read_whole_or_refused(tmp_path, rows, separator, encoding, quoted, header):
    if quoted:
        stream = io.StringIO(newline="")
        csv.writer(stream, delimiter=separator).writerows([header, *rows])
        content = stream.getvalue()
    else:
        content = "\n".join(separator.join(row) for row in [header, *rows])
    path = csv_file(tmp_path, content.encode(encoding, errors="replace"))
    try:
        data = read_csv(path)
    except ValueError as error:
        assert len(str(error)) > 20
        return
    check_splits(data)


@given(st.lists(st.tuples(st.text(min_size=1, max_size=4), st.sampled_from(["a", "b", "c"])), min_size=12, max_size=80))
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_readable_table_gives_every_class_to_every_split(tmp_path, pairs):
    certain = [(f"certain {c} {i}", c) for c in "abc" for i in range(3)]
    stream = io.StringIO(newline="")
    csv.writer(stream).writerows([("text", "label"), *certain, *((t.replace("\0", "0"), c) for t, c in pairs)])
    data = read_csv(csv_file(tmp_path, stream.getvalue().encode(errors="replace")))
    check_splits(data)
    for split in data.values():
        assert set(split["label"]) == {0, 1, 2}
    n = Counter(label for split in data.values() for label in split["label"])
    for c, count in Counter(data["test"]["label"]).items():
        assert count == max(1, round(n[c] / 5))


def check_splits(data: DatasetDict) -> None:
    texts = [normal_form(text) for split in data.values() for text in split["text"]]
    assert len(set(texts)) == len(texts)
    assert all(texts) and all(len(split) for split in data.values())

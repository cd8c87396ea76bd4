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
    assert "1 row with a repeated text dropped" in printed
    assert "2 rows whose text has several labels, as 'bad thing 2' (neg, pos), dropped" in printed
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
    "Text,label\nx,pos\n": r"did you mean read_csv\('own.csv', text='Text'\)",
    "text,text,label\nx,y,pos\n": "2 columns named 'text'",
    WORDS.replace("neg", "pos"): "all 20 labels are 'pos'",
    WORDS + "a,odd\nb,odd\n": r"fewer than 3 texts.*'odd' \(2\)",
    "text,label\na,1\na,1\na,0\n": r"every text has several labels, such as 'a' \(1, 0\): keep one label",
    "text,label\na,pos\nb,neg\n": r"2 of the 2 classes.*'neg' \(1\), 'pos' \(1\)",
    WORDS + "a, b,pos\n": "line 22: 3 cells under 2 columns",
    WORDS + '"never closed,pos\n': "line 22.*double quotes",
}


@pytest.mark.parametrize("content", REFUSED)
def test_a_file_that_cannot_be_used_is_refused_for_a_stated_reason(tmp_path, content):
    with pytest.raises(ValueError, match=REFUSED[content]):
        read_csv(csv_file(tmp_path, content))


SHOP = "id,review,stars\n" + "".join(f"{i},a fine thing number {i},{1 + i % 5}\n" for i in range(30))
LIKELIEST = {
    "texts and labels by their cells": (SHOP, "text='review', label='stars'"),
    "texts by their cells": (SHOP.replace("stars", "label"), "text='review'"),
    "labels by their cells": (SHOP.replace("review", "text"), "label='stars'"),
    "names that are nearly right": (
        SHOP.replace("review", "TEXT").replace("stars", "labels"),
        "text='TEXT', label='labels'",
    ),
}


@pytest.mark.parametrize("name", LIKELIEST)
def test_the_likeliest_columns_are_named_where_one_is_missing(tmp_path, name):
    content, chosen = LIKELIEST[name]
    with pytest.raises(ValueError, match="has no column") as error:
        read_csv(csv_file(tmp_path, content))
    assert str(error.value).endswith(f"; did you mean read_csv('own.csv', {chosen})?")
    named = eval(f"dict({chosen})")
    assert read_csv(tmp_path / "own.csv", **named)["train"].features["label"].names == list("12345")


def test_no_column_is_named_that_cannot_be_meant(tmp_path):
    with pytest.raises(ValueError, match=r"no column 'text' and no column 'label'; its columns are 'id', 'n'$"):
        read_csv(csv_file(tmp_path, "id,n\n1,7\n2,8\n"))


# numbers to be predicted

SCORES = [f"{(i * 37 % 80) / 10 - 3.83:.2f}" for i in range(80)]


def scored(values, separator=",") -> str:
    rows = "".join(f"thing number {i}{separator}{value}\n" for i, value in enumerate(values))
    return f"text{separator}label\n{rows}"


FORMS = {
    "two digits": scored(SCORES),
    "all digits": scored([repr(float(x) / 3) for x in SCORES]),
    "small ones": scored([f"{float(x) / 1e7:.3e}" for x in SCORES]),
    "a comma for the point": scored([x.replace(".", ",") for x in SCORES], ";"),
    "each of them often": scored(SCORES[:30] * 6),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_column_of_measurements_is_a_regression(tmp_path, capsys, form):
    data = read_csv(csv_file(tmp_path, FORMS[form]))
    rows = sum(map(len, data.values()))
    assert {str(split.features["label"].dtype) for split in data.values()} == {"float64"}
    assert (len(data["validation"]), len(data["test"])) == (round(rows / 10), round(rows / 5))
    said = capsys.readouterr().out
    assert "different numbers from -" in said and "read as a regression, for a model with num_labels=1" in said
    texts = [text for split in data.values() for text in split["text"]]
    assert len(set(texts)) == len(texts) == rows


def test_each_number_stays_with_its_text(tmp_path):
    data = read_csv(csv_file(tmp_path, scored(SCORES)))
    for split in data.values():
        for text, label in zip(split["text"], split["label"], strict=True):
            assert label == float(SCORES[int(text.split()[-1])])


def test_training_numbers_are_drawn_by_the_seed_and_the_others_are_not(tmp_path):
    path = csv_file(tmp_path, scored(SCORES))
    one, other = read_csv(path, n_train=20), read_csv(path, n_train=20, seed=1)
    assert len(one["train"]) == 20 and one["train"]["text"][:] != other["train"]["text"][:]
    assert one["test"]["text"][:] == other["test"]["text"][:]
    with pytest.raises(ValueError, match="n_train=57: expected a whole number from 1 to 56"):
        read_csv(path, n_train=57)


def test_a_regression_trains(tmp_path):
    from tiny import tiny_model, tiny_run

    from finetune_lessons.multitask import regression_loss

    run = tiny_run(tiny_model("bert", num_labels=1), read_csv(csv_file(tmp_path, scored(SCORES))), loss=regression_loss)
    assert next(run).loss > 0 and "pearson" in run.evaluate("test")


CLASSES = {
    "stars with halves": [f"{i % 10 / 2}" for i in range(60)],
    "whole numbers that were floats": [f"{i % 4}.0" for i in range(60)],
    "whole numbers": [f"{i % 15}" for i in range(60)],
}


@pytest.mark.parametrize("name", CLASSES)
def test_few_numbers_are_classes(tmp_path, name):
    data = read_csv(csv_file(tmp_path, scored(CLASSES[name])))
    assert len(data["train"].features["label"].names) == len(set(CLASSES[name]))


def test_many_whole_numbers_are_refused_with_both_ways_out(tmp_path):
    with pytest.raises(ValueError, match="fewer than 3 texts.*Remove or merge.*numbers to be predicted.*cast_column"):
        read_csv(csv_file(tmp_path, scored([str(i * 7) for i in range(60)])))


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

"""Splits that never overlap, the same for every seed; a learner's file is read or refused for a stated reason."""

import csv
import io
import json
import subprocess
import sys
from collections import Counter

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune_lessons.lab.data.csv_files import read_csv
from finetune_lessons.lab.data.datasets import PACKAGED, RATED, _rated_rows, load_data
from finetune_lessons.lab.data.splits import _shares, normal_form, split_rows, without_repeats

SIZES = {  # train, validation, test
    "movies": (8541, 500, 1000),
    "products": (1435, 500, 1000),
    "editorials": (1251, 500, 1000),
    "tweets": (1802, 500, 1000),
    "news": (1447, 200, 400),
}


def normal_texts(data: DatasetDict) -> list[str]:
    return [normal_form(text) for split in data.values() for text in split["text"]]


def class_shares(split: Dataset) -> np.ndarray:
    return np.bincount(split["label"]) / len(split)


# The packaged data


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_splits_have_their_sizes_and_share_no_text(name):
    data = load_data(name)
    assert tuple(len(data[split]) for split in ("train", "validation", "test")) == SIZES[name]
    texts = normal_texts(data)
    assert len(set(texts)) == len(texts)
    assert all(texts)


@pytest.mark.parametrize("name", PACKAGED)
def test_class_shares_are_equal_in_all_splits(name):
    data = load_data(name, n_train=300)
    whole = class_shares(load_data(name)["train"])
    for split in data.values():
        np.testing.assert_allclose(class_shares(split), whole, atol=1.5 / len(split) + 1e-3)


@pytest.mark.parametrize("name", RATED)
def test_intensity_is_the_mean_rating_and_decides_the_label(name):
    for split in load_data(name).values():
        assert split.column_names == ["text", "label", "intensity", "ratings"]
        assert split.features["label"].names == ["negative", "positive"]
        for row in split:
            assert row["intensity"] == pytest.approx(np.mean(row["ratings"]))
            assert row["label"] == (row["intensity"] > 0)
            assert abs(row["intensity"]) > 0.5 and -4 <= min(row["ratings"]) and max(row["ratings"]) <= 4
            assert len(row["ratings"]) >= 15


def test_movies_leave_out_exactly_the_neutral_band():
    signs = Counter(row["label"] for row in _rated_rows("movies"))
    assert signs == {"positive": 4981, "negative": 5060}  # 4,982 and 5,061 of which each has one repeated text


def test_tweets_have_no_html_entities():
    data = load_data("tweets")
    texts = " ".join(text for split in data.values() for text in split["text"])
    assert "&" in texts and "&amp;" not in texts and "&lt;" not in texts


def test_news_are_decoded_and_have_their_titles():
    data = load_data("news")
    assert data["train"].features["label"].names == ["business", "entertainment", "politics", "sports", "tech"]
    rows = [row for split in data.values() for row in split]
    assert sum("£" in row["text"] for row in rows) > 300
    assert not any("\ufffd" in row["text"] or "Â£" in row["text"] for row in rows)
    assert all(row["title"] and "\n" not in row["title"] for row in rows)
    mutu = next(row for row in rows if "fee for Mutu" in row["text"])
    assert "a £15.8m signing" in mutu["text"]  # the one file that is not UTF-8


def test_seed_and_size_change_train_only():
    whole, small, other = load_data("movies"), load_data("movies", 200, seed=1), load_data("movies", 200, seed=2)
    for split in ("validation", "test"):
        assert whole[split]["text"][:] == small[split]["text"][:] == other[split]["text"][:]
    assert set(small["train"]["text"]) < set(whole["train"]["text"])
    assert set(small["train"]["text"]) != set(other["train"]["text"])


def test_the_same_seed_gives_the_same_rows_in_a_new_process():
    code = "from finetune_lessons.lab.data.datasets import load_data; import json; "
    code += "print(json.dumps(load_data('products', 50, seed=3)['train']['text'][:]))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(printed.splitlines()[-1]) == load_data("products", 50, seed=3)["train"]["text"][:]


@pytest.mark.parametrize("n_train", [0, 1, -5, 2.5, "all"])
def test_a_senseless_n_train_is_refused(n_train):
    with pytest.raises(ValueError, match="number of classes"):
        load_data("products", n_train=n_train)


def test_too_large_an_n_train_names_what_there_is():
    with pytest.raises(ValueError, match=r"n_train=9,000.*1,435"):
        load_data("products", n_train=9000)
    assert len(load_data("products", n_train=1435)["train"]) == 1435


@pytest.mark.parametrize("name", ["movies", "news"])
def test_n_eval_keeps_the_same_texts_for_every_seed_and_size(name):
    whole = load_data(name)
    small, other = load_data(name, n_eval=60), load_data(name, n_train=50, n_eval=60, seed=7)
    for split in ("validation", "test"):
        texts = small[split]["text"][:]
        assert len(texts) == 60 and set(texts) < set(whole[split]["text"])
        assert texts == other[split]["text"][:]
        assert np.abs(class_shares(small[split]) - class_shares(whole[split])).max() < 1 / 60
    assert small["train"]["text"][:] == whole["train"]["text"][:]
    assert other["train"]["text"][:] == load_data(name, n_train=50, seed=7)["train"]["text"][:]


def test_n_eval_beyond_what_there_is_gives_all():
    whole = load_data("news")
    for n_eval, sizes in ((200, (200, 200)), (300, (200, 300)), (9000, (200, 400))):
        data = load_data("news", n_eval=n_eval)
        assert (len(data["validation"]), len(data["test"])) == sizes
        assert data["validation"]["text"][:] == whole["validation"]["text"][:]
    assert data["test"]["text"][:] == whole["test"]["text"][:]


@pytest.mark.parametrize("n_eval", [0, 4, -5, 60.0, "all", True])
def test_a_senseless_n_eval_is_refused(n_eval):
    with pytest.raises(ValueError, match=rf"n_eval={n_eval!r}: expected a whole number.*number of classes \(5\)"):
        load_data("news", n_eval=n_eval)


# Splits


@given(st.lists(st.integers(0, 4), min_size=1, max_size=200), st.data())
def test_shares_add_up_and_are_within_one_of_the_exact_share(labels, data):
    labels = np.array(labels)
    n = data.draw(st.integers(0, len(labels)))
    shares = _shares(labels, n)
    assert sum(shares.values()) == n
    for c, count in Counter(labels.tolist()).items():
        assert shares[c] <= count
        assert abs(shares[c] - count * n / len(labels)) < 1


@given(st.lists(st.integers(0, 3), min_size=3, max_size=120), st.data())
@settings(max_examples=50)
def test_splits_are_disjoint_and_complete(labels, data):
    rows = [{"text": f"t{i}", "label": str(c)} for i, c in enumerate(labels)]
    n_validation = data.draw(st.integers(1, len(rows) // 3))
    n_test = data.draw(st.integers(1, len(rows) // 3))
    splits = split_rows(rows, {"validation": n_validation, "test": n_test}, ["0", "1", "2", "3"])
    assert (len(splits["validation"]), len(splits["test"])) == (n_validation, n_test)
    texts = [text for split in splits.values() for text in split["text"]]
    assert sorted(texts) == sorted(row["text"] for row in rows)
    of_text = {row["text"]: row["label"] for row in rows}
    for split in splits.values():
        assert all(of_text[row["text"]] == split.features["label"].int2str(row["label"]) for row in split)


@given(st.lists(st.tuples(st.sampled_from(["a b", "A  b", " a b\n", "c", "C", "d"]), st.sampled_from("xy"))))
def test_repeats_keep_the_first_and_contradictions_go(pairs):
    rows = [{"text": text, "label": label} for text, label in pairs]
    kept = without_repeats(rows)
    labels_of = {}
    for row in rows:
        labels_of.setdefault(normal_form(row["text"]), set()).add(row["label"])
    assert [normal_form(row["text"]) for row in kept] == [key for key, labels in labels_of.items() if len(labels) == 1]
    assert all(row is next(r for r in rows if normal_form(r["text"]) == normal_form(row["text"])) for row in kept)


# Data from elsewhere


def labelled(texts: list[str], labels: list[int]) -> Dataset:
    label = ClassLabel(names=["bad", "good"])
    features = Features({"sentence": Value("string"), "label": label, "idx": Value("int64")})
    return Dataset.from_dict({"sentence": texts, "label": labels, "idx": range(len(texts))}, features=features)


def glue_like() -> DatasetDict:
    return DatasetDict(
        train=labelled([f"train {i}" for i in range(98)] + ["Valid  0", "train 0"], [0, 1] * 50),
        validation=labelled([f"valid {i}" for i in range(20)], [0, 1] * 10),
        test=labelled([f"hidden {i}" for i in range(20)], [-1] * 20),
    )


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for the hub: what it holds, and what it was asked for."""
    held, asked = {}, []

    def load_dataset(*arguments):
        asked.append(arguments)
        if arguments not in held:
            raise FileNotFoundError(f"no data set {arguments}")
        return held[arguments]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return held, asked


def test_a_hub_name_falls_back_to_a_configuration(hub, capsys):
    held, asked = hub
    held["glue", "sst2"] = glue_like()
    data = load_data("glue/sst2")
    assert asked == [("glue/sst2",), ("glue", "sst2")]
    assert set(data["test"]["text"]) == {f"valid {i}" for i in range(20)}
    assert len(data["validation"]) == 10 and len(data["train"]) == 88
    assert set(data["train"].column_names) == {"text", "label"}
    texts = normal_texts(data)
    assert len(texts) - len(set(texts)) <= 1  # "train 0" is twice in the source's train split
    assert "valid 0" not in map(normal_form, data["train"]["text"])
    printed = capsys.readouterr().out
    assert "labels of the test split are hidden" in printed
    assert "validation split serves as the test split" in printed
    assert "10 texts of train serve as the validation split" in printed


def test_three_parts_are_a_namespace_a_name_and_a_configuration(hub):
    held, asked = hub
    held["nyu-mll/glue", "sst2"] = glue_like()
    load_data("nyu-mll/glue/sst2", n_train=10)
    assert asked == [("nyu-mll/glue", "sst2")]


def test_carved_splits_do_not_depend_on_the_seed(hub):
    held, _ = hub
    held["some/texts",] = DatasetDict(train=glue_like()["train"])
    first, second = load_data("some/texts", seed=0), load_data("some/texts", n_train=20, seed=1)
    for split in ("validation", "test"):
        assert first[split]["text"][:] == second[split]["text"][:]
    assert (len(first["test"]), len(first["validation"])) == (10, 9)


def test_n_eval_counts_for_data_from_elsewhere(hub):
    hub[0]["some/texts",] = glue_like()
    whole, small = load_data("some/texts"), load_data("some/texts", n_eval=6, seed=1)
    for split in ("validation", "test"):
        assert Counter(small[split]["label"]) == {0: 3, 1: 3}
        assert set(small[split]["text"]) < set(whole[split]["text"])


def test_words_and_integers_become_classes(hub):
    held, _ = hub
    held["words",] = Dataset.from_dict({"text": [f"t{i}" for i in range(40)], "label": ["yes", "no"] * 20})
    held["stars",] = Dataset.from_dict({"text": [f"t{i}" for i in range(40)], "label": [10, 2] * 20})
    assert load_data("words")["train"].features["label"].names == ["no", "yes"]
    assert load_data("stars")["train"].features["label"].names == ["2", "10"]


def test_columns_that_do_not_fit_are_listed(hub):
    held, _ = hub
    held["pairs",] = Dataset.from_dict({"premise": ["a"], "label": [0]})
    held["scores",] = Dataset.from_dict({"text": ["a", "b"], "label": [0.5, 1.5]})
    with pytest.raises(ValueError, match="it has premise, label"):
        load_data("pairs")
    with pytest.raises(ValueError, match="not classes; one of them is 0.5"):
        load_data("scores")


def test_an_unknown_name_says_what_was_tried_and_what_there_is(hub):
    with pytest.raises(ValueError) as caught:
        load_data("me/nothing")
    for part in ("movies, products, editorials, tweets, news", "load_dataset('me/nothing')", "('me', 'nothing')"):
        assert part in str(caught.value)


def test_without_a_network_only_one_way_is_waited_for(hub, monkeypatch):
    asked = []

    def unreachable(*arguments):
        asked.append(arguments)
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(ValueError, match="no route"):
        load_data("me/nothing")
    assert asked == [("me/nothing",)]


def test_a_misspelt_packaged_name_never_reaches_for_the_hub(hub):
    with pytest.raises(ValueError, match="did you mean 'movies'"):
        load_data("movie")
    assert hub[1] == []


def test_a_folder_of_csv_files_and_a_saved_data_set_load(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "csv").mkdir()
    lines = [f"good film number {i},1\nbad film number {i},0\n" for i in range(30)]
    (tmp_path / "csv" / "train.csv").write_text("review,label\n" + "".join(lines))
    glue_like().save_to_disk(tmp_path / "saved")
    from_csv, saved = load_data(tmp_path / "csv"), load_data(str(tmp_path / "saved"))
    assert [len(split) for split in from_csv.values()] == [49, 5, 6]
    assert from_csv["train"].features["label"].names == ["0", "1"]
    assert len(saved["test"]) == 20
    with pytest.raises(ValueError, match="read_csv"):
        load_data(tmp_path / "csv" / "train.csv")


@pytest.mark.parametrize("disabled", [True, False])
def test_progress_bars_stay_as_the_user_set_them(hub, disabled):
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    before = are_progress_bars_disabled()
    seen = []
    hub[0]["some/texts",] = glue_like()
    try:
        (disable_progress_bars if disabled else enable_progress_bars)()
        real = datasets.load_dataset
        datasets.load_dataset = lambda *a: (seen.append(are_progress_bars_disabled()), real(*a))[1]
        load_data("some/texts")
        assert seen == [True] and are_progress_bars_disabled() is disabled
    finally:
        datasets.load_dataset = real
        (disable_progress_bars if before else enable_progress_bars)()


# A learner's own file

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
    texts = normal_texts(data)
    assert len(set(texts)) == len(texts)
    assert all(texts) and all(len(split) for split in data.values())

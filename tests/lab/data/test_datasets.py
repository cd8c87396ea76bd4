"""Splits that never overlap, the same for every seed."""

import json
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_lessons.lab.data.assets import asset_path
from finetune_lessons.lab.data.datasets import PACKAGED, RATED, _rated_rows, load_data
from finetune_lessons.lab.data.splits import _shares, balanced, letters, normal_form, split_rows, without_repeats

SIZES = {  # train, validation, test
    "movies": (8541, 500, 1000),
    "products": (1435, 500, 1000),
    "editorials": (1251, 500, 1000),
    "tweets": (1802, 500, 1000),
    "news": (1447, 200, 400),
    "reviews_zh": (14464, 500, 1000),
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


def test_reviews_are_whole_short_balanced_and_no_copies_of_each_other():
    data = load_data("reviews_zh")
    for split in data.values():
        assert split.column_names == ["text", "label"] and split.features["label"].names == ["negative", "positive"]
        assert np.bincount(split["label"]).tolist() == [len(split) / 2] * 2
    texts = [text for split in data.values() for text in split["text"]]
    assert max(map(len, texts)) == 200 and all(text == text.strip() for text in texts)
    files = [(asset_path("reviews_zh") / f"{name}.txt").read_text(encoding="utf-8") for name in ("pos", "neg")]
    assert set(texts) < {line.strip() for file in files for line in file.split("\n")}, "a review was cut"
    for part in (slice(20), slice(-20, None)):
        ends = Counter(letters(text)[part] for text in texts)
        assert ends.most_common(1)[0][1] == 1 and "" not in ends


def test_reviews_have_the_labels_of_their_files():
    positive = (asset_path("reviews_zh") / "pos.txt").read_text(encoding="utf-8").split("\n")
    found = {line.strip() for line in positive}
    assert all(row["label"] == (row["text"] in found) for row in load_data("reviews_zh", 200)["test"])


def test_what_is_left_out_of_the_reviews_is_counted(capsys):
    load_data("reviews_zh", 200)
    said = "of 35,115 texts, left out are 1,151 of more than 200 characters, 17,362 copies of others, and 638 for"
    assert said in capsys.readouterr().out and 35115 - 1151 - 17362 - 638 == sum(SIZES["reviews_zh"])


SAME = [("很好！！ ～", "很好"), ("ＧＯＯＤ good。", "goodgood"), ("１00%", "100"), (" :) ", ""), ("a_b", "ab")]


@pytest.mark.parametrize(("text", "left"), SAME)
def test_letters_are_what_copies_have_in_common(text, left):
    assert letters(text) == left


def test_balanced_keeps_the_rarest_label_whole_and_the_order():
    rows = [{"text": str(i), "label": "ab"[i % 3 > 0]} for i in range(30)]
    kept = balanced(rows)
    assert Counter(row["label"] for row in kept) == {"a": 10, "b": 10}
    assert [int(row["text"]) for row in kept] == sorted(int(row["text"]) for row in kept)
    assert kept == balanced(rows) and kept != rows[:20]


@pytest.mark.parametrize("name", ["products", "reviews_zh"])
def test_what_is_done_to_the_data_is_not_there_when_they_are_loaded_again(name, capsys):
    once = load_data(name)
    said = capsys.readouterr().out
    for split in once.values():
        split.set_format("numpy")
    del once["test"]
    again = load_data(name)
    assert {split: rows.format["type"] for split, rows in again.items()} == dict.fromkeys(again) and len(again) == 3
    assert capsys.readouterr().out == said, "the steps are said each time"


def test_seed_and_size_change_train_only():
    whole, small, other = load_data("movies"), load_data("movies", 200, seed=1), load_data("movies", 200, seed=2)
    for split in ("validation", "test"):
        assert whole[split]["text"][:] == small[split]["text"][:] == other[split]["text"][:]
    assert set(small["train"]["text"]) < set(whole["train"]["text"])
    assert set(small["train"]["text"]) != set(other["train"]["text"])


@pytest.mark.parametrize("name", ["products", "reviews_zh"])
def test_the_same_seed_gives_the_same_rows_in_a_new_process(name):
    code = "from finetune_lessons.lab.data.datasets import load_data; import json; "
    code += f"print(json.dumps([part['text'][:] for part in load_data({name!r}, 50, seed=3).values()]))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(printed.splitlines()[-1]) == [part["text"][:] for part in load_data(name, 50, seed=3).values()]


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

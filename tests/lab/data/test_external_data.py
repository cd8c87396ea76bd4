"""Data from elsewhere become three splits that share no text, and each step is said."""

import json
import os
import subprocess
import sys
from collections import Counter
from itertools import permutations

import datasets
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from finetune_lessons.lab.data.csv_files import read_csv
from finetune_lessons.lab.data.datasets import load_data
from finetune_lessons.lab.data.splits import normal_form


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


def test_a_hub_name_falls_back_to_a_configuration(hub, capsys):
    held, asked = hub
    held["glue", "sst2"] = glue_like()
    data = load_data("glue/sst2")
    assert asked == [("glue/sst2",), ("glue", "sst2")]
    assert set(data["test"]["text"]) == {f"valid {i}" for i in range(20)}
    assert len(data["validation"]) == 10 and len(data["train"]) == 88
    assert set(data["train"].column_names) == {"text", "label"}
    texts = [normal_form(text) for split in data.values() for text in split["text"]]
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


# What a label means


def rows_of(labels: list, first: int = 0, **features) -> Dataset:
    """Twenty texts of each label, label by label, so that the first label comes first."""
    texts = [f"text {first + i}" for i in range(20 * len(labels))]
    columns = {"text": texts, "label": [label for label in labels for _ in range(20)]}
    return Dataset.from_dict(columns, features=Features({"text": Value("string"), **features}) if features else None)


def names_and_classes(data: DatasetDict) -> tuple[list[str], dict[str, str]]:
    """The class names, and the name of each text's class, over all splits."""
    features = {split: part.features["label"] for split, part in data.items()}
    assert len({tuple(feature.names) for feature in features.values()}) == 1
    of_text = {row["text"]: features[split].int2str(row["label"]) for split, part in data.items() for row in part}
    return features["train"].names, of_text


AS_CLASSES = [
    ((0.0, 1.0), ["0", "1"]),
    ((-1.0, 0.0, 1.0), ["-1", "0", "1"]),
    ((-1, 0, 1), ["-1", "0", "1"]),
    (("-1", "0", "1"), ["-1", "0", "1"]),
    ((2.0, 10.0), ["2", "10"]),
    ((False, True), ["False", "True"]),
    (("nan", "None", "NA"), ["NA", "None", "nan"]),
]


@pytest.mark.parametrize("labels, classes", [(order, c) for labels, c in AS_CLASSES for order in permutations(labels)])
def test_classes_are_the_same_whichever_label_comes_first(hub, capsys, labels, classes):
    hub[0]["some/texts",] = rows_of(list(labels))
    names, of_text = names_and_classes(load_data("some/texts"))
    assert names == classes
    for i, label in enumerate(labels):
        assert of_text[f"text {20 * i}"] == (f"{label:.0f}" if isinstance(label, float) else str(label))
    assert "hidden" not in capsys.readouterr().out


def test_spaces_around_a_label_are_no_part_of_it(hub):
    hub[0]["some/texts",] = rows_of(["pos", " pos", "neg "])
    assert names_and_classes(load_data("some/texts"))[0] == ["neg", "pos"]


@pytest.mark.parametrize("labels", [*permutations([0.0, 0.5, 3.0]), *permutations([1.0, 0.0, 1e-7]), ("1", "0", "2.5")])
def test_ratings_are_refused_whichever_comes_first(hub, labels):
    hub[0]["some/texts",] = rows_of(list(labels))
    with pytest.raises(ValueError, match=r"not classes; one of them is (0\.5|1e-07|2\.5), a rating.*num_labels=1"):
        load_data("some/texts")


@pytest.mark.parametrize("labels", [[[0, 2], [1]], [[1], [0, 2]], [b"a", b"b"]])
def test_labels_that_are_no_classes_are_refused(hub, labels):
    hub[0]["some/texts",] = rows_of(labels)
    with pytest.raises(ValueError, match="not classes; one of them is .*one class"):
        load_data("some/texts")


@pytest.mark.parametrize("train, test", [([0, 1], ["0", "1"]), ([True, False], [0, 1]), (["no", "yes"], [True, False])])
def test_labels_of_several_kinds_are_refused(hub, train, test):
    for first, second in ((train, test), (test, train)):
        hub[0]["some/texts",] = DatasetDict(train=rows_of(first), test=rows_of(second, first=100))
        with pytest.raises(ValueError, match="of several kinds, .* and .*; write them all as words"):
            load_data("some/texts")


def test_whole_floats_in_one_split_and_integers_in_another_are_the_same_classes(hub):
    hub[0]["some/texts",] = DatasetDict(train=rows_of([2.0, 10.0]), test=rows_of([10, 2], first=100))
    names, of_text = names_and_classes(load_data("some/texts"))
    assert names == ["2", "10"]
    assert (of_text["text 100"], of_text["text 120"]) == ("10", "2")


NAN = float("nan")


@pytest.mark.parametrize("labels", [[NAN, 1.0, 0.0], [0.0, 1.0, NAN], ["a", "", "b"], ["a", "b", " "]])
def test_missing_labels_are_dropped_and_counted(hub, capsys, labels):
    hub[0]["some/texts",] = rows_of(labels)
    data = load_data("some/texts")
    assert "20 rows without text or label dropped" in capsys.readouterr().out
    assert sum(len(part) for part in data.values()) == 40
    assert data["train"].features["label"].num_classes == 2


@pytest.mark.parametrize("label", [-1, -1.0, "-1", None, float("nan"), ""])
def test_a_split_without_labels_is_left_out_and_that_is_said(hub, capsys, label):
    train = rows_of([0, 1] if isinstance(label, int) else [0.0, 1.0] if isinstance(label, float) else ["0", "1"])
    hub[0]["some/texts",] = DatasetDict(train=train, test=rows_of([label, label], first=100))
    data = load_data("some/texts")
    assert "labels of the test split are hidden" in capsys.readouterr().out
    assert set(data["test"]["text"]) < set(train["text"])


def test_a_test_split_without_a_label_column_is_left_out(hub, capsys):
    hub[0]["some/texts",] = DatasetDict(train=rows_of([0, 1]), test=rows_of([0], first=100).remove_columns("label"))
    assert len(load_data("some/texts")["test"]) == 4
    assert "labels of the test split are hidden" in capsys.readouterr().out


def test_only_hidden_labels_leave_nothing_to_train_on(hub):
    hub[0]["some/texts",] = DatasetDict(train=rows_of([-1]), validation=rows_of([0, 1], first=100))
    with pytest.raises(ValueError, match="no split named train with labels"):
        load_data("some/texts")


def test_a_few_rows_of_minus_one_among_named_classes_have_no_label(hub, capsys):
    hub[0]["some/texts",] = rows_of([1, -1, 0], label=ClassLabel(names=["bad", "good"]))
    names, of_text = names_and_classes(load_data("some/texts"))
    assert names == ["bad", "good"] and len(of_text) == 40
    assert "20 rows without text or label dropped" in capsys.readouterr().out


def test_classes_that_each_split_numbers_alone_are_mapped_by_name(hub):
    train = rows_of([0, 1, 2], label=ClassLabel(names=["anger", "joy", "sorrow"]))
    test = rows_of([0, 1], first=100, label=ClassLabel(names=["joy", "anger"]))
    hub[0]["some/texts",] = DatasetDict(train=train, test=test)
    names, of_text = names_and_classes(load_data("some/texts"))
    assert names == ["anger", "joy", "sorrow"]
    assert [of_text[f"text {i}"] for i in (0, 20, 40, 100, 120)] == ["anger", "joy", "sorrow", "joy", "anger"]


@pytest.mark.parametrize("numbered", [True, False])
def test_a_class_that_only_the_test_split_has_is_refused(hub, numbered):
    test = rows_of([0, 1], 100, label=ClassLabel(names=["joy", "fear"])) if numbered else rows_of(["joy", "fear"], 100)
    train = rows_of([0, 1], label=ClassLabel(names=["anger", "joy"]))
    hub[0]["some/texts",] = DatasetDict(train=train, test=test)
    with pytest.raises(ValueError, match="test split has the class 'fear', .* none of train's .'anger', 'joy'"):
        load_data("some/texts")


def test_texts_that_are_no_strings_are_refused(hub):
    hub[0]["some/texts",] = Dataset.from_dict({"text": [0.0, 1.0, 7.0] * 5, "label": ["a", "b", "c"] * 5})
    with pytest.raises(ValueError, match="column 'text', must be strings; some are float"):
        load_data("some/texts")


@pytest.mark.parametrize("order", list(permutations(["dev", "validation", "val"])))
def test_of_several_validation_splits_the_one_of_that_name_is_used(hub, capsys, order):
    parts = {split: rows_of(["a", "b"], 100 * (1 + len(split))) for split in order}
    hub[0]["some/texts",] = DatasetDict(train=rows_of(["a", "b"]), **parts, test=rows_of(["a", "b"], 2000))
    assert set(load_data("some/texts")["validation"]["text"]) == set(parts["validation"]["text"])
    assert "not used: dev, val." in capsys.readouterr().out


# Folders of CSV files


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Writes CSV files into a folder, by split."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def write(**contents: str | bytes):
        (tmp_path / "csv").mkdir()
        for split, content in contents.items():
            content = content if isinstance(content, bytes) else content.encode()
            (tmp_path / "csv" / f"{split}.csv").write_bytes(content)
        return tmp_path / "csv"

    return write


def lines(*labels: str, n: int = 30, separator: str = ",") -> str:
    rows = [(f"{label} text {i}", label) for i in range(n) for label in labels]
    return "".join(f"{separator.join(row)}\n" for row in [("text", "label"), *rows])


@pytest.mark.parametrize("word", ["None", "NA", "null", "nan", "N/A", "n/a", "NaN", "NULL", "<NA>", "-nan"])
def test_a_class_of_any_word_is_a_class(folder, capsys, word):
    names, of_text = names_and_classes(load_data(folder(train=lines(word, "other"))))
    assert names == sorted([word, "other"])
    assert len(of_text) == 60 and Counter(of_text.values()) == {word: 30, "other": 30}
    assert "dropped" not in capsys.readouterr().out


def test_cells_stay_as_they_are_written(folder):
    texts = ["007", "7", "1.50", "nan", "None", "1e3", "True", "2024-01-02", *map(str, range(100, 120))]
    content = "text,label\n" + "".join(f"{text}, {'ab'[i % 2]} \n" for i, text in enumerate(texts))
    names, of_text = names_and_classes(load_data(folder(train=content)))
    assert names == ["a", "b"]
    assert of_text == {text: "ab"[i % 2] for i, text in enumerate(texts)}


def test_numbers_are_the_classes_that_read_csv_makes_of_them(folder):
    path = folder(train=lines("-1", "1.0", "0", "01"))
    assert names_and_classes(load_data(path)) == names_and_classes(read_csv(path / "train.csv"))
    assert names_and_classes(load_data(path))[0] == ["-1", "0", "1"]


@pytest.mark.parametrize("cells", ["text,label\nunseen {i},\n", "text\nunseen {i}\n", "id,text\n{i},unseen {i}\n"])
def test_a_test_file_without_labels_is_left_out(folder, capsys, cells):
    header, row = cells.split("\n")[:2]
    test = header + "\n" + "".join(row.format(i=i) + "\n" for i in range(5))
    data = load_data(folder(train=lines("a", "b"), test=test))
    assert "labels of the test split are hidden" in capsys.readouterr().out
    assert len(data["test"]) == 6 and not any("unseen" in text for text in data["test"]["text"])


@pytest.mark.parametrize("separator", [";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_files_in_a_folder_are_read_as_single_ones_are(folder, encoding, separator):
    content = lines("süß", "sauer", separator=separator).encode(encoding)
    assert names_and_classes(load_data(folder(train=content)))[0] == ["sauer", "süß"]


@pytest.mark.parametrize(
    "content, fault",
    [
        ("id;premise;label\n1;a;b\n", "it has id, premise, label"),
        ("text,text,label\na,b,c\n", "2 columns named 'text'"),
        ("text,label\na,b,c\n", "train.csv, line 2: 3 cells under 2 columns"),
    ],
)
def test_a_file_in_a_folder_that_cannot_be_used_is_refused_for_a_stated_reason(folder, content, fault):
    with pytest.raises(ValueError, match=fault):
        load_data(folder(train=content))


def test_csv_files_of_the_hub_keep_their_words_too(folder, monkeypatch):
    path, real = str(folder(train=lines("None", "other"))), datasets.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", lambda name, **reading: real(path, **reading))
    names, of_text = names_and_classes(load_data("me/mine"))
    assert names == ["None", "other"] and len(of_text) == 60


def test_every_process_makes_the_same_splits(folder):
    path = folder(train=lines("b", "None", "a", "é"), test=lines("é", "b", n=5).replace("text ", "new "))
    code = "import json, sys; from finetune_lessons.lab.data.datasets import load_data; "
    code += "data = load_data(sys.argv[1], 40); "
    code += "print(json.dumps([data['train'].features['label'].names, {s: d[:] for s, d in data.items()}]))"
    printed = []
    for seed in ("0", "1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "LC_ALL": "C" if seed == "2" else "C.UTF-8"}
        done = subprocess.check_output([sys.executable, "-c", code, path], env=environment, text=True)
        printed.append(json.loads(done.splitlines()[-1]))
    assert printed[0] == printed[1] == printed[2]
    assert printed[0][0] == ["None", "a", "b", "é"]

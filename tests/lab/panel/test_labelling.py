"""A person labels texts; the file has all that was answered, and nothing of it is lost."""

import csv

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_lessons.lab.data.csv_files import read_csv
from finetune_lessons.lab.data.label_files import read_labels, write_labels
from finetune_lessons.lab.panel import labelling
from finetune_lessons.lab.panel.labelling import Labeller

TEXTS = ["A waste of time.", 'He said "no", twice.', "两个小时\n很好看", "Fine <b>film</b>, & more", "=1+1"]
NAMES = ["blame", "praise"]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "folder" / "labels.csv"


def rows(file):
    with file.open(encoding="utf-8-sig", newline="") as lines:
        return list(csv.reader(lines))


def test_each_answer_is_in_the_file_at_once(file):
    labeller = Labeller(TEXTS, NAMES, file)
    assert not file.exists()
    for done, (key, label) in enumerate(zip("12-2", ["blame", "praise", "", "praise"], strict=True), 1):
        labeller.field.value += key
        assert rows(file)[0] == ["text", "label"] and rows(file)[done:] == [[TEXTS[done - 1], label]]
    assert labeller.labels == {TEXTS[0]: "blame", TEXTS[1]: "praise", TEXTS[3]: "praise"}
    assert labeller.data().features["label"].names == NAMES
    assert labeller.data()["label"][:] == [0, 1, 1]
    assert repr(labeller) == "Labeller: 4 of 5 answered: blame 1, praise 2, passed over 1"
    assert f". Kept in {file}" in labeller.status.value
    page = labeller._repr_mimebundle_()["text/html"]
    assert page.count("<td>blame</td>") == 1 and page.count("<td>passed over</td>") == 1


def test_backspace_and_undo_take_the_last_answer_back(file):
    labeller = Labeller(TEXTS, NAMES, file)
    labeller.field.value = "122"
    labeller.field.value = "12"
    assert labeller.keys == "12" and len(rows(file)) == 3
    assert "两个小时" in labeller.text.value
    labeller.undo.click()
    assert labeller.keys == labeller.field.value == "1" and len(rows(file)) == 2
    labeller.undo.click()
    assert rows(file) == [["text", "label"]] and labeller.undo.disabled
    labeller.keys = "2"
    assert rows(file)[1:] == [[TEXTS[0], "praise"]]


def test_buttons_answer_as_keys_do(file):
    labeller = Labeller(TEXTS, NAMES, file)
    assert [button.description for button in labeller.buttons.values()] == ["1 blame", "2 praise", "- pass over"]
    for name in ("praise", "", "blame"):
        labeller.buttons[name].click()
    assert labeller.keys == labeller.field.value == "2-1"


def test_a_new_labeller_goes_on_where_the_file_ends(file):
    Labeller(TEXTS, NAMES, file).keys = "21-"
    again = Labeller([TEXTS[4], *TEXTS[:4]], NAMES, file)
    assert again.keys == again.field.value == "21-" and again.texts == [*TEXTS[:3], TEXTS[4], TEXTS[3]]
    again.undo.click()
    again.keys += "1"
    assert rows(file)[3] == [TEXTS[2], "blame"]


def test_other_texts_in_the_file_stay(file):
    Labeller(TEXTS[:2], NAMES, file).keys = "21"
    later = Labeller(TEXTS[2:], NAMES, file)
    assert later.keys == ""
    later.keys = "1"
    assert rows(file)[1:] == [[TEXTS[0], "praise"], [TEXTS[1], "blame"], [TEXTS[2], "blame"]]


def test_the_end_is_said_and_nothing_goes_beyond_it(file):
    labeller = Labeller(TEXTS, NAMES, file)
    labeller.keys = "1212121"
    assert labeller.keys == "12121" and len(rows(file)) == 6
    assert "All texts are answered" in labeller.text.value
    assert all(button.disabled for button in labeller.buttons.values()) and not labeller.undo.disabled


@pytest.mark.parametrize("typed", ["1x", "1 ", "13", "10", "1\n"])
def test_another_key_is_answered_in_words_and_changes_nothing(file, typed):
    labeller = Labeller(TEXTS, NAMES, file)
    labeller.field.value = typed
    assert labeller.keys == labeller.field.value == "1"
    assert "no answer here: 1, 2, -, or Backspace." in labeller.status.value and "alert" in labeller.status.value
    labeller.field.value = "12"
    assert "alert" not in labeller.status.value


def test_a_text_is_shown_as_it_is_and_is_no_html(file):
    labeller = Labeller(TEXTS, NAMES, file)
    labeller.keys = "111"
    assert "Fine &lt;b&gt;film&lt;/b&gt;, &amp; more" in labeller.text.value


def test_what_cannot_be_written_is_said_and_kept(file, monkeypatch):
    labeller = Labeller(TEXTS, NAMES, file)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(labelling, "write_labels", full)
    labeller.keys = "12"
    assert "Not written" in labeller.status.value and "No space left on device" in labeller.status.value
    assert labeller.labels == {TEXTS[0]: "blame", TEXTS[1]: "praise"}
    monkeypatch.undo()
    labeller.keys += "1"
    assert len(rows(file)) == 4 and "Not written" not in labeller.status.value


def test_a_broken_write_leaves_the_file_as_it_was(file, monkeypatch):
    write_labels(file, {"a": "blame"})
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("gone")))
    with pytest.raises(OSError, match="gone"):
        write_labels(file, {"a": "praise"})
    assert rows(file)[1:] == [["a", "blame"]] and [path.name for path in file.parent.iterdir()] == [file.name]


def test_read_csv_reads_what_was_labelled(file):
    texts = [f"Text {i} of some length, 好" for i in range(20)]
    Labeller(texts, NAMES, file).keys = "1212121212121212121-"
    data = read_csv(file)
    assert {split: len(part) for split, part in data.items()} == {"train": 13, "validation": 2, "test": 4}
    assert data["train"].features["label"].names == NAMES


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(min_size=1), st.sampled_from(["", *NAMES]), max_size=5))
def test_any_text_comes_back_from_the_file(tmp_path_factory, labels):
    file = tmp_path_factory.mktemp("any") / "labels.csv"
    write_labels(file, labels)
    assert read_labels(file, NAMES) == labels


def test_a_file_of_something_else_is_refused_and_stays(file):
    file.parent.mkdir()
    for content in ("", "text;label\na;blame\n", "id,text,label\n1,a,blame\n", "text,label\na,blame,more\n"):
        file.write_text(content)
        with pytest.raises(ValueError, match="is not a file of labels, with the columns text and label"):
            Labeller(TEXTS, NAMES, file)
        assert file.read_text() == content
    write_labels(file, {"a": "sports"})
    with pytest.raises(ValueError, match="labels of other classes, such as 'sports'"):
        Labeller(TEXTS, NAMES, file)


@pytest.mark.parametrize(
    ("texts", "names", "said"),
    [
        ([], NAMES, "no text to label"),
        ([1, 2], NAMES, "texts are a text or a list of texts"),
        (TEXTS, ["one"], "two to nine different classes"),
        (TEXTS, ["one", "one"], "two to nine different classes"),
        (TEXTS, [str(i) for i in range(10)], "two to nine different classes"),
        (TEXTS, "blame", "names are those of the classes"),
        (TEXTS, ["blame", ""], "names are those of the classes"),
        (TEXTS, [0, 1], "names are those of the classes"),
    ],
)
def test_what_cannot_be_labelled_is_refused(file, texts, names, said):
    with pytest.raises(ValueError, match=said):
        Labeller(texts, names, file)


def test_data_without_a_label_is_refused(file):
    with pytest.raises(ValueError, match="no text is labelled yet"):
        Labeller(TEXTS, NAMES, file).data()

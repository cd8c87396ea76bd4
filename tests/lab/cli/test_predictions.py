"""`finetune-lessons predict`: the rows of a file again, in their order, with what the model says."""

import csv

import pandas as pd
import pytest
from tiny import tiny_run

from finetune_lessons.lab.cli import main


@pytest.fixture
def folder(arguments, tmp_path, capsys):
    "With a model, and the run that it came from."
    run, model = str(tmp_path / "run"), str(tmp_path / "m")
    assert main([*arguments, "--lr", "1e-2", "--epochs", "6", "--save", run, "--model-out", model]) == 0
    capsys.readouterr()
    return tmp_path


def predict(folder, file, model="m", *more) -> int:
    return main(["predict", str(file), "--text", "body", "--model", str(folder / model), "--out",
                 str(folder / "answers.csv"), *more])  # fmt: skip


def test_every_row_keeps_its_place_and_gets_the_name_of_a_class(folder, files, capsys):
    assert predict(folder, files / "new.csv") == 0
    assert "answers.csv: 3 rows, 1 without a text, with prediction and confidence" in capsys.readouterr().out
    first, second, third = csv.DictReader((folder / "answers.csv").open())
    assert (first["id"], first["prediction"]) == ("1", "glad") and 0.5 < float(first["confidence"]) <= 1
    assert second == {"id": "2", "body": "", "prediction": "", "confidence": ""}
    assert (third["id"], third["prediction"]) == ("3", "sad")


def test_a_saved_run_says_the_same_as_its_model(folder, files):
    assert predict(folder, files / "new.csv") == 0
    of_model = pd.read_csv(folder / "answers.csv")
    assert predict(folder, files / "new.csv", "run") == 0
    pd.testing.assert_frame_equal(pd.read_csv(folder / "answers.csv"), of_model, atol=1e-4)


def test_a_run_with_a_method_that_does_not_merge_can_predict(arguments, files, tmp_path):
    assert main([*arguments, "--method", "adapters", "--lr", "3e-2", "--save", str(tmp_path / "run")]) == 0
    assert predict(tmp_path, files / "new.csv", "run") == 0
    assert pd.read_csv(tmp_path / "answers.csv")["prediction"].tolist()[::2] == ["glad", "sad"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("body\n", "has no text in the column 'body'"),
        ("id,body\n1,\n", "has no text in the column 'body'"),
        ("text,other\na,b\n", "has no column 'body'; its columns are 'text', 'other'"),
        ("body,prediction\na,b\n", "has a column 'prediction' already: rename it"),
        ("body,confidence\na,b\n", "has a column 'confidence' already: rename it"),
        ("body,id\na,b,c\n", "line 2: 3 cells under 2 columns"),
        (None, "there is no file"),
    ],
)
def test_a_file_without_texts_is_refused_and_nothing_written(content, said, tmp_path, capsys):
    if content:
        (tmp_path / "new.csv").write_text(content)
    assert predict(tmp_path, tmp_path / "new.csv") == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "answers.csv").exists()


def test_a_model_without_a_trained_head_is_refused(files, tmp_path, capsys):
    out = ("--out", str(tmp_path / "a.csv"))
    assert main(["predict", str(files / "new.csv"), "--text", "body", "--model", str(files / "model"), *out]) == 1
    assert "is no trained classifier (classifier would be random)" in capsys.readouterr().err


def test_a_run_saved_from_python_does_not_say_what_it_needs(files, tmp_path, capsys):
    tiny_run().save(tmp_path / "run")
    assert predict(tmp_path, files / "new.csv", "run") == 1
    assert "was not saved by finetune-lessons train" in capsys.readouterr().err


def test_the_texts_are_not_overwritten(files, capsys):
    new = str(files / "new.csv")
    assert main(["predict", new, "--text", "body", "--model", "m", "--out", new]) == 1
    assert "would overwrite the texts themselves" in capsys.readouterr().err

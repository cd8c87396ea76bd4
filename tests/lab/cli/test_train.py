"""`finetune-lessons train`: what it says, what it makes, what it refuses."""

import json
import os

import pandas as pd
import pytest
from transformers import AutoModelForSequenceClassification, pipeline

from finetune_lessons.lab.cli import made, main
from finetune_lessons.lab.training.run_files import read_header
from finetune_lessons.model_surgery import METHODS

OWN = {
    "lora": [
        "--r",
        "2",
        "--lora-alpha",
        "8",
        "--target-modules",
        "query",
        "--rank-pattern",
        "0.attention.self.query=3",
    ],
    "adapters": ["--bottleneck-size", "4", "--placement", "pfeiffer"],
    "prefix": ["--num-virtual-tokens", "3", "--layers", "0", "1"],
    "prompt": ["--num-virtual-tokens", "3"],
    "probe": [],
    "full": [],
}


def trained(arguments, *more) -> int:
    return main([*arguments, *map(str, more)])


def as_json(capsys) -> dict:
    (line,) = capsys.readouterr().out.splitlines()
    return json.loads(line)


# what it says


def test_the_first_line_says_what_is_done_and_the_second_how_much(arguments, capsys):
    assert trained(arguments) == 0
    first, second, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith(f"Trains {arguments[2]} on {arguments[4]}, full: lr=0.003, epochs=2.0, batch_size=8;")
    assert first.endswith("not saved (--save FILE).")
    assert "2 classes (glad, sad)" in second and "12 steps of 8 texts in fp32." in second
    assert "42 train, 6 validation, 12 test" in second
    assert last.startswith("accuracy ")


def test_what_is_said_first_does_not_wait_for_data_or_model(monkeypatch, capsys):
    def fail(*_):
        raise ValueError("came to the data")

    monkeypatch.setattr(made, "_data", fail)
    assert main(["train"]) == 1
    printed = capsys.readouterr()
    assert (
        printed.out == "Trains minilm on movies, full: lr=0.0001, epochs=2, batch_size=32; not saved (--save FILE).\n"
    )
    assert "came to the data" in printed.err


def test_json_is_all_that_is_printed(arguments, files, tmp_path, capsys):
    out = tmp_path / "answers.csv"
    wanted = ("--save", tmp_path / "run", "--model-out", tmp_path / "m", "--predict", files / "new.csv", "--out", out)
    assert trained(arguments, "--json", "--max-grad-norm", "inf", *wanted) == 0
    found = as_json(capsys)
    assert found["method"] == "full" and found["steps"] == 12 and found["lr"] == 3e-3
    assert found["max_grad_norm"] is None  # JSON has no infinity
    assert found["trainable"] == found["parameters"] > 0
    assert set(found["metrics"]) == {"accuracy", "precision", "recall", "f1", "loss"}


def test_an_error_leaves_no_half_of_an_object(arguments, capsys):
    assert trained(arguments, "--json", "--lr", "-1") == 1
    printed = capsys.readouterr()
    assert printed.out == "" and "lr must be a number above 0" in printed.err


def test_help_shows_an_example_defaults_and_the_methods_options(capsys):
    for method, shown in (("full", "--warmup"), ("lora", "--lora-alpha"), ("adapters", "--bottleneck-size")):
        with pytest.raises(SystemExit) as stop:
            main(["train", "--method", method, "--help"])
        printed = " ".join(capsys.readouterr().out.split())
        assert stop.value.code == 0 and shown in printed
        assert "finetune-lessons train --csv mails.csv" in printed and "(default: 0.0001)" in printed


# methods and settings


def test_the_methods_are_those_that_a_file_can_hold():
    assert {f"add_{method}": lesson for method, lesson in made.LESSON_OF.items()} == METHODS


@pytest.mark.parametrize("method", made.METHODS)
def test_every_method_trains_with_its_own_options(method, arguments, tmp_path, capsys):
    assert trained(arguments, "--method", method, *OWN[method], "--json", "--save", tmp_path / "run") == 0
    found = as_json(capsys)
    body, head = 64 * 2 + 2, 32 * 2 + 2
    expected = {
        "lora": 2 * 32 * 3 + 2 * 32 * 2 + head,
        "adapters": 2 * (2 * 32 * 4 + 4 + 32) + head,
        "prefix": 2 * 2 * 3 * 32 + head,
        "prompt": 3 * 32 + head,
        "probe": head,
        "full": found["parameters"],
    }[method]
    assert found["trainable"] == expected and body
    header = read_header(tmp_path / "run")
    assert header["made_with"]["method"] == method and header["index"] == 12


def test_every_setting_of_a_run_is_an_option():
    of_runs = {"lr", "epochs", "batch_size", "schedule", "warmup", "weight_decay", "max_grad_norm", "grad_accum",
               "precision", "eval_every", "seed", "keep_best"}  # fmt: skip
    assert of_runs <= {parameter.name for parameter in made.SETTINGS}


def test_every_argument_of_a_method_is_an_option():
    by_method = {method: {parameter.name for parameter in made.of_method(method)} for method in made.LESSON_OF}
    assert by_method["lora"] == {
        "r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora", "modules_to_save", "layers", "exclude",
        "rank_pattern", "alpha_pattern",
    }  # fmt: skip
    assert {"bottleneck_size", "placement", "activation", "target_modules"} <= by_method["adapters"]
    assert {"num_virtual_tokens", "reparametrization", "layers"} <= by_method["prefix"]
    assert {"num_virtual_tokens", "modules_to_save"} <= by_method["prompt"]


def test_settings_reach_the_run(arguments, tmp_path, capsys):
    chosen = ["--schedule", "cosine", "--warmup", "0.2", "--weight-decay", "0.1", "--grad-accum", "2", "--eval-every",
              "3", "--seed", "5", "--keep-best", "accuracy", "--optimizer", "SGD"]  # fmt: skip
    assert trained(arguments, *chosen, "--save", tmp_path / "run") == 0
    header = read_header(tmp_path / "run")
    config = {"schedule": "cosine", "warmup": 0.2, "weight_decay": 0.1, "grad_accum": 2, "eval_every": 3, "seed": 5}
    assert config.items() <= header["config"].items()
    assert header["optimizer"]["class"] == "SGD" and header["best"]["value"] is not None


def test_the_best_weights_are_those_that_are_measured(arguments, tmp_path, capsys):
    metrics = []
    for extra in ([], ["--keep-best", "loss"]):
        assert trained(arguments, "--lr", "0.3", "--eval-every", "1", "--json", *extra) == 0
        metrics.append(as_json(capsys)["metrics"])
    assert metrics[0]["loss"] > metrics[1]["loss"]


def test_a_cache_is_used(arguments, tmp_path, capsys):
    assert trained(arguments, "--method", "probe", "--cache", "--save", tmp_path / "run") == 0
    assert read_header(tmp_path / "run")["cached"]


# the model


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_model_is_a_plain_one_with_the_names_of_its_classes(method, arguments, files, tmp_path, capsys):
    out = tmp_path / "answers.csv"
    wanted = ("--model-out", tmp_path / "m", "--predict", files / "new.csv", "--out", out)
    assert trained(arguments, "--method", method, *wanted) == 0
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "m")
    assert model.config.id2label == {0: "glad", 1: "sad"}
    answers = pd.read_csv(out)
    said = pipeline("text-classification", str(tmp_path / "m"))(answers["body"][0])[0]
    assert said["label"] == answers["prediction"][0]
    assert said["score"] == pytest.approx(answers["confidence"][0], abs=1e-4)


@pytest.mark.parametrize("method", ["adapters", "prefix", "prompt"])
def test_what_cannot_be_merged_is_refused_before_it_is_trained(method, arguments, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("finetune_lessons.lab.training.run.Run.__next__", lambda run: pytest.fail("trained"))
    assert trained(arguments, "--method", method, "--model-out", tmp_path / "m") == 1
    assert f"what --method {method} learns cannot be merged" in capsys.readouterr().err


# what is refused


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--csv", "a.csv", "--data", "movies"], "argument --data: not allowed with argument --csv"),
        (["--r", "8"], "--r is an option of --method lora"),
        (["--num-virtual-tokens=8"], "--num-virtual-tokens is an option of --method prefix or prompt"),
        (["--method", "lora", "--placement", "pfeiffer"], "--placement is an option of --method adapters"),
        (["--method", "ia3"], "invalid choice: 'ia3'"),
        (["--method", "lora", "--r", "much"], "argument --r: invalid int value: 'much'"),
        (["--method", "lora", "--rank-pattern", "query"], "expected NAME=NUMBER, given: 'query'"),
        (["--method", "lora", "--rank-pattern", "query=x"], "expected NAME=NUMBER, given: 'query=x'"),
        (["--colour", "red"], "unknown: --colour red\n"),
        (["--learning-rate", "1e-3"], "unknown: --learning-rate 1e-3; did you mean --lr?"),
        (["--learning_rate=1e-3"], "unknown: --learning_rate=1e-3; did you mean --lr?"),
        (["--per_device_train_batch_size", "8"], "8; did you mean --batch-size?"),
        (["--epoch", "1"], "unknown: --epoch 1; did you mean --epochs?"),
        (["--comand", "1"], "unknown: --comand 1\n"),
    ],
)
def test_a_wrong_command_line_is_refused_with_its_usage(wrong, said, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", *wrong])
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--label", "mood"], "--label names a column of --csv FILE, which is missing"),
        (["--text", "body"], "--text names a column of --csv or --predict FILE, which is missing"),
        (["--save-every", "3"], "--save-every says how often --save FILE is written, which is missing"),
        (["--predict", "new.csv"], "--predict FILE and --out FILE belong together"),
        (["--out", "new.csv"], "--predict FILE and --out FILE belong together"),
        (["--predict", "./a.csv", "--out", "a.csv"], "--out a.csv would overwrite the texts themselves"),
        (["--predict", "nowhere.csv", "--out", "a.csv"], "there is no file nowhere.csv"),
        (["--save", "."], "--save is a file; . is a folder"),
        (["--history", "."], "--history is a file; . is a folder"),
        (["--n-train", "64", "--optimizer", "Sgd"], "--optimizer is one of torch.optim: "),
        (["--n-train", "64", "--method", "lora", "--r", "0"], "r is a rank, a whole number of at least 1; given: 0"),
        (["--n-train", "64", "--schedule", "step"], "schedule must be one of linear, cosine, constant"),
        (["--model", "nowhere"], "could not load 'nowhere'"),
    ],
)
def test_what_cannot_be_done_is_said_in_words_and_nothing_is_trained(wrong, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("finetune_lessons.lab.training.run.Run.__next__", lambda run: pytest.fail("trained"))
    assert main(["train", *wrong]) == 1
    error = capsys.readouterr().err
    assert error.startswith("finetune-lessons: ") and said in error
    assert not os.listdir(tmp_path)

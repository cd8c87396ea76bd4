"""Texts of a CSV file classified: the file again, with prediction and confidence."""

import csv
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_lessons.lab.cli import made
from finetune_lessons.lab.cli.options import add_options

if TYPE_CHECKING:
    import pandas as pd

    from finetune_lessons.lab.data.csv_table import Table

Predict = Callable[[list[str]], "pd.DataFrame"]
ADDED = ("prediction", "confidence")
TEXT = tuple(p for p in made.COLUMNS if p.name == "text")
EXAMPLE = "finetune-lessons predict new.csv --text body --model mails-model --out answers.csv"


def add_predict(predict: ArgumentParser) -> None:
    predict.epilog = EXAMPLE
    predict.add_argument("file", type=Path, help="CSV or TSV file of texts")
    add_options(predict, TEXT)
    predict.add_argument(
        "--model", required=True, metavar="PATH", help="folder of --model-out (or hub id), or file of train --save"
    )
    predict.add_argument("--out", type=Path, required=True, metavar="FILE", help="the same with prediction, confidence")
    predict.set_defaults(command=_predict)


def _predict(options: Namespace) -> None:
    check_out(options.file, options.out)
    table, texts = read_texts(options.file, options.text)
    predict = _of_run(options.model) if Path(options.model).is_file() else _of_model(options.model)
    write_predictions(table, texts, predict, options.out)


def _of_run(path: str) -> Predict:
    from finetune_lessons.lab.training.run_files import read_header

    made_with = read_header(Path(path))["made_with"]
    if not made_with:
        raise ValueError(
            f"{path} was not saved by finetune-lessons train, so it does not say of which model and data: "
            "in Python, Run.resume(...).predict(texts)"
        )
    return made.remake(path, made_with).predict


def _of_model(name: str) -> Predict:
    from finetune_lessons.lab.models.loading import load_encoder
    from finetune_lessons.lab.models.new_modules import MADE_ANEW
    from finetune_lessons.lab.models.predicting import predict

    model, tokenizer = load_encoder(name)
    if new := getattr(model, MADE_ANEW, ()):
        raise ValueError(
            f"{name!r} is no trained classifier ({new[0]} would be random): "
            "finetune-lessons train --model-out FOLDER makes one"
        )
    return lambda texts: predict(model, tokenizer, texts)


def check_out(file: Path, out: Path) -> None:
    if out.is_dir():
        raise ValueError(f"--out is a file; {out} is a folder")
    if out.resolve() == file.resolve():
        raise ValueError(f"--out {out} would overwrite the texts themselves: choose another file")


def read_texts(
    file: Path,
    column: str | None,  # of the texts; None: the default of `read_csv`
) -> "tuple[Table, list[str]]":
    "The whole table, and its texts. Raises ValueError where there are none, or the new columns are there already."
    from finetune_lessons.lab.data.csv_table import read_table

    if not file.is_file():
        raise ValueError(f"there is no file {file}")
    name = column or TEXT[0].default
    table = read_table(file, (name,))
    texts = table.column(name)
    if taken := [name for name in ADDED if name in table.names]:
        raise ValueError(f"{file} has a column {taken[0]!r} already: rename it")
    if not any(texts):
        raise ValueError(f"{file} has no text in the column {name!r}")
    return table, texts


def write_predictions(table: "Table", texts: list[str], predict: Predict, out: Path) -> None:
    "A row without a text keeps its place, and gets neither."
    found = predict([text for text in texts if text])
    added = [name for name in ADDED if name in found.columns]
    answers = iter(found[added].itertuples(index=False, name=None))
    nothing = ("",) * len(added)
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*table.names, *added])
        for (_, cells), text in zip(table.rows, texts, strict=True):
            padded = cells + [""] * (len(table.names) - len(cells))
            writer.writerow([*padded, *map(_cell, next(answers) if text else nothing)])
    without = f", {texts.count('')} without a text" if "" in texts else ""
    print(f"{out}: {len(texts)} rows{without}, with {' and '.join(added)}")


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return "; ".join(map(str, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)

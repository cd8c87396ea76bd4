"""A tiny model's folder and a CSV file for the command, without a network."""

import csv
from pathlib import Path

from tiny import BAD, GOOD, tiny_model, tiny_rows, tiny_tokenizer


def write_model(folder: Path) -> Path:
    "A body without a head, so that the command makes one."
    tiny_model("bert", dropout=True).bert.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def write_csv(path: Path, rows: int = 60) -> Path:
    "`mood` is glad or sad."
    texts = tiny_rows(rows)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["body", "mood"])
        writer.writerows(zip(texts["text"], (("sad", "glad")[n] for n in texts["label"]), strict=True))
    return path


def write_new_texts(path: Path) -> Path:
    path.write_text(f"id,body\n1,{' '.join(GOOD)}\n2,\n3,{' '.join(BAD)}\n", encoding="utf-8")
    return path

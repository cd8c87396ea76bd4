"""The table of what works on what. `make works` measures it anew and writes it to where it is kept."""

import csv
import importlib.metadata
import os
import subprocess
import sys
import tempfile
import textwrap
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import nbformat
import torch
import zoo

ROOT = Path(__file__).parents[1]
CSV, INDEX, CELL = ROOT / "nbs/results/works.csv", ROOT / "nbs/index.ipynb", "index-14"
ADAPTERS = ("Houlsby", "Pfeiffer", "parallel")
OURS = ("LoRA", *ADAPTERS, "prefix", "prompt", "LoRA and prompt")
THEIRS = ("peft LoRA", "peft prefix", "peft prompt")
SHOWN = (*OURS[:-1], *THEIRS)
SIGNS = {"works": "✓", "refused": "refused", "fails": "✗", "wrong": "✗", "none": "none"}
Row = dict[str, str]


def read() -> dict[tuple[str, str], Row]:
    "The rows by architecture and kind."
    with CSV.open(encoding="utf-8", newline="") as file:
        return {(row["architecture"], row["kind"]): row for row in csv.DictReader(file)}


def markdown(rows: Iterable[Row]) -> str:
    "What the notebook index, and so the README, says of them."
    rows = list(rows)
    names, kinds = ({row[key] for row in rows} for key in ("architecture", "kind"))
    works = {method: sum(row[method] == "works" for row in rows) for method in SHOWN}
    said = ", ".join(kind.replace("_", " ").replace(" lm", " LM") for kind in zoo.KINDS if kind in kinds)
    text = f"""
        Each method on {len(names)} architectures of transformers {rows[0]["transformers"]} and {len(kinds)} kinds of
        model ({said}), all tiny and random:
        {len(rows)} models. ✓ is: the same answers as before when just added (but for a prefix and a prompt), a gradient
        for every part, nothing else moves, equal after saving and loading, the pretrained model to the bit when
        switched off or taken out. "Refused" is: one or two sentences say why, and what to do instead; the model is as
        it was. The last columns are the same in peft {rows[0]["peft"]}, which has no bottleneck adapters; ✗ is a
        crash, a wrong result or a part that is never trained, none a kind of model that peft has no such method for.
        LoRA works on {works["LoRA"]} of the {len(rows)} models (in peft, with its default targets or all linear layers:
        {works["peft LoRA"]}), a prefix on {works["prefix"]} ({works["peft prefix"]}), a soft prompt on
        {works["prompt"]} ({works["peft prompt"]}). [The whole table](results/works.csv) has a row for
        each model; a test holds it to what the code does, and `make works` measures it anew."""
    head = ("", "architectures", "models", *SHOWN)
    table = [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *_groups(rows)]
    return "\n".join(["## What works on what", "", textwrap.fill(" ".join(text.split()), 120), "", *table])


def _groups(rows: list[Row]) -> list[str]:
    "A line for all architectures of a family with which our methods do the same."
    alike: dict[tuple, list[list[Row]]] = {}
    for name in dict.fromkeys(row["architecture"] for row in rows):
        own = [row for row in rows if row["architecture"] == name]
        alike.setdefault((own[0]["family"], *(_cell(own, method, False) for method in OURS)), []).append(own)
    lines, before = [], ""
    for (family, *_), groups in sorted(alike.items(), key=lambda group: list(zoo.FAMILIES).index(group[0][0])):
        group = [row for own in groups for row in own]
        names = ", ".join(own[0]["architecture"] for own in groups)
        cells = [_cell(group, method) for method in SHOWN]
        title, before = f"**{family}**" if family != before else "", family
        lines.append(f"| {' | '.join((title, names, str(len(group)), *cells))} |")
    return lines


def _cell(rows: list[Row], method: str, counted: bool = True) -> str:
    "A sign where it is the same for all of these models, else the number of each."
    count = Counter(SIGNS[row[method]] for row in rows)
    if len(count) == 1 or not counted:
        return ", ".join(sorted(count))
    return ", ".join(f"{sign} {count[sign]}" for sign in dict.fromkeys(SIGNS.values()) if count[sign])


def measure() -> list[Row]:
    "Of every model of the zoo. Raises the error of a method that neither works nor refuses."
    import works
    import works_in_peft

    versions = {name: importlib.metadata.version(name) for name in ("transformers", "peft")}
    rows = []
    for arch, kind in zoo.PAIRS:
        family = next(name for name, (_, names) in zoo.FAMILIES.items() if arch in names.split())
        row = {"family": family, "architecture": arch, "kind": kind}
        for method in OURS:
            with tempfile.TemporaryDirectory() as folder:
                row[method] = works.outcome(arch, kind, method, Path(folder))
        rows.append(row | {f"peft {m}": works_in_peft.outcome(arch, kind, m) for m in works_in_peft.METHODS} | versions)
    return rows


def write(rows: list[Row]) -> None:
    "The csv, the cell of the notebook and the README."
    with CSV.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    show()


def show() -> None:
    index = nbformat.read(INDEX, as_version=4)
    next(cell for cell in index.cells if cell.id == CELL).source = markdown(read().values())
    nbformat.write(index, INDEX)
    subprocess.run([sys.executable, ".ci/readme.py"], cwd=ROOT, check=True)


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(1)
    write(measure())

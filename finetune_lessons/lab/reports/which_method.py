"""What the lessons' reference tables say of one model, one task and each method that tunes it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_lessons.lab.reports.compare import load_results

if TYPE_CHECKING:
    import pandas as pd

LESSONS = {  # lesson -> each of its methods that stands in the table, and its name there
    "21": {
        "full fine-tuning": "full fine-tuning",
        "linear probe": "linear probe",
        "adapters, Pfeiffer 64": "adapters (Pfeiffer, 64)",
        "adapters, Houlsby 32": "adapters (Houlsby, 32)",
        "adapters, parallel 64": "adapters (parallel, 64)",
    },
    "22": {
        "LoRA, rank 8": "LoRA (rank 8, queries and values)",
        "LoRA, rank 8, all layers": "LoRA (rank 8, all linear layers)",
    },
    "23": {"prefix, 20 tokens": "prefix (20 tokens)"},
    "24": {"prompt, 20 tokens": "soft prompt (20 tokens)"},
}
RECIPE = {"data": "movies", "n_train": 2000, "model": "minilm", "batch_size": 32, "epochs": 5}  # of all of them


def method_table(
    folder: Path,  # of the reference results, with forgetting.json among them
) -> "pd.DataFrame":
    """A row a method, the most accurate first: lesson, accuracy, its spread over the seeds, and what it costs.

    Columns: lesson, accuracy, spread, seeds, trained share (of all parameters), file_mb; and of forgetting.json the
    time of a step (beside full fine-tuning's), memory_mb, and what is lost elsewhere, NaN for a method that is not
    there. Raises ValueError for results of another recipe.
    """
    import pandas as pd

    rows = [row for lesson, names in LESSONS.items() for row in _rows(folder, lesson, names)]
    costs = _costs(load_results(folder / "forgetting.json"))
    return pd.DataFrame(rows).set_index("method").join(costs).sort_values("accuracy", ascending=False)


def _rows(folder: Path, lesson: str, names: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    table = load_results(folder / f"{lesson}.json")
    other = {name: table.attrs["config"].get(name) for name, value in RECIPE.items()}
    if other != RECIPE:
        raise ValueError(f"{lesson}.json is of another recipe than the other tables: {other} in place of {RECIPE}")
    for method, name in names.items():
        of = table[table["method"] == method]
        accuracy, share = of["accuracy"], of["trainable"].iloc[0] / of["parameters"].iloc[0]
        yield {
            "method": name, "lesson": lesson, "accuracy": accuracy.mean(), "spread": accuracy.std(), "seeds": len(of),
            "trained share": share, "file_mb": of["file_mb"].mean(),
        }  # fmt: skip


def _costs(table: "pd.DataFrame") -> "pd.DataFrame":
    "By method: time, memory, and what was lost."
    full = table[table["method"] == "full fine-tuning"].set_index("seed")["step_ms"]
    timed = table.assign(time=table["step_ms"] / table["seed"].map(full))
    return timed.groupby("method")[["time", "memory_mb", "probe lost", "retrieval lost"]].mean()


def as_markdown(table: "pd.DataFrame") -> str:
    "For the README: rounded, with the spread beside the accuracy; - where nothing was measured."
    head = "| method | lesson | accuracy | trained | file | time | memory | lost: probe | lost: retrieval |"
    rows = [
        f"| {method} | {row['lesson']} | {row['accuracy']:.3f} ± {row['spread']:.3f} "
        f"| {100 * row['trained share']:.3g}% | {row['file_mb']:.2g} MB | {_known('{:.2f}', row['time'])} "
        f"| {_known('{:.0f} MB', row['memory_mb'])} | {_known('{:+.1f}', 100 * row['probe lost'])} "
        f"| {_known('{:+.1f}', 100 * row['retrieval lost'])} |"
        for method, row in table.iterrows()
    ]
    return "\n".join([head, "|" + "---|" * 9, *rows])


def _known(form: str, number: float) -> str:
    return form.format(number) if number == number else "-"

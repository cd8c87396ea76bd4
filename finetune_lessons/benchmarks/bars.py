"""What a `Run` must reach beside another, and what it reached on each processor: nbs/results/bars.csv."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from finetune_lessons.benchmarks.measure import by_round

if TYPE_CHECKING:
    import pandas as pd

RESULTS = "nbs/results/bars.csv"
FULL, FULL_FP32, TOP = "full fine-tuning", "full fine-tuning, fp32", "adapters in the top 2 layers, 3 epochs"
KEPT = ["work", "ours", "theirs", "precision", "processor"]  # names a row of the file


class Bar(NamedTuple):
    "How many times as fast as `theirs` `ours` must be at least."

    work: str
    ours: str
    theirs: str
    at_least: float
    precision: str | None = None  # in which it is asked for; None: in any


BARS = (
    Bar(FULL, "Run", "Trainer", 3.9, "bf16"),
    Bar(FULL, "Run", "tuned Trainer", 1.5, "bf16"),
    Bar(FULL_FP32, "Run", "Trainer", 1.7),
    Bar(FULL_FP32, "Run", "tuned Trainer", 1.25),
    Bar(TOP, "Run, cache of an earlier run", "Run", 1.8),
)


def reached(
    table: "pd.DataFrame",  # of `bench_all`, with the precision and the processor in its attrs
) -> "pd.DataFrame":
    "One row a bar that applies: median, lowest and highest ratio of the speeds within a round."
    import pandas as pd

    precision, processor = table.attrs["config"]["precision"], table.attrs["machine"]["cpu"]
    rows: list[dict[str, Any]] = []
    for bar in BARS:
        if bar.precision in (None, precision):
            speed = by_round(table, bar.work)
            ratio = (speed[bar.ours] / speed[bar.theirs]).round(2)
            found = {"measured": ratio.median(), "lowest": ratio.min(), "highest": ratio.max()}
            rows.append({**bar._asdict(), "precision": bar.precision or "any", "processor": processor, **found})
    return pd.DataFrame(rows)


def keep(
    table: "pd.DataFrame",  # of `bench_all`
    path: str | Path = RESULTS,
) -> None:
    "Put what was reached into the file, in place of what this processor had there, and print what is below its bar."
    import pandas as pd

    new = reached(table)
    kept = pd.concat([pd.read_csv(path), new]) if Path(path).is_file() else new
    kept.drop_duplicates(KEPT, keep="last").sort_values(KEPT[:4]).to_csv(path, index=False)
    for bar in new[new["measured"] < new["at_least"]].itertuples():
        print(f"below its bar: {bar.work}, {bar.ours} / {bar.theirs}: {bar.measured} instead of {bar.at_least}")

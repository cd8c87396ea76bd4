"""What `finetune-lessons train` makes a run from: data, model, method and settings, by the command's options."""

from argparse import Namespace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_lessons.lab.cli.options import Parameter, given, in_force, parameters

if TYPE_CHECKING:
    import torch
    from datasets import DatasetDict

    from finetune_lessons.lab.training.run import Run

LESSON_OF = {"lora": "lora", "adapters": "adapters", "prefix": "prefix_tuning", "prompt": "prompt_tuning"}
METHODS = ("full", "probe", *LESSON_OF)
DATA = "movies"
SETTINGS = parameters("finetune_lessons.lab.training.run", "Run.__init__")
_CSV = parameters("finetune_lessons.lab.data.csv_files", "read_csv")
_ENCODER = parameters("finetune_lessons.lab.models.loading", "load_encoder")
COLUMNS = tuple(p for p in _CSV if p.name in ("text", "label"))
N_TRAIN = tuple(p for p in _CSV if p.name == "n_train")
NEW_HEAD = tuple(p for p in _ENCODER if p.name == "new_head")
MODEL = next(p.default for p in _ENCODER if p.name == "name")


def of_method(method: str) -> tuple[Parameter, ...]:
    "The arguments that a method has of its own."
    if method not in LESSON_OF:
        return ()
    every = parameters(f"finetune_lessons.{LESSON_OF[method]}", f"add_{method}")
    return tuple(p for p in every if p.name not in ("name", "seed"))


def identity(options: Namespace) -> dict[str, Any]:
    "What makes one run another, by the option's name."
    data = {"csv": str(options.csv.resolve())} if options.csv else {"data": options.data or DATA}
    of = [*(COLUMNS if options.csv else ()), *N_TRAIN, *NEW_HEAD, *of_method(options.method), *SETTINGS]
    chosen = {name: getattr(options, name) for name in ("model", "method", "optimizer", "cache")}
    return chosen | data | in_force(options, of)


def make_run(
    options: Namespace,
    **resumed: Any,  # for `Run.resume`: path and batch_size; none: a new run
) -> "Run":
    from finetune_lessons.lab.training.run import Run

    seed = in_force(options, SETTINGS)["seed"]
    data = _data(options, seed)
    classes = getattr(data["train"].features["label"], "names", None)
    model, tokenizer = _model(options, len(classes or ["number"]), seed)
    if options.model_out:
        _check_merges(model, options.method)
    loss = _of_lesson("cross_entropy", "classification_loss") if classes else _of_lesson("multitask", "regression_loss")
    objects = {"loss": loss, "optimizer": _optimizer(options.optimizer), "cache": _cache(options.cache)}
    if resumed:
        return Run.resume(model=model, tokenizer=tokenizer, data=data, **objects, **resumed)
    run = Run(model, tokenizer, data, **objects, **given(options, SETTINGS))
    run.made_with = identity(options)
    return run


def remake(path: str, made_with: dict[str, Any]) -> "Run":
    "The run of a file by what the file says, with its best weights if it kept some."
    fields = [*COLUMNS, *N_TRAIN, *NEW_HEAD, *of_method(made_with["method"]), *SETTINGS]
    options = Namespace(**dict.fromkeys([p.name for p in fields] + ["csv", "data", "model_out"]))
    vars(options).update(made_with, csv=Path(made_with["csv"]) if "csv" in made_with else None)
    run = make_run(options, path=path)
    if run.best:
        run.best.load()
    return run


def _data(options: Namespace, seed: int) -> "DatasetDict":
    from finetune_lessons.lab.data.csv_files import read_csv
    from finetune_lessons.lab.data.datasets import load_data

    if options.csv:
        return read_csv(options.csv, seed=seed, **given(options, [*COLUMNS, *N_TRAIN]))
    return load_data(options.data or DATA, seed=seed, **given(options, N_TRAIN))


def _model(options: Namespace, outputs: int, seed: int) -> Any:
    "The model with the method in it, and its tokenizer."
    from finetune_lessons.lab.models.loading import load_encoder

    model, tokenizer = load_encoder(options.model, num_labels=outputs, seed=seed, **given(options, NEW_HEAD))
    if options.method == "probe":
        model.base_model.requires_grad_(False)
    elif options.method in LESSON_OF:
        add = _of_lesson(LESSON_OF[options.method], f"add_{options.method}")
        add(model, seed=seed, **given(options, of_method(options.method)))
    return model, tokenizer


def _of_lesson(lesson: str, name: str) -> Any:
    "By its name: the lab imports no lesson, and the command is the lab's top."
    return getattr(import_module(f"finetune_lessons.{lesson}"), name)


def _check_merges(model: "torch.nn.Module", method: str) -> None:
    fixed = _of_lesson("model_surgery", "Wrapper").merged
    if any(type(wrapper).merged is fixed for wrapper in _of_lesson("model_surgery", "wrappers")(model)):
        raise ValueError(
            f"--model-out writes a plain model, and what --method {method} learns cannot be merged into one: leave it "
            "out; --save FILE keeps the run, and `finetune-lessons predict --model FILE` uses it"
        )


def merged(model: Any) -> Any:
    "The model with what its methods have learnt inside its own weights."
    return _of_lesson("model_surgery", "eject")(model, merge=True)


def _optimizer(name: str | None) -> Any:
    import torch

    if name is None:
        return None
    found = getattr(torch.optim, name, None)
    if not (isinstance(found, type) and issubclass(found, torch.optim.Optimizer)):
        known = sorted(key for key, value in vars(torch.optim).items() if isinstance(value, type))
        raise ValueError(f"--optimizer is one of torch.optim: {', '.join(known)}; given: {name!r}")
    return found


def _cache(wanted: bool) -> Any:
    from finetune_lessons.lab.training.activations import ActivationCache

    return ActivationCache() if wanted else None

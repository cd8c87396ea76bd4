"""All that a lesson needs besides its own idea: `from finetune_lessons.lab import *`.

Nothing heavy is imported before one of its names is used.
"""

from importlib import import_module
from typing import Any

_NAMES_OF = {
    "data.assets": ("ASSETS", "asset_path"),
    "data.datasets": ("load_data",),
    "data.csv_files": ("read_csv",),
    "data.labels": ("one_class_label",),
    "models.loading": ("load_encoder", "load_causal_lm", "load_seq2seq"),
    "models.saving": ("save_model",),
    "models.predicting": ("predict",),
    "models.generating": ("generate",),
    "training.tokenising": ("tokenize",),
    "training.batches": ("model_inputs", "train_batches"),
    "training.run": ("Run", "Step", "NonFiniteLoss"),
    "training.best": ("early_stopping",),
    "training.activations": ("ActivationCache",),
    "training.metrics": ("expected_calibration_error",),
    "reports.compare": ("compare", "summary", "save_results", "load_results", "reference_results"),
    "reports.plots": ("new_figure", "plot_runs", "plot_comparison", "plot_confusion", "plot_calibration"),
    "panel.panel": ("Panel", "LogRange"),
    "panel.explorer": ("explore",),
    "notebooks.scale": ("scale",),
}
_MODULE_OF = {name: module for module, names in _NAMES_OF.items() for name in names}

__all__ = list(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""All that a lesson needs besides its own idea: `from finetune_lessons.lab import *`.

Nothing heavy is imported before one of its names is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from finetune_lessons.lab.notes import add_notes

if TYPE_CHECKING:  # what a type checker sees in the place of `__getattr__`
    from finetune_lessons.lab.data.assets import ASSETS as ASSETS
    from finetune_lessons.lab.data.assets import asset_path as asset_path
    from finetune_lessons.lab.data.datasets import load_data as load_data
    from finetune_lessons.lab.data.pairs import load_pairs as load_pairs
    from finetune_lessons.lab.data.csv_files import read_csv as read_csv
    from finetune_lessons.lab.data.labels import one_class_label as one_class_label
    from finetune_lessons.lab.models.loading import load_encoder as load_encoder
    from finetune_lessons.lab.models.loading import load_causal_lm as load_causal_lm
    from finetune_lessons.lab.models.loading import load_seq2seq as load_seq2seq
    from finetune_lessons.lab.models.saving import save_model as save_model
    from finetune_lessons.lab.models.trimming import trim_vocabulary as trim_vocabulary
    from finetune_lessons.lab.models.predicting import predict as predict
    from finetune_lessons.lab.models.generating import generate as generate
    from finetune_lessons.lab.training.tokenising import tokenize as tokenize
    from finetune_lessons.lab.training.batches import model_inputs as model_inputs
    from finetune_lessons.lab.training.batches import train_batches as train_batches
    from finetune_lessons.lab.training.run import Run as Run
    from finetune_lessons.lab.training.run import Step as Step
    from finetune_lessons.lab.training.run import NonFiniteLoss as NonFiniteLoss
    from finetune_lessons.lab.training.guided import Guided as Guided
    from finetune_lessons.lab.training.best import early_stopping as early_stopping
    from finetune_lessons.lab.training.activations import ActivationCache as ActivationCache
    from finetune_lessons.lab.training.metrics import expected_calibration_error as expected_calibration_error
    from finetune_lessons.lab.reports.compare import compare as compare
    from finetune_lessons.lab.reports.compare import summary as summary
    from finetune_lessons.lab.reports.compare import save_results as save_results
    from finetune_lessons.lab.reports.compare import load_results as load_results
    from finetune_lessons.lab.reports.compare import reference_results as reference_results
    from finetune_lessons.lab.reports.diagnose import diagnose as diagnose
    from finetune_lessons.lab.reports.plots import new_figure as new_figure
    from finetune_lessons.lab.reports.plots import plot_runs as plot_runs
    from finetune_lessons.lab.reports.plots import plot_comparison as plot_comparison
    from finetune_lessons.lab.reports.plots import plot_confusion as plot_confusion
    from finetune_lessons.lab.reports.plots import plot_calibration as plot_calibration
    from finetune_lessons.lab.reports.drawing import draw_model as draw_model
    from finetune_lessons.lab.panel.panel import Panel as Panel
    from finetune_lessons.lab.panel.panel import LogRange as LogRange
    from finetune_lessons.lab.panel.explorer import explore as explore
    from finetune_lessons.lab.panel.labelling import Labeller as Labeller
    from finetune_lessons.lab.notebooks.scale import scale as scale

_NAMES_OF = {
    "data.assets": ("ASSETS", "asset_path"),
    "data.datasets": ("load_data",),
    "data.pairs": ("load_pairs",),
    "data.csv_files": ("read_csv",),
    "data.labels": ("one_class_label",),
    "models.loading": ("load_encoder", "load_causal_lm", "load_seq2seq"),
    "models.saving": ("save_model",),
    "models.trimming": ("trim_vocabulary",),
    "models.predicting": ("predict",),
    "models.generating": ("generate",),
    "training.tokenising": ("tokenize",),
    "training.batches": ("model_inputs", "train_batches"),
    "training.run": ("Run", "Step", "NonFiniteLoss"),
    "training.guided": ("Guided",),
    "training.best": ("early_stopping",),
    "training.activations": ("ActivationCache",),
    "training.metrics": ("expected_calibration_error",),
    "reports.compare": ("compare", "summary", "save_results", "load_results", "reference_results"),
    "reports.diagnose": ("diagnose",),
    "reports.plots": ("new_figure", "plot_runs", "plot_comparison", "plot_confusion", "plot_calibration"),
    "reports.drawing": ("draw_model",),
    "panel.panel": ("Panel", "LogRange"),
    "panel.explorer": ("explore",),
    "panel.labelling": ("Labeller",),
    "notebooks.scale": ("scale",),
}
_MODULE_OF = {name: module for module, names in _NAMES_OF.items() for name in names}

__all__ = list(_MODULE_OF)


if not TYPE_CHECKING:  # else any name would be there

    def __getattr__(name: str) -> Any:
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
        add_notes(value)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

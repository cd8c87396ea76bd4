"""All that a lesson needs besides its own idea: `from finetune_lessons.lab import *`.

Nothing heavy is imported before one of its names is used.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

_NAMES_OF = {
    "assets": ("ASSETS", "asset_path"),
    "datasets": ("load_data",),
    "csv_files": ("read_csv",),
    "models": ("load_encoder", "load_causal_lm", "load_seq2seq"),
    "batches": ("tokenize", "model_inputs", "train_batches"),
    "run": ("Run", "Step", "NonFiniteLoss"),
    "activations": ("ActivationCache",),
    "compare": ("compare", "summary", "save_results", "load_results", "reference_results"),
    "metrics": ("expected_calibration_error",),
    "plots": ("new_figure", "plot_runs", "plot_comparison", "plot_confusion", "plot_calibration"),
    "panel": ("Panel", "LogRange"),
    "explorer": ("explore",),
    "exercises.cross_entropy": (
        "check_cross_entropy",
        "check_gradient",
        "check_smooth_targets",
        "check_temperature",
        "check_perplexity",
        "check_focal_loss",
    ),
    "exercises.model_surgery": (
        "check_low_rank_parameters",
        "check_last_layers",
        "check_names",
        "check_scaled_forward",
        "check_switched_off",
        "check_merged_scale",
    ),
    "exercises.adapters": (
        "check_adapter_parameters",
        "check_adapter",
        "check_adapter_start",
        "check_parallel_adapter",
        "check_bottleneck",
        "check_adapter_stack",
    ),
    "exercises.lora": (
        "check_lora_forward",
        "check_lora_parameters",
        "check_rank_for_budget",
        "check_lora_merge",
        "check_dora",
        "check_ia3",
    ),
    "exercises.prefix_tuning": (
        "check_prefix_attention",
        "check_prefix_mask",
        "check_prefix_parameters",
        "check_prefix_share",
        "check_flat_table",
        "check_combination",
    ),
    "exercises.prompt_tuning": (
        "check_prepend",
        "check_parameter_counts",
        "check_class_logits",
        "check_nearest",
        "check_prompt_labels",
    ),
    "exercises.distillation": (
        "check_soft_loss",
        "check_soft_gradient",
        "check_mixed_loss",
        "check_teacher_layers",
        "check_rater_shares",
        "check_token_loss",
    ),
    "exercises.multitask": (
        "check_uncertainty",
        "check_best_uncertainty",
        "check_task_shares",
        "check_dynamic_weights",
        "check_projection",
        "check_gradnorm_targets",
    ),
    "scale": ("scale",),
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


class _Lab(ModuleType):
    """Importing a module that shares its function's name, such as `compare`, binds the function here."""

    def __setattr__(self, name: str, value: Any) -> None:
        hides_function = name in _MODULE_OF and isinstance(value, ModuleType)
        super().__setattr__(name, getattr(value, name) if hides_function else value)


sys.modules[__name__].__class__ = _Lab

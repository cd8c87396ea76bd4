"""Soft prompts as the library peft keeps them: the vectors, and the heads that it trains along."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from finetune_lessons.lab.models.files import base_of, replacing
from finetune_lessons.lab.models.peft_files import HEADS, TASKS, adapter_files, peft_library, write_adapter
from finetune_lessons.lab.models.peft_prefix import BODY, TABLE


def write_prompt(
    folder: str | Path,
    model: Any,
    vectors: Tensor,  # (virtual tokens, width)
    heads: Mapping[str, Mapping[str, Tensor]],  # what was trained whole, by path and name
) -> None:
    """Write what `PeftModel.from_pretrained` reads.

    Raises ValueError for a model that peft puts no soft prompt in, and for a head that it does not keep with one.
    """
    task = _task(model)
    if other := set(heads) - HEADS.get(task, set()):
        raise ValueError(f"{min(other)} is trained whole, which peft's soft prompts cannot have along: use save_method")
    config = peft_library().PromptTuningConfig(
        task_type=task,
        num_virtual_tokens=len(vectors),
        token_dim=vectors.shape[1],
        num_transformer_submodules=1,  # the text alone; with 2 the decoder's text has a prompt of its own
        num_layers=getattr(model.config, "num_hidden_layers", 1),
        num_attention_heads=getattr(model.config, "num_attention_heads", 1),
        inference_mode=True,
        base_model_name_or_path=base_of(model),
    )
    tensors = {TABLE: vectors} | {f"{BODY}{path}.{key}": x for path, head in heads.items() for key, x in head.items()}
    with replacing(folder) as new:
        write_adapter(new, config, tensors)


def _task(model: Any) -> str:
    name = type(model).__name__
    if model.can_generate():
        return "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"
    if task := next((task for ending, task in TASKS.items() if name.endswith(ending)), None):
        return task
    if name.endswith("Model"):
        return "FEATURE_EXTRACTION"
    raise ValueError(f"peft puts no soft prompt into {name}: save_method keeps it")


def read_prompt(
    folder: str | Path,
) -> tuple[Tensor, dict[str, Tensor]]:
    "The vectors (virtual tokens, width), and what was trained whole, by name."
    with adapter_files(folder, "a soft prompt that can be read") as (config, tensors):
        if type(config) is not peft_library().PromptTuningConfig or TABLE not in tensors:
            raise ValueError(f"it holds {getattr(config.peft_type, 'value', config.peft_type)}, not PROMPT_TUNING")
        if config.num_transformer_submodules != 1:
            raise ValueError("half of its vectors stand before the decoder's text; here all stand before the encoder's")
    vectors = tensors.pop(TABLE)
    return vectors, {name.removeprefix(BODY): x for name, x in tensors.items()}

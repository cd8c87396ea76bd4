"""Soft prompts as the library peft keeps them: the vectors, and the heads that it trains along."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from finetune_lessons.lab.models.files import refuse_link, replacing
from finetune_lessons.lab.models.peft_prefix import BODY, SETTINGS, TABLE, WEIGHTS

_TASKS = {
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
}
_HEADS = {"SEQ_CLS": {"classifier", "score"}, "TOKEN_CLS": {"classifier", "score"}, "QUESTION_ANS": {"qa_outputs"}}


def write_prompt(
    folder: str | Path,
    model: Any,
    vectors: Tensor,  # (virtual tokens, width)
    heads: Mapping[str, Mapping[str, Tensor]],  # what was trained whole, by path and name
) -> None:
    """Write what `PeftModel.from_pretrained` reads.

    Raises ValueError for a model that peft puts no soft prompt in, and for a head that it does not keep with one.
    """
    from peft import PromptTuningConfig
    from safetensors.torch import save_file

    task = _task(model)
    if other := set(heads) - _HEADS.get(task, set()):
        raise ValueError(f"{min(other)} is trained whole, which peft's soft prompts cannot have along: use save_method")
    config = PromptTuningConfig(
        task_type=task,
        num_virtual_tokens=len(vectors),
        token_dim=vectors.shape[1],
        num_transformer_submodules=1,  # the text alone; with 2 the decoder's text has a prompt of its own
        num_layers=getattr(model.config, "num_hidden_layers", 1),
        num_attention_heads=getattr(model.config, "num_attention_heads", 1),
        inference_mode=True,
        base_model_name_or_path=getattr(model.config, "_name_or_path", None) or None,
    )
    tensors = {TABLE: vectors} | {f"{BODY}{path}.{key}": x for path, head in heads.items() for key, x in head.items()}
    with replacing(folder) as new:
        config.save_pretrained(str(new))
        save_file({key: x.cpu().contiguous() for key, x in tensors.items()}, new / WEIGHTS, metadata={"format": "pt"})


def _task(model: Any) -> str:
    name = type(model).__name__
    if model.can_generate():
        return "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"
    if task := next((task for ending, task in _TASKS.items() if name.endswith(ending)), None):
        return task
    if name.endswith("Model"):
        return "FEATURE_EXTRACTION"
    raise ValueError(f"peft puts no soft prompt into {name}: save_method keeps it")


def read_prompt(
    folder: str | Path,
) -> tuple[Tensor, dict[str, Tensor]]:
    "The vectors (virtual tokens, width), and what was trained whole, by name."
    from peft import PeftConfig, PromptTuningConfig
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    for file in (Path(folder, WEIGHTS), Path(folder, SETTINGS)):
        if not file.is_file():
            raise ValueError(f"{folder} holds no {file.name}; weights in other formats than safetensors are not read")
        refuse_link(file)
    try:
        config, tensors = PeftConfig.from_pretrained(str(folder)), load_file(Path(folder, WEIGHTS))
        if type(config) is not PromptTuningConfig or TABLE not in tensors:
            raise ValueError(f"it holds {getattr(config.peft_type, 'value', config.peft_type)}, not PROMPT_TUNING")
        if config.num_transformer_submodules != 1:
            raise ValueError("half of its vectors stand before the decoder's text; here all stand before the encoder's")
    except (SafetensorError, AttributeError, LookupError, TypeError, ValueError, OSError) as error:
        raise ValueError(f"{folder} does not hold a soft prompt that can be read: {error}") from error
    vectors = tensors.pop(TABLE)
    return vectors, {name.removeprefix(BODY): x for name, x in tensors.items()}

"""The two files that the library peft keeps an adapter in."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from finetune_lessons.lab.models.files import refuse_link

WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"
TASKS = {  # by the end of a class's name
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
}
HEADS = {"SEQ_CLS": {"classifier", "score"}, "TOKEN_CLS": {"classifier", "score"}, "QUESTION_ANS": {"qa_outputs"}}


def peft_library() -> Any:
    "The module. Raises ValueError where it is not installed."
    try:
        import peft
    except ImportError as error:
        raise ValueError("the library peft is not installed: pip install peft") from error
    return peft


@contextmanager
def adapter_files(
    folder: str | Path,
    what: str,  # it should hold, for the message
) -> Iterator[tuple[Any, dict[str, Tensor]]]:
    "peft's configuration and the tensors. Raises ValueError for files that are none, or that the block cannot use."
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    peft = peft_library()
    for file in (Path(folder, WEIGHTS), Path(folder, SETTINGS)):
        if not file.is_file():
            raise ValueError(f"{folder} holds no {file.name}; weights in other formats than safetensors are not read")
        refuse_link(file)
    try:
        yield peft.PeftConfig.from_pretrained(str(folder)), load_file(Path(folder, WEIGHTS))
    except (SafetensorError, AttributeError, LookupError, RuntimeError, TypeError, ValueError, OSError) as error:
        raise ValueError(f"{folder} does not hold {what}: {error}") from error


def write_adapter(
    folder: Path,  # that is there
    config: Any,
    tensors: Mapping[str, Tensor],
) -> None:
    from safetensors.torch import save_file

    config.save_pretrained(str(folder))
    plain = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    save_file(plain, folder / WEIGHTS, metadata={"format": "pt"})

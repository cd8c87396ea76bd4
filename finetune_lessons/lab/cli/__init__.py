"""The command `finetune-lessons`; `python -m finetune_lessons.lab.cli` under `accelerate launch` or `torchrun`."""

from finetune_lessons.lab.cli.commands import main

__all__ = ["main"]

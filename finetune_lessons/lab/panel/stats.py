"""The figures of the newest run: how far, how good, how fast, and what computes it."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from finetune_lessons.lab.panel.traces import GRAD_NORM, LR, Trace, clock

_LEFT = "time left"


def stats(trace: Trace, run: Any) -> str:
    "A bar and a row of numbers, as HTML."
    done = trace.first + trace.steps
    of = f" of {trace.total:,}" if trace.total else ""
    left = trace.seconds_left if trace.outcome == "running" else None
    speed = trace.tokens_per_second
    pairs = [
        ("step", f"{done:,}{of}"),
        ("epoch", "" if trace.epoch is None else f"{trace.epoch + 1}"),
        (_LEFT if left is not None else "time", clock(trace.seconds if left is None else left)),
        ("loss", f"{trace.loss:.4g}" if trace.steps else ""),
        *((f"validation {name}", f"{value:.4g}") for name, value in trace.metrics.items()),
        ("learning rate", f"{trace.last[LR]:.3g}" if LR in trace.last else ""),
        ("gradient norm", f"{trace.last[GRAD_NORM]:.3g}" if GRAD_NORM in trace.last else ""),
        ("tokens/s", f"{speed:,.0f}" if speed else ""),
        *_machine(run).items(),
    ]
    cells = "".join(_figure(name, value) for name, value in pairs if value)
    value = f' value="{done}"' if trace.total else ""
    bar = f'<progress aria-label="Progress of {trace.name}" max="{trace.total or 1}"{value}></progress>'
    why = getattr(getattr(run, "computing", None), "reason", "")
    reason = f'<div class="ftl-note">{escape(str(why))}</div>' if why else ""
    return f'{bar}<div class="ftl-stats">{cells}</div>{reason}'


def _figure(name: str, value: str) -> str:
    kind = ' class="ftl-live"' if name == _LEFT else ""
    return f"<div{kind}><span>{escape(name)}</span><b>{escape(value)}</b></div>"


def lost(traces: Sequence[Trace]) -> str:
    "What a page shows in place of the status when the panel has no kernel any more."
    newest = traces[-1] if traces else None
    ended = newest is not None and newest.outcome == "running"
    said = f": {newest.name} ended at step {newest.first + newest.steps:,}" if newest and ended else ""
    return f"The kernel was restarted or shut down{said}. Run this cell again for a panel that works."


def _machine(run: Any) -> Mapping[str, str]:
    "Device, number format, threads and memory in use."
    import psutil
    import torch

    device = getattr(run, "device", torch.device("cpu"))
    on_gpu = torch.device(device).type == "cuda"
    used = torch.cuda.memory_allocated(device) if on_gpu else psutil.Process().memory_info().rss
    threads = "" if on_gpu else f"{torch.get_num_threads()}"
    precision = getattr(run, "precision", "")
    return {"device": f"{device} {precision}".strip(), "threads": threads, "memory": f"{used / 1e6:,.0f} MB"}

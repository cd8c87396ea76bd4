"""What a panel costs: training with it against training without, a draw, the first frame after Run, and memory."""

import threading
import time
from collections.abc import Callable
from statistics import median
from typing import Any

PAIRS = 10
DRAWS = 200
RUNS = 9


def bench_panel() -> None:
    """Measure inside a Jupyter kernel, where each redraw is a message that is really sent, and print the table."""
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel()
    try:
        code = "from finetune_lessons.benchmarks.panel import measure; measure()"
        reply = client.execute_interactive(code, timeout=1800, output_hook=_print)
        if reply["content"]["status"] == "error":
            raise RuntimeError(f"the measurement failed: {reply['content']['evalue']}")
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def measure() -> None:
    "Measure in this kernel."
    import torch

    from finetune_lessons.lab.panel.panel import Panel

    torch.set_num_threads(1)  # threads that wait for each other measure what else the machine does
    make_run = _make_run_on_a_loaded_model()
    panel = Panel(make_run, seed=range(10))
    _train_alone(make_run())  # warm up
    alone, watched, frames = [], [], []
    for pair in range(PAIRS):
        order = ("alone", "watched") if pair % 2 else ("watched", "alone")
        for kind in order:
            if kind == "alone":
                alone.append(_train_alone(make_run()))
            else:
                watched.append(_train_watched(panel))
        frames.append(_first_frame(panel))
    pairs = list(zip(alone, watched, strict=True))
    slower, busier = (100 * (median(b[i] / a[i] for a, b in pairs) - 1) for i in (0, 1))
    (time_alone, _), (time_watched, _) = (map(median, zip(*times, strict=True)) for times in (alone, watched))
    print(f"steps of a run               {panel._traces[0].steps:8}")
    print(f"training without the panel   {time_alone:8.2f} s")
    print(f"training with the panel      {time_watched:8.2f} s, slower by {slower:.1f} % (median of {PAIRS} pairs)")
    print(f"processor time               {busier:8.1f} % more, which other programs do not disturb")
    print(f"a draw of {len(panel.results):2} runs           {1000 * _draw(panel):8.2f} ms")
    print(f"the first frame after Run    {1000 * median(frames):8.0f} ms")
    first, last = _memory_of_runs()
    print(f"memory after the first run   {first:8.0f} MB, of full fine-tuning in a panel of its own")
    print(f"memory after run {RUNS}           {last:8.0f} MB, {last - first:+.0f} MB")


def _make_run_on_a_loaded_model() -> Callable[..., Any]:
    "Runs that train the head of one encoder on short texts: short steps, beside which a panel weighs most."
    from datasets import Dataset, DatasetDict
    from torch.nn.functional import cross_entropy

    from finetune_lessons.lab.training.batches import model_inputs
    from finetune_lessons.lab.models.loading import load_encoder
    from finetune_lessons.lab.training.run import Run

    model, tokenizer = load_encoder("minilm", num_labels=2, seed=0)
    model.base_model.requires_grad_(False)
    rows = {"text": [f"a short text, number {i}" for i in range(1600)], "label": [i % 2 for i in range(1600)]}
    data = DatasetDict(train=Dataset.from_dict(rows))

    def loss(model: Any, batch: Any) -> Any:
        return cross_entropy(model(**model_inputs(batch)).logits, batch["labels"])

    def make_run(seed: int = 0) -> Run:
        return Run(model, tokenizer, data, loss=loss, lr=1e-5, epochs=1, batch_size=8, seed=seed)

    return make_run


def _memory_of_runs() -> tuple[float, float]:
    "Megabytes of this process after the first and the last of several runs, each of which trains a model of its own."
    import psutil

    from finetune_lessons.cross_entropy import classification_loss
    from finetune_lessons.lab.data.datasets import load_data
    from finetune_lessons.lab.models.loading import load_encoder
    from finetune_lessons.lab.panel.panel import Panel
    from finetune_lessons.lab.training.run import Run

    data = load_data("movies", n_train=200, n_eval=50, seed=0)

    def make_run(seed: int = 0, batch_size: int = 16) -> Run:
        model, tokenizer = load_encoder("minilm", num_labels=2, seed=seed)
        return Run(model, tokenizer, data, loss=classification_loss, epochs=1, batch_size=batch_size, seed=seed)

    panel, used = Panel(make_run, seed=range(RUNS), batch_size=[8, 16, 32, 64]), []
    for seed in range(RUNS):
        panel.knobs.set(seed=seed, batch_size=(8, 16, 32, 64)[seed % 4])
        panel.start()
        panel.wait()
        used.append(psutil.Process().memory_info().rss / 1e6)
    return used[0], used[-1]


def _clocks() -> tuple[float, float]:
    "Seconds that passed, and seconds that this process computed."
    return time.perf_counter(), time.process_time()


def _since(start: tuple[float, float], end: tuple[float, float]) -> tuple[float, float]:
    return end[0] - start[0], end[1] - start[1]


def _train_alone(run: Any) -> tuple[float, float]:
    "The time of the bare loop, without a progress bar."
    start = _clocks()
    for _ in run:
        pass
    return _since(start, _clocks())


def _train_watched(panel: Any) -> tuple[float, float]:
    "The time of the loop in the panel's thread, from the run being built to the status that says done."
    said: list[tuple[float, float]] = []
    panel._view.status.observe(lambda change: said.append(_clocks()), "value")
    panel.start()
    panel.wait()
    panel._view.status.unobserve_all("value")
    return _since(said[1], said[-1])  # the statuses: building, training, done


def _first_frame(panel: Any) -> float:
    "Seconds from Run to the first drawn step."
    drawn = threading.Event()
    panel._view.plot.observe(lambda change: drawn.set() if panel._traces[-1].steps else None, "value")
    start = time.perf_counter()
    panel.start()
    drawn.wait()
    seconds = time.perf_counter() - start
    panel.stop()
    panel.wait()
    panel._view.plot.unobserve_all("value")
    panel.remove(panel._traces[-1].number)
    return seconds


def _draw(panel: Any) -> float:
    "Seconds of one redraw of all curves of all runs, with the newest run's lines formatted anew."
    seconds = []
    for _ in range(DRAWS):
        for series in panel._traces[-1].series.values():
            series._drawn.clear()
        start = time.perf_counter()
        panel._draw()
        seconds.append(time.perf_counter() - start)
    return median(seconds)


def _print(message: dict[str, Any]) -> None:
    if message["msg_type"] == "stream":
        print(message["content"]["text"], end="", flush=True)

"""Calls in the processes of an executor, each with a fixed number of torch's threads."""

import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
SPAWN = "ProcessPoolExecutor(2, mp_context=multiprocessing.get_context('spawn'))"


def with_threads(threads: int | None, call: Callable[..., T], *arguments: Any) -> T:
    "The call, with so many threads of torch; how sums are rounded depends on their number. None: as they are."
    import torch

    if threads is None:
        return call(*arguments)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return call(*arguments)
    finally:
        torch.set_num_threads(before)


def side_by_side(
    executor: Executor,
    call: Callable[..., T],
    arguments: Sequence[tuple],  # of each call
    threads: int,
) -> list[T]:
    "The results, in their order. Where one call fails, those that have not begun are not made."
    futures = [executor.submit(with_threads, threads, call, *each) for each in arguments]
    try:
        return [future.result() for future in futures]
    finally:
        for future in futures:
            future.cancel()


def threads_of_worker(executor: Executor) -> int:
    "A worker's share of the cores, but no more than torch has here; 1 where nobody knows how many workers there are."
    import torch

    from finetune_lessons.lab.training.processor import fitting_threads

    cores, workers = fitting_threads(), getattr(executor, "_max_workers", None)
    here, share = min(torch.get_num_threads(), cores), max(1, cores // workers) if workers else 1
    if share < here:
        print(
            f"Each run computes with {share} of {here} threads, as there are {workers or 'other'} workers: "
            f"compare(..., threads={share}) gives the same table without an executor"
        )
    return min(share, here)


def check_sendable(executor: Executor, named: Mapping[str, Any]) -> None:
    "Raises ValueError for an executor whose workers share this process, and for what cannot be sent to a process."
    if not isinstance(executor, Executor):
        raise ValueError(f"executor is a concurrent.futures.Executor, such as {SPAWN}; given: {executor!r}")
    if isinstance(executor, ThreadPoolExecutor) and not isinstance(executor, ProcessPoolExecutor):
        raise ValueError(f"threads of one process share its memory, which is measured: take {SPAWN}")
    if not isinstance(executor, ProcessPoolExecutor):
        return  # loky, dask and Ray send what they are given in ways of their own
    if executor._mp_context.get_start_method() == "fork":  # type: ignore[union-attr]
        raise ValueError(f"a forked process cannot use torch's threads after this one has: take {SPAWN}")
    for name, value in named.items():
        if why := _why_not_sent(value):
            raise ValueError(
                f"{name!r} cannot be sent to a process: {why}. Write it as a function of a module (a .py file), with "
                "functools.partial for its arguments; loky.get_reusable_executor() takes functions of a notebook too"
            )


def _why_not_sent(value: Any) -> str | None:
    try:
        pickled = pickle.dumps(value)
    except Exception as error:  # whatever its parts raise
        return str(error)
    in_a_notebook = not hasattr(sys.modules["__main__"], "__file__") and b"__main__" in pickled
    return "it is defined in a notebook, where a process cannot find it" if in_a_notebook else None

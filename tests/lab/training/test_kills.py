"""A run that is killed at any moment, or finds the disk full, goes on from what is on the disk to the same bits."""

import multiprocessing
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from test_checkpoint import KINDS, bits, finished, make_run, resume
from tiny import same_bits

from finetune_lessons.lab.training import run_files
from finetune_lessons.lab.training.run import Run

pytestmark = pytest.mark.usefixtures("one_thread")
EPOCHS = 28  # of three steps; no kill comes later than two saves and some milliseconds after a start
STAGES = ("nothing written", "half written", "written", "synced", "named", "done")
KILLS = [*({"stage": stage, "save": save} for stage in STAGES for save in (1, 2))]
KILLS += [{"save": save, "delay": random.Random(save * i).uniform(0, 0.004)} for save in (1, 2) for i in range(7)]
KILLS += [{"save": 0, "delay": random.Random(i).uniform(0, 0.1)} for i in range(4)]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(stage: str) -> None:
    "Have the next save kill this process, as by a power cut, when it has come so far."
    write, sync, rename = run_files.save_file, os.fsync, Path.replace

    def writing(tensors, path, **metadata):
        if stage != "nothing written":
            write(tensors, path, **metadata)
            os.truncate(path, path.stat().st_size // (2 if stage == "half written" else 1))
        if stage in ("nothing written", "half written"):
            die()

    def syncing(file):
        if stage == "written":
            die()
        sync(file)

    def renaming(*paths):
        if stage == "named":
            rename(*paths)
        if stage in ("synced", "named"):
            die()
        rename(*paths)

    run_files.save_file, os.fsync, Path.replace = writing, syncing, renaming


def new_or_resumed(place: Path) -> Run:
    if not place.exists() or (place.is_dir() and not [name for name in os.listdir(place) if name[0] != "."]):
        return make_run(KINDS[0], epochs=EPOCHS)
    return resume(place)


def train(place: Path, moment: dict, news) -> None:
    "To the end, saving after each step, unless killed; `news` hears how far it is."
    run, saves = new_or_resumed(place), 0
    news.send(("saved", run.index))
    for _ in run:
        saves += 1
        if saves == moment.get("save") and "stage" in moment:
            die_at(moment["stage"])
        news.send(("saving", run.index))
        run.save(place / f"{run.index:04}.run" if place.is_dir() else place)
        news.send(("saved", run.index))
        if saves == moment.get("save") and "stage" in moment:
            die()
    save_file(bits(run), place.with_name("bits"))


def hear(news, until: tuple[str, int]) -> list[tuple[str, int]]:
    "What is told, up to the word that is told for that time, or to the end."
    heard: list[tuple[str, int]] = []
    try:
        while sum(word == until[0] for word, _ in heard) < until[1]:
            heard.append(news.recv())
    except EOFError:
        pass
    return heard


def serve(jobs) -> None:
    "In a process that has imported and computed everything once: fork one that trains, and kill it, for each job."
    torch.set_num_threads(1)
    finished(make_run(KINDS[0], epochs=1))
    fork = multiprocessing.get_context("fork")
    for place, moment in iter(jobs.recv, None):
        news, tell = fork.Pipe(duplex=False)
        child = fork.Process(target=train, args=(place, moment, tell))
        child.start()
        tell.close()
        heard = hear(news, ("saving", moment["save"]) if moment.get("save") else ("saved", 1)) if moment else []
        if "delay" in moment:
            time.sleep(moment["delay"])
            child.kill()
        heard += hear(news, ("the end", 1))
        child.join()
        jobs.send((child.exitcode, heard))


@pytest.fixture(scope="module")
def server() -> Iterator:
    spawn = multiprocessing.get_context("spawn")
    jobs, theirs = spawn.Pipe()
    process = spawn.Process(target=serve, args=(theirs,))
    process.start()
    yield jobs
    jobs.send(None)
    process.join()


def result(server, place: Path, moment: dict) -> tuple[int, list[tuple[str, int]]]:
    server.send((place, moment))
    return server.recv()


@pytest.fixture(scope="module")
def whole() -> dict[str, torch.Tensor]:
    torch.set_num_threads(1)
    return bits(finished(make_run(KINDS[0], epochs=EPOCHS)))


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_killed_again_and_again_a_run_ends_with_the_same_bits(kind, server, whole, tmp_path):
    place = tmp_path / "runs"
    if kind == "folder":
        place.mkdir()
    saved = 0
    for moment in random.Random(kind).sample(KILLS, len(KILLS)):
        status, heard = result(server, place, moment)
        assert status == -signal.SIGKILL, moment
        assert heard[0][0] == "saved" and saved <= heard[0][1] <= saved + 1, "a whole save was lost"
        saved = max(index for word, index in heard if word == "saved")
    status, heard = result(server, place, {})
    assert status == 0 and len(heard) > 2, "the run ended before the kills did"
    assert same_bits(load_file(tmp_path / "bits"), whole)
    assert not [path for path in tmp_path.rglob(".*") if path.is_file()]
    assert kind == "folder" or sorted(os.listdir(tmp_path)) == ["bits", "runs"]


def test_there_are_sixty_kills():
    assert 2 * len(KILLS) >= 60


# a full disk


def half_a_file(tensors, path, **metadata) -> None:
    save_file(tensors, path, **metadata)
    os.truncate(path, path.stat().st_size // 2)
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def save_where_no_file_may_be_so_large(run: Run, path: Path) -> None:
    "The system itself refuses to write on."
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        run.save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def save_with_half_a_write(run: Run, path: Path) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(run_files, "save_file", half_a_file)
        run.save(path)


@pytest.mark.parametrize("save_on_a_full_disk", [save_where_no_file_may_be_so_large, save_with_half_a_write])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_after_a_save_that_found_the_disk_full_both_the_run_and_the_last_file_go_on(
    kind, save_on_a_full_disk, whole, tmp_path
):
    run, place = make_run(KINDS[0], epochs=EPOCHS), tmp_path / "runs"
    if kind == "folder":
        place.mkdir()
    next(run)
    run.save(place / "1.run" if kind == "folder" else place)
    next(run)
    with pytest.raises(OSError, match="could not write .*(No space left|File too large)"):
        save_on_a_full_disk(run, place / "2.run" if kind == "folder" else place)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["1.run" if kind == "folder" else "runs"]
    again = new_or_resumed(place)
    assert again.index == 1
    assert same_bits(bits(finished(again)), whole) and same_bits(bits(finished(run)), whole)


def test_where_the_newest_file_is_cut_short_the_one_before_it_goes_on(whole, tmp_path):
    run = make_run(KINDS[0], epochs=EPOCHS)
    for number in (1, 2, 3):
        next(run)
        run.save(tmp_path / f"{number}.run")
    shutil.copy(tmp_path / "3.run", tmp_path / "4.run")
    for name, size in (("3.run", 0.9), ("4.run", 0.01)):
        os.truncate(tmp_path / name, int(size * (tmp_path / name).stat().st_size))
    with pytest.warns(UserWarning, match=r"3\.run, 4\.run"):
        again = new_or_resumed(tmp_path)
    assert again.index == 2
    assert same_bits(bits(finished(again)), whole)

"""The distributions: what they hold, and that the wheel works where nothing else of this repository is."""

import email
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOT_NEEDED = ("nbdev", "fastcore", "jupyterlab", "jupyter_server", "jupyter_client", "ipykernel", "nbformat")


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """The sdist and the wheel built from it, as `python -m build` makes them."""
    source = tmp_path_factory.mktemp("source") / "tree"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__"))
    command = [sys.executable, "-m", "build", "--no-isolation", str(source)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (sdist,), (wheel,) = source.glob("dist/*.tar.gz"), source.glob("dist/*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def clean_python(distributions, tmp_path_factory):
    """The interpreter of a new environment with the wheel; what the wheel requires is borrowed from this one."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, symlinks=os.name != "nt")
    python = next(folder.glob("*/python"))
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*command, str(distributions[1])], check=True, env=alone())
    site = next(folder.glob("lib/*/site-packages"))
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    return python


def alone() -> dict[str, str]:
    "An environment in which no checkout stands before what is installed."
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def run(python: Path, code: str, cwd: Path) -> str:
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, cwd=cwd, env=alone())
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_sdist_holds_what_a_build_needs_and_the_lessons(distributions):
    with tarfile.open(distributions[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"settings.ini", "setup.py", "pyproject.toml", "LICENSE", "nbs/index.ipynb"} <= names


def test_wheel_holds_the_package_and_nothing_else(distributions):
    names = zipfile.ZipFile(distributions[1]).namelist()
    assert {"finetune_lessons/cross_entropy.py", "finetune_lessons/lab/training/run.py"} <= set(names)
    assert {"finetune_lessons/results/11.json", "finetune_lessons/py.typed"} <= set(names)
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"finetune_lessons"}
    assert not [name for name in names if "__pycache__" in name]


def test_wheel_metadata_comes_from_settings(distributions):
    wheel = zipfile.ZipFile(distributions[1])
    (name,) = [name for name in wheel.namelist() if name.endswith("/METADATA")]
    metadata = email.message_from_bytes(wheel.read(name))
    assert metadata["Name"] == "finetune_lessons"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert set(metadata.get_all("Provides-Extra")) == {"lab", "trackers", "dev"}
    plain = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    assert any(line.startswith("torch>=") for line in plain)
    assert not any(line.startswith(("nbdev", "jupyterlab", "peft")) for line in plain)


def test_installed_wheel_needs_neither_nbdev_nor_jupyter(clean_python, tmp_path):
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({NOT_NEEDED}))\n"
        "import finetune_lessons.cross_entropy as lesson\n"
        "from finetune_lessons.lab import *\n"
        "import finetune_lessons; print(lesson.__file__, finetune_lessons.__version__)"
    )
    file, version = run(clean_python, code, tmp_path).split()
    assert Path(file).is_relative_to(clean_python.parents[1])
    assert version


def test_reference_results_are_there_without_the_repository(clean_python, tmp_path):
    code = "from finetune_lessons.lab import load_results; print(len(load_results('../results/11.json')))"
    (tmp_path / "content").mkdir()
    assert int(run(clean_python, code, tmp_path / "content")) >= 3


def test_installed_command_answers_and_says_how_to_get_the_lessons(clean_python, tmp_path):
    command = clean_python.parent / "finetune-lessons"
    helped, refused = (
        subprocess.run([command, *arguments], capture_output=True, text=True, cwd=tmp_path, env=alone())
        for arguments in (["--help"], ["run", "11"])
    )
    assert helped.returncode == 0 and "train" in helped.stdout
    assert refused.returncode == 1 and "clone the repository" in refused.stderr

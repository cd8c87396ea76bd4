"""Small folders on a model hub."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


def uploaded(
    folder: Path,
    repo_id: str,  # user/name
    private: bool,  # if it is made
) -> str:
    "Put the files of the folder into a repository of the hub, which is made where there is none; its address."
    from huggingface_hub import HfApi

    hub = HfApi()
    hub.create_repo(repo_id, private=private, exist_ok=True)
    hub.upload_folder(repo_id=repo_id, folder_path=folder)
    return f"{hub.endpoint}/{repo_id}"


@contextmanager
def downloaded(name: str | Path, files: list[str]) -> Iterator[Path]:
    "The folder, or, where there is none and the name is user/name, these files of that repository of the hub."
    if Path(name).exists() or not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(name)):
        yield Path(name)
        return
    from huggingface_hub import snapshot_download

    with TemporaryDirectory() as folder:
        try:
            snapshot_download(str(name), allow_patterns=files, local_dir=folder)
        except Exception as error:  # no network, no such repository, no right to it
            raise ValueError(f"there is no folder {name}, and the hub does not give it: {error}") from error
        yield Path(folder)

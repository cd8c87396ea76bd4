"""Small files of JSON that several processes read and write."""

import json
from pathlib import Path
from typing import Any

from finetune_lessons.lab.data.text_files import replace_file


def read_json(file: Path) -> dict[str, Any]:
    "The object in the file; empty where the file is missing, or holds anything else."
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_json(file: Path, content: dict[str, Any]) -> None:
    "Whole, or not at all. Raises OSError where nothing can be written."
    replace_file(file, (json.dumps(content, indent=1) + "\n").encode())

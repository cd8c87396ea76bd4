"""The text in a file of unknown encoding."""

from collections import Counter
from pathlib import Path
from uuid import uuid4


def decode(content: bytes) -> tuple[str, str]:
    """The text, and the encoding that fits: UTF-8, UTF-16 with its mark, GB18030 for Chinese, else Windows-1252."""
    unicode = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    for encoding in (unicode, "gb18030", "cp1252", "latin-1"):
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if encoding != "gb18030" or _is_chinese(text):
            return text, encoding
    raise AssertionError("latin-1 decodes any bytes")


def _is_chinese(text: str) -> bool:
    """Whether a text decoded from GB18030 is written in the common characters of Chinese.

    Western bytes can decode as GB18030 too: an accented letter and the letter after it make one character, a rare one.
    """
    counts = Counter(character for character in text if not character.isascii())
    rows = {character: _gb2312_row(character) for character in counts}
    common = [character for character, row in rows.items() if 16 <= row <= 55]  # the 3,755 most used
    signs = [character for character, row in rows.items() if 1 <= row <= 3]  # punctuation and digits
    n_common, n_signs = (sum(counts[character] for character in group) for group in (common, signs))
    return len(common) >= 3 and n_common >= 0.8 * (counts.total() - n_signs)


def _gb2312_row(character: str) -> int:
    """Row of the table of 94 rows that GB18030 extends; 0 for a character that is not in it."""
    code = character.encode("gb18030")
    return code[0] - 0xA0 if len(code) == 2 and min(code) > 0xA0 else 0


def replace_file(
    file: Path,  # in a folder that need not be there
    content: bytes,
) -> None:
    """Whole, or not at all. Raises OSError where nothing can be written."""
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_name(f"{file.name}.{uuid4().hex[:8]}")
    try:
        fresh.write_bytes(content)
        fresh.replace(file)
    finally:
        fresh.unlink(missing_ok=True)

"""Which columns of a table hold the texts and the labels."""

import difflib

from finetune_lessons.lab.data.csv_table import Table

MANY_WORDS = 3  # on average, from which on cells look like texts


def check_columns(table: Table, text: str, label: str) -> None:
    """Raises ValueError if the table lacks a column, and names the likeliest one."""
    asked = {"text": text, "label": label}
    missing = {role: name for role, name in asked.items() if name not in table.names}
    if not missing:
        return
    free = [name for name in dict.fromkeys(table.names) if name and name not in asked.values()]
    likeliest = _likeliest(table, missing, [name for name in free if table.names.count(name) == 1])
    chosen = ", ".join(f"{role}={name!r}" for role, name in likeliest.items())
    hint = f"; did you mean read_csv({table.path.name!r}, {chosen})?" if chosen else ""
    columns = ", ".join(map(repr, table.names))
    raise ValueError(f"{table.path} has no column {' and no column '.join(map(repr, missing.values()))}; "
                     f"its columns are {columns}{hint}")  # fmt: skip


def _likeliest(table: Table, missing: dict[str, str], free: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    folded = {name.casefold(): name for name in reversed(free)}
    for role, name in missing.items():
        if close := difflib.get_close_matches(name.casefold(), list(folded), n=1, cutoff=0.5):
            found[role] = folded.pop(close[0])
    cells = {name: [cell for cell in table.column(name) if cell] for name in folded.values()}
    if "text" in missing and "text" not in found:
        words = {
            name: sum(len(cell.split()) for cell in column) / max(1, len(column)) for name, column in cells.items()
        }
        if words and words[longest := max(words, key=lambda name: words[name])] >= MANY_WORDS:
            found["text"] = longest
            del cells[longest]
    if "label" in missing and "label" not in found:
        different = {name: len(set(column)) for name, column in cells.items() if column}
        repeated = {name: n for name, n in different.items() if 2 <= n <= len(cells[name]) / 2}
        if repeated:
            found["label"] = min(repeated, key=lambda name: repeated[name])
    return {role: found[role] for role in missing if role in found}

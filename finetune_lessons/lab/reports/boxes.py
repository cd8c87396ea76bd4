"""Boxes in boxes, as SVG that reads on a light and on a dark page, and as text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, SIZE, LINE, PAD, BAND = 624, 13, 18, 8, 10
LETTER, BOLD = 0.65 * SIZE, 0.72 * SIZE  # how wide one is on average, in the widest of the usual fonts
# text stands on a fill of its own, never on the page; lines show on a white page and on a black one
FILLS = {"frozen": "#3f4b57", "trained": "#8a3d00"}
LINES = {"frozen": "#808c98", "trained": "#d55e00"}
HATCH = (
    '<defs><pattern id="frozen" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    f'<rect width="6" height="6" fill="{FILLS["frozen"]}"/><rect width="2" height="6" fill="#ffffff"/></pattern></defs>'
)


@dataclass
class Box:
    "A part with a name, lines of text, its parameters, and what is in it."

    title: str
    lines: list[str]
    total: int  # parameters
    trained: int
    children: "list[Box]" = field(default_factory=list)
    added: bool = False  # by a method

    @property
    def texts(self) -> list[str]:
        "Its lines, with how many parameters it has and whether they are trained."
        if not self.total:
            return self.lines
        mixed = 0 < self.trained < self.total
        state = f", {self.trained:,} trained" if mixed else " trained" if self.trained else " frozen"
        return [*self.lines, f"{self.total:,}{state}"]

    @property
    def kind(self) -> str:
        "How it looks: a part that holds something trained, among what is frozen, looks frozen itself."
        return "trained" if self.added or self.trained and self.trained == self.total else "frozen"

    def words(self) -> str:
        inside = "; ".join(box.words() for box in self.children)
        return f"{self.title}: {', '.join(self.texts)}" + f" ({inside})" * bool(inside)


def as_text(title: str, boxes: Sequence[Box]) -> str:
    "One line a box, indented by what it is in."
    return "\n".join([title, *(line for box in boxes for line in _indented(box, 1))])


def _indented(box: Box, depth: int) -> Iterator[str]:
    yield f"{'  ' * depth}{'+ ' * box.added}{box.title}: {', '.join(box.texts)}"
    for child in box.children:
        yield from _indented(child, depth + 1)


def as_svg(title: str, boxes: Sequence[Box], alt: str) -> str:
    "The boxes below each other, an arrow from each to the next."
    heading = _Placed(Box(title, [], 0, 0), WIDTH - 2)
    parts = heading.drawn(1, 1)
    y: float = heading.height + 2 * PAD
    for i, box in enumerate(boxes):
        placed = _Placed(box, WIDTH - 2)
        parts += [_arrow(y - 2 * PAD)] if i else []
        parts += placed.drawn((WIDTH - placed.width) / 2, y)
        y += placed.height + 2 * PAD + 2
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {WIDTH} {y:g}" width="{WIDTH}" '
        f'height="{y:g}" style="max-width:100%;height:auto" font-family="Verdana, \'DejaVu Sans\', sans-serif" '
        f'font-size="{SIZE}"><title>{escape(title)}</title><desc>{escape(alt)}</desc>{HATCH}{"".join(parts)}</svg>'
    )


class _Placed:
    "A box with a size, and what is in it with places: in rows, as many beside each other as there is room for."

    def __init__(self, box: Box, room: float):
        self.box, self.inside = box, list[tuple[_Placed, float, float]]()
        self.text = [(text, True) for text in _broken("+ " * box.added + box.title, room, BOLD)]
        self.text += [(part, False) for text in box.texts for part in _broken(text, room, LETTER)]
        self.width = self.wide = BAND + 2 * PAD + max(len(t) * (BOLD if bold else LETTER) for t, bold in self.text)
        self.top: float = PAD + LINE * len(self.text)  # the height of the text
        x, y, row = float(PAD), float(self.top + PAD), 0.0
        for child in box.children:
            placed = _Placed(child, room - 2 * PAD)
            if x > PAD and x + placed.width > room - PAD:
                x, y, row = PAD, y + row + PAD, 0
            self.inside.append((placed, x, y))
            self.width, row = max(self.width, x + placed.width + PAD), max(row, placed.height)
            x += placed.width + PAD
        self.height: float = y + row + PAD if self.inside else self.top

    def drawn(self, x: float, y: float) -> list[str]:
        kind = self.box.kind
        line = f'stroke="{LINES[kind]}" ' + ('stroke-width="3"' if kind == "trained" else 'stroke-dasharray="5 3"')
        parts = [_rect(x, y, self.width, self.height, f'fill="none" rx="4" {line}')] if self.inside else []
        parts.append(_rect(x, y, self.wide, self.top, f'fill="{FILLS[kind]}" rx="4" {line}'))
        if self.box.total and not self.inside:
            band = LINES[kind] if kind == "trained" else "url(#frozen)"
            parts.append(_rect(x, y, BAND, self.top, f'fill="{band}"'))
        for i, (text, bold) in enumerate(self.text):
            weight = ' font-weight="bold"' * bold
            parts.append(
                f'<text x="{x + BAND + PAD:g}" y="{y + LINE * (i + 1):g}" fill="#ffffff"{weight}>{escape(text)}</text>'
            )
        return parts + [part for child, dx, dy in self.inside for part in child.drawn(x + dx, y + dy)]


def _broken(text: str, room: float, letter: float) -> Iterator[str]:
    "The text in lines that fit, broken at spaces, dots and underscores where there are any."
    most = max(int((room - BAND - 2 * PAD) / letter), 8)
    while len(text) > most:
        at = max(text.rfind(mark, 0, most) for mark in " ._") + 1 or most
        yield text[:at].rstrip()
        text = text[at:]
    yield text


def _rect(x: float, y: float, width: float, height: float, look: str) -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" {look}/>'


def _arrow(y: float) -> str:
    x = WIDTH / 2
    return (
        f'<path d="M{x:g} {y:g} v{2 * PAD - 2:g} m-5 -6 l5 6 l5 -6" fill="none" stroke="{LINES["frozen"]}" '
        'stroke-width="2"/>'
    )

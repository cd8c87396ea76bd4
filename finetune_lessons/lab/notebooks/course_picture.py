"""The course as a picture: which lesson stands on which."""

from collections.abc import Mapping, Sequence
from html import escape

from finetune_lessons.lab.figures.palette import INK
from finetune_lessons.lab.notebooks.course import Lesson

WIDTH, HEIGHT, RIGHT, DOWN, EDGE = 226, 50, 278, 64, 6  # pixels: of a box, from one to the next, around all
FILLS = ("#0072B2", "#00805D", "#A04F83", "#8A6100", "#A8522F", "#5F6F00")  # white text has 4.5, a dark page 3, or more


def draw_course(
    lessons: Sequence[Lesson],
) -> str:
    "An SVG picture that reads on white and on dark pages: a box a lesson, a line from what it stands on."
    places = _places(lessons)
    fills = dict(zip(dict.fromkeys(lesson.part for lesson in lessons), FILLS, strict=False))
    lines = [
        _line(places[before], places[lesson.number]) for lesson in lessons for before in _parents(lesson, lessons)
    ]
    boxes = [_box(lesson, places[lesson.number], fills[lesson.part]) for lesson in lessons]
    width, height = (max(place[i] for place in places.values()) + size + EDGE for i, size in ((0, WIDTH), (1, HEIGHT)))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" font-family="system-ui, sans-serif"><title>{escape(course_words(lessons))}</title>\n'
        + "\n".join([*lines, *boxes])
        + "\n</svg>\n"
    )


def course_words(
    lessons: Sequence[Lesson],
) -> str:
    "What the picture shows, for those who do not see it."
    said = [f"{lesson.number} {lesson.title}" + _after(_parents(lesson, lessons)) for lesson in lessons]
    return f"The way through the lessons: {'; '.join(said)}."


def _after(parents: Sequence[str]) -> str:
    return f" after {' and '.join(parents)}" if parents else ""


def _parents(lesson: Lesson, lessons: Sequence[Lesson]) -> list[str]:
    "What it stands on directly, and not by another."
    by_number = {other.number: other for other in lessons}
    known = [number for number in lesson.after if number in by_number]
    implied = {number for other in known for number in by_number[other].after}
    return [number for number in known if number not in implied]


def _places(lessons: Sequence[Lesson]) -> Mapping[str, tuple[int, int]]:
    "Left and top of each box: a column for each step of the way, in it one below the other."
    steps: dict[str, int] = {}
    for lesson in lessons:  # in the order of their numbers, so what one stands on comes first
        steps[lesson.number] = 1 + max((steps[before] for before in _parents(lesson, lessons)), default=-1)
    rows = {number: list(steps.values())[:i].count(step) for i, (number, step) in enumerate(steps.items())}
    return {number: (EDGE + RIGHT * step, EDGE + DOWN * rows[number]) for number, step in steps.items()}


def _line(start: tuple[int, int], end: tuple[int, int]) -> str:
    (x1, y1), (x2, y2) = (start[0] + WIDTH, start[1] + HEIGHT // 2), (end[0], end[1] + HEIGHT // 2)
    middle = (x1 + x2) // 2
    curve = f"M{x1} {y1}C{middle} {y1} {middle} {y2} {x2 - 7} {y2}"
    head = f"M{x2} {y2}l-9 -5v10z"
    return (
        f'<path d="{curve}" fill="none" stroke="{INK}" stroke-width="2"/><path d="{head}" fill="{INK}"/>'
    )


def _box(lesson: Lesson, place: tuple[int, int], fill: str) -> str:
    x, y = place
    return (
        f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="{fill}"/>'
        f'<text x="{x + 12}" y="{y + 21}" fill="#fff" font-size="15" font-weight="600">{lesson.number} '
        f'{escape(lesson.title)}</text>'
        f'<text x="{x + 12}" y="{y + 40}" fill="#fff" font-size="13">{escape(lesson.part)}</text>'
    )

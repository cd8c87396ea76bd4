"""Colours that read on a white page and on a dark one, and how much they stand out from what is behind them."""

from typing import Any

# White stands out from #111111 by 18.9. What is as far from both has the square root of that, 4.35: text without a
# background of its own cannot have more on both pages.
INK = "#797979"  # of text, axes and grid: 4.35 on white, 4.3 on #111111
# The hues of Okabe and Ito, told apart by every kind of colour vision; in a lightness that has 3 or more on both pages.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#C76D9F", "#B57F00", "#2F95CE", INK)
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
STYLES = tuple(zip(COLOURS, DASHES, strict=True))
CURVES = tuple(zip(COLOURS, DASHES, MARKERS, strict=True))

Colour = Any  # what matplotlib takes for one: "#0072B2", a name, three or four numbers from 0 to 1


def contrast(
    one: Colour,
    other: Colour,
) -> float:
    "How much two colours stand out from each other, from 1 to 21, as WCAG counts it: (L + 0.05) / (l + 0.05)."
    darker, lighter = sorted((_luminance(one), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def text_on(
    colour: Colour,  # of a cell of a heat map, a bar, a box
) -> str:
    "Black or white, whichever reads better on the colour: at least 4.5."
    return max(("black", "white"), key=lambda ink: contrast(ink, colour))


def is_grey(colour: Colour) -> bool:
    "Whether it is black, white or between them."
    parts = _rgb(colour)
    return max(parts) - min(parts) < 0.02


def _luminance(colour: Colour) -> float:
    red, green, blue = (x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in _rgb(colour))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _rgb(colour: Colour) -> tuple[float, float, float]:
    "How much is seen through it does not count."
    from matplotlib.colors import to_rgb

    return to_rgb(colour)

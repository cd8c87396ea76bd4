"""Texts with labels, in three splits that never share a text: packaged, or from elsewhere."""

import html
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_lessons.lab.data.assets import asset_path
from finetune_lessons.lab.data.external_data import external_splits
from finetune_lessons.lab.data.progress import no_progress_bars
from finetune_lessons.lab.data.splits import (
    Row,
    balanced,
    letters,
    normal_form,
    split_rows,
    with_n_eval,
    with_n_train,
    without_copies,
    without_repeats,
)
from finetune_lessons.lab.data.text_files import decode

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

RATED = {  # name -> how its files begin in the VADER package
    "movies": "movieReviewSnippets",
    "products": "amazonReviewSnippets",
    "editorials": "nytEditorialSnippets",
    "tweets": "tweets",
}
PACKAGED = (*RATED, "news", "reviews_zh")
NEUTRAL_BAND = 0.5  # rated texts with |intensity| up to here are neither positive nor negative
_RATED_SIZES = {"validation": 500, "test": 1000}
_NEWS_SIZES = {"validation": 200, "test": 400}
_REVIEW_SIZES = {"validation": 500, "test": 1000}
_REVIEW_LENGTH = 200  # characters of the longest review that is kept
_REVIEW_ENDS = 20  # letters that only copies of each other begin or end with


def load_data(
    name: str | Path,  # a name of `PACKAGED`, a hub id ("glue/sst2", "stanfordnlp/imdb") or a local folder
    n_train: int | None = None,  # training texts to draw, with the class shares of the whole; None: all
    n_eval: int | None = None,  # validation and test texts each, at most; None: all
    seed: int = 0,  # of which training texts are drawn, and of their order
) -> "DatasetDict":
    """Train, validation and test, with the columns text and label, and no text in two splits.

    Validation and test are the same for every `seed` and `n_train`; `n_eval` keeps their class shares.
    `movies`, `products`, `editorials`, `tweets` add ratings (the raw -4..4 of 15 to 99 raters) and intensity, always
    the mean of those ratings; texts with |intensity| <= 0.5 are left out, the others are negative or positive.
    `news` adds title.
    `reviews_zh` has Chinese reviews of at most 200 characters, none cut, as many negative as positive ones; what is
    left out is counted and printed. Reviews whose first or last 20 letters and digits are the same are copies.
    From elsewhere: a column sentence, content or review is renamed text if there is none; words, whole numbers, True
    and False are classes, the same in every split by name; CSV files are read as `read_csv` reads them; rows without
    text or label are dropped; a split whose labels are hidden (all -1) or missing is left out; without a test split
    the validation split becomes the test; a split that is still missing is a tenth of train (at most 1,000 texts).
    Each such step is printed.
    Raises ValueError for anything that cannot be loaded.
    """
    name = str(name)
    if name in PACKAGED:
        kept, steps = _packaged_splits(name)
        splits = {split: rows.with_format(None) for split, rows in kept.items()}  # set_format changes one in place
        for step in steps:
            print(step)
    else:
        with no_progress_bars():
            splits = external_splits(name, PACKAGED)
    return with_n_train(with_n_eval(splits, n_eval), n_train, seed, name)


@cache
def _packaged_splits(name: str) -> "tuple[dict[str, Dataset], list[str]]":
    "They never change, and a lesson asks for them twenty times; and which steps led to them."
    if name in RATED:
        return split_rows(_rated_rows(name), _RATED_SIZES, ["negative", "positive"]), []
    if name == "news":
        rows = _news_rows()
        return split_rows(rows, _NEWS_SIZES, sorted({row["label"] for row in rows})), []
    rows, step = _review_rows()
    return split_rows(rows, _REVIEW_SIZES, ["negative", "positive"]), [step]


def _rated_rows(name: str) -> list[Row]:
    folder = asset_path("vader") / "hutto_ICWSM_2014"
    raters = dict(_tab_separated(folder / f"{RATED[name]}_anonDataRatings.txt", (0, 3)))
    rows = []
    for key, text in _tab_separated(folder / f"{RATED[name]}_GroundTruth.txt", (0, 2)):
        ratings = json.loads(raters[key])
        # The published mean is not used: in 196 of the 4,200 tweets it differs from that of the raw ratings.
        intensity = sum(ratings) / len(ratings)
        if abs(intensity) > NEUTRAL_BAND:
            label = "positive" if intensity > 0 else "negative"
            text = html.unescape(text).strip()
            rows.append({"text": text, "label": label, "intensity": intensity, "ratings": ratings})
    return without_repeats(rows)


def _tab_separated(file: Path, columns: tuple[int, int]) -> Iterator[tuple[str, str]]:
    for line in file.read_text(encoding="utf-8-sig").strip("\n").split("\n"):
        cells = line.split("\t")
        yield cells[columns[0]], cells[columns[1]]


def _news_rows() -> list[Row]:
    rows = []
    for file in sorted((asset_path("news") / "bbcnews").rglob("*.txt")):
        article, _ = decode(file.read_bytes())
        title, _, body = article.strip().partition("\n")
        rows.append({"text": body.strip(), "label": file.parent.name, "title": title.strip()})
    # The source repeats articles, some with a new opening or a new end.
    return without_copies(rows, normal_form, 150)


def _review_rows() -> tuple[list[Row], str]:
    "And what was left out, in words."
    lines = [
        {"text": line.strip(), "label": label}
        for label, file in (("negative", "neg.txt"), ("positive", "pos.txt"))
        for line in (asset_path("reviews_zh") / file).read_text(encoding="utf-8").split("\n")
    ]
    worded = [row for row in lines if letters(row["text"])]
    short = [row for row in worded if len(row["text"]) <= _REVIEW_LENGTH]
    once = without_copies(short, letters, _REVIEW_ENDS)
    rows = balanced(once)
    return rows, (
        f"reviews_zh: of {len(worded):,} texts, left out are {len(worded) - len(short):,} of more than "
        f"{_REVIEW_LENGTH} characters, {len(short) - len(once):,} copies of others, and {len(once) - len(rows):,} "
        f"for as many negative as positive ones; {len(rows):,} are kept."
    )

"""Tags that were judged by eye -> how many are wrong from which score on, as a table.

    python ops/bundled_model/judged.py

`judged.tsv` has a line for each picture and tag, what the tag scores, and whether it is right,
acceptable (a near word, or true of a part of the picture) or wrong. `softmax` is a label's share of
all labels; `score` is as calibrated: a label, or a kind, against all labels that are no kin of it.
Labels below a tenth and kinds below a quarter were left out, but each picture has its best label.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

HERE: Final = Path(__file__).resolve().parent
THRESHOLDS: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.55, 0.6, 0.7, 0.8, 0.9)
# As many as a record has.
TOP: Final = 5


class Judged(NamedTuple):
    """A tag of a picture; what is a kind alone has no softmax. `level`: label, kind or both."""

    tag: str
    parent: str
    level: str
    softmax: float
    score: float
    judgement: str


Picture = Sequence[Judged]
Way = Callable[[Picture, float], list[Judged]]


def read() -> dict[str, list[Picture]]:
    """Return the pictures of each set."""
    found: dict[str, dict[str, list[Judged]]] = defaultdict(lambda: defaultdict(list))
    with (HERE / "judged.tsv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            found[row["set"]][row["package"] + row["picture"]].append(
                Judged(
                    row["tag"],
                    row["parent"],
                    row["level"],
                    float(row["softmax"] or 0),
                    float(row["score"]),
                    row["judgement"],
                )
            )
    return {name: list(pictures.values()) for name, pictures in found.items()}


def by_softmax(picture: Picture, threshold: float) -> list[Judged]:
    """Return the labels that have such a share of all."""
    best = sorted(picture, key=lambda one: -one.softmax)[:TOP]
    return [one for one in best if one.softmax >= threshold and one.level != "kind"]


def calibrated(picture: Picture, threshold: float) -> list[Judged]:
    """Return the labels that score so much, each by itself."""
    labels = [one for one in picture if one.level != "kind" and one.score >= threshold]
    return sorted(labels, key=lambda one: -one.score)[:TOP]


def or_kind(picture: Picture, threshold: float) -> list[Judged]:
    """Return the labels that have such a share of all, else the lowest kind that scores so much."""
    kinds = [one for one in picture if one.level != "label" and one.score >= threshold]
    above = {one.parent for one in kinds}
    lowest = sorted(
        (one for one in kinds if one.tag not in above), key=lambda one: one.score, reverse=True
    )
    return by_softmax(picture, threshold) or lowest[:1]


WAYS: Final[dict[str, Way]] = {
    "softmax": by_softmax,
    "calibrated": calibrated,
    "softmax, else a kind": or_kind,
}


def figures(pictures: Iterable[Picture], way: Way, threshold: float) -> tuple[int, int, int]:
    """Return the number of tags, of wrong ones among them, and of pictures that have one."""
    tags = [way(one, threshold) for one in pictures]
    wrong = sum(one.judgement == "wrong" for some in tags for one in some)
    return sum(map(len, tags)), wrong, sum(map(bool, tags))


def main() -> None:
    """Print a table of each set."""
    for name, pictures in read().items():
        print(f"\n{name}: {len(pictures)} pictures; tags, of them wrong, pictures with a tag\n")
        print("| from |", " | ".join(WAYS), "|")
        print("|---:|", "---:|" * len(WAYS), sep="")
        for threshold in THRESHOLDS:
            cells = []
            for way in WAYS.values():
                tags, wrong, tagged = figures(pictures, way, threshold)
                share = f", {wrong / tags:.0%}" if tags else ""
                cells.append(f"{tags}, {wrong} wrong{share}; {tagged}")
            print(f"| {threshold} |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()

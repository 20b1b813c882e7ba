"""What a worker writes about files, held against transformers' own pipeline on the same files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, run
from images import encoded, picture
from PIL import Image, ImageOps

# Camera sizes, landscape and portrait, and one that is smaller than the model's own.
SIZES = ((4000, 3000), (3000, 4000), (2400, 1600), (640, 480), (100, 60))
Tags = dict[str, list[tuple[str, float]]]


def gather(directory: Path, *, examples: bool = True) -> Path:
    """Put JPEGs of camera size into a directory, and the bundled examples."""
    for file in (ROOT / "ops" / "examples").iterdir() if examples else ():
        if file.suffix in {".jpg", ".png", ".webp"}:
            shutil.copy(file, directory)
    for number, size in enumerate(SIZES):
        (directory / f"{number}.jpg").write_bytes(encoded(picture(7 * number + 1, size)))
    return directory


def tags(queue: str, photos: Path, out: Path, labels: tuple[str, ...]) -> Tags:
    """What `producer submit` writes: all labels with their scores, by file."""
    argv = [word for label in labels for word in ("--label", label)]
    argv += ["--top-k", str(len(labels)), "--out", str(out)]
    done = run("producer", "submit", str(photos), *argv, broker_url=queue)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    return {r["path"]: [(tag["label"], tag["score"]) for tag in r["tags"]] for r in found}


def compare(ours: Tags, zero_shot: Any, labels: tuple[str, ...], template: str) -> float:
    """Hold all scores against those of transformers' pipeline; return how many firsts agree."""
    agreed = 0
    for path, found in ours.items():
        with Image.open(path) as image:
            theirs = zero_shot(
                ImageOps.exif_transpose(image).convert("RGB"),
                candidate_labels=list(labels),
                hypothesis_template=template,
            )
        wanted = {one["label"]: one["score"] for one in theirs}
        for label, score in found:
            assert score == pytest.approx(wanted[label], abs=1e-3), (path, label)
        agreed += found[0][0] == theirs[0]["label"]
    return agreed / len(ours)

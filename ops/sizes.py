"""Measure how large functions and modules are.

    python ops/sizes.py [TREE ...]

A tree is a directory that holds `producer` and `worker`; without any, it is this checkout. Lines of
a function are those from `def` to its end, docstring and comments included; a method counts as a
function, and a function inside another counts for both.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Final

PACKAGES: Final = ("producer", "worker")
_PERCENTILE: Final = 0.95


def modules(tree: Path, package: str) -> Iterator[tuple[Path, str]]:
    """Yield each module of a package with its source."""
    for file in sorted((tree / package).rglob("*.py")):
        yield file, file.read_text(encoding="utf-8")


def function_lines(source: str) -> Iterator[int]:
    """Yield how many lines each function of a module has."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield (node.end_lineno or node.lineno) - node.lineno + 1


def spread(counts: Sequence[int]) -> str:
    """Return median, 95th percentile and maximum."""
    ordered = sorted(counts)
    return (
        f"{median(ordered):.0f} / {ordered[int(_PERCENTILE * (len(ordered) - 1))]} / {ordered[-1]}"
    )


def row(tree: Path, package: str) -> str:
    """Return the figures of a package as a row of the table."""
    sources = [source for _, source in modules(tree, package)]
    lengths = [len(source.splitlines()) for source in sources]
    functions = [lines for source in sources for lines in function_lines(source)]
    return (
        f"| {tree.name}/{package} | {len(sources)} | {sum(lengths):,} | {spread(lengths)} "
        f"| {len(functions):,} | {spread(functions)} |"
    )


def main(trees: Sequence[str]) -> None:
    """Print a table with a row per package."""
    print("| package | modules | lines | lines per module | functions | lines per function |")
    print("|---|---|---|---|---|---|")
    for tree in map(Path, trees or (Path(__file__).resolve().parents[1],)):
        for package in PACKAGES:
            print(row(tree, package))


if __name__ == "__main__":
    main(sys.argv[1:])

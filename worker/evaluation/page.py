"""An evaluation -> one HTML page that needs nothing else: tables, and the worst mistakes.

Whatever strangers chose (labels, names of files and folders) is escaped, and the page runs no
script and loads nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Final

from worker.contract.i18n import gettext as _
from worker.contract.i18n import language_in_use
from worker.contract.printable import printable
from worker.evaluation.answers import Answer
from worker.evaluation.evaluation import Evaluation
from worker.evaluation.figures import Mistake
from worker.evaluation.sheets import Sheet, sentences, sheets

THUMBNAIL_PX: Final = 168
_PAGE: Final = "page.html"


def page(found: Evaluation, worst: Sequence[Answer]) -> bytes:
    """Return the page; `worst` are the answers of the mistakes, in their order."""
    template = files("worker.evaluation").joinpath(_PAGE).read_text(encoding="utf-8")
    figures = found.figures
    mistakes = figures.mistakes if figures else ()
    parts = {
        "language": language_in_use(),
        "heading": _("Evaluation of {model}").format(model=found.model),
        "mistakes_heading": _("The worst mistakes"),
    }
    filled = {name: _plain(text) for name, text in parts.items()} | {
        "summary": "".join(f"<p>{_plain(one)}</p>\n" for one in sentences(found)),
        "tables": "".join(map(_table, sheets(figures))) if figures else "",
        "mistakes": "".join(
            _card(mistake, answer.thumbnail)
            for mistake, answer in zip(mistakes, worst, strict=True)
        ),
    }
    return Template(template).substitute(filled).encode()


def _table(sheet: Sheet) -> str:
    heads = "".join(
        _cell("th", name, number < sheet.texts) for number, name in enumerate(sheet.columns)
    )
    rows = "".join(
        f"<tr>{''.join(_cell('td', cell, number < sheet.texts) for number, cell in enumerate(row))}"
        "</tr>\n"
        for row in sheet.rows
    )
    return (
        f"<section><h2>{_plain(sheet.title)}</h2>\n<table><tr>{heads}</tr>\n{rows}</table>"
        "</section>\n"
    )


def _cell(kind: str, text: str, is_text: bool) -> str:  # noqa: FBT001 - the kind of the column
    start = f'{kind} class="text"' if is_text else kind
    return f"<{start}>{_plain(text)}</{kind}>"


def _card(mistake: Mistake, thumbnail: str | None) -> str:
    return "".join(_card_parts(mistake, thumbnail))


def _card_parts(mistake: Mistake, thumbnail: str | None) -> Iterator[str]:
    name = mistake.path.rpartition("/")[2]
    yield '<article><div class="picture">'
    if thumbnail:
        yield f'<img alt="{_plain(name)}" src="data:image/jpeg;base64,{_plain(thumbnail)}">'
    yield f'</div><div class="name" title="{_plain(mistake.path)}">{_plain(name)}</div>'
    truth = _("{labels} (place {rank:,})")
    labels = ", ".join(mistake.labels)
    yield f'<div class="truth">{_plain(truth.format(labels=labels, rank=mistake.rank))}</div>'
    for tag in mistake.tags:
        yield (
            f'<div class="tag" style="--share: {tag.score:.0%}"><span>{_plain(tag.label)}</span>'
            f"<span>{tag.score:.2f}</span></div>"
        )
    yield "</article>\n"


def _plain(text: str) -> str:
    """Return a text as it is shown: nothing in it hides, or is markup."""
    return escape(printable(text))

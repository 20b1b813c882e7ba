"""/ and /docs -> pages for people, which load nothing from anywhere else."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from importlib.resources import files
from typing import Final

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse, Response

from producer.api.errors import RefusedError
from producer.console.failures import ANSWERS
from worker.contract.failure_sentences import IMAGES
from worker.contract.i18n import gettext, in_language

_ASSETS: Final = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon.png": "image/png",
}
_INLINE: Final = {
    kind: re.compile(rf"<{tag}>(.*?)</{tag}>", re.DOTALL)
    for kind, tag in (("script-src", "script"), ("style-src", "style"))
}
_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}
# Where the page has the sentences of failures in Chinese.
_NO_SENTENCES: Final = "zh: {} }"
_NOWHERE_ELSE: Final = (
    "default-src 'none'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


def add_pages(app: FastAPI) -> None:
    """Add the pages; they are open to all: what belongs to somebody comes with the key alone."""
    here = (files("producer.api") / "try.html").read_text(encoding="utf-8")
    here = here.replace(_NO_SENTENCES, f"zh: {_sentences('zh')} }}", 1)
    docs = get_swagger_ui_html(
        openapi_url="openapi.json",
        title="wanwu-tagger",
        swagger_js_url="docs/swagger-ui-bundle.js",
        swagger_css_url="docs/swagger-ui.css",
        swagger_favicon_url="docs/favicon.png",
    )
    pages = {"/": here, "/docs": bytes(docs.body).decode()}

    def add(path: str, text: str, images: str) -> None:
        headers = _HEADERS | {"Content-Security-Policy": policy(text, images)}

        @app.get(path, include_in_schema=False)
        async def page() -> HTMLResponse:
            return HTMLResponse(text, headers=headers)

    add("/", pages["/"], "blob: data:")
    add("/docs", pages["/docs"], "'self' data:")

    @app.get("/docs/{name}", include_in_schema=False)
    async def asset(name: str) -> Response:
        if name not in _ASSETS:
            raise RefusedError(404, "not_found", "there is no such page")
        file = str(files("fastapi_offline") / "static" / name)
        return FileResponse(file, media_type=_ASSETS[name], headers=_HEADERS)


def _sentences(language: str) -> str:
    """Return the codes of failures with their sentences in a language, as JSON in a script."""
    with in_language(language):
        found = {code: gettext(message) for code, message in {**IMAGES, **ANSWERS}.items()}
    return json.dumps(found, ensure_ascii=False).replace("<", "\\u003c")


def policy(text: str, images: str) -> str:
    """Return what a page may do: its own scripts and styles, and requests to where it is from."""
    allowed = [_NOWHERE_ELSE, f"img-src {images}"]
    for kind, pattern in _INLINE.items():
        hashes = " ".join(f"'sha256-{_digest(part)}'" for part in pattern.findall(text))
        allowed.append(f"{kind} 'self' {hashes}".rstrip())
    return "; ".join(allowed)


def _digest(part: str) -> str:
    return base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()

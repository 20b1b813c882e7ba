"""Flower, taught: fields of chunks, a panel for workers, a page of its own for throughput.

Flower 2 has no plugins. What it has are tables that it looks into when it starts (columns,
handlers, the loader of its templates): this adds to them. Where a newer Flower has other templates,
ours are left out, and the rest works.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import flower.app
import flower.views
import msgspec
import redis
from celery.events.state import Task
from flower.api import BaseApiHandler
from flower.events import Events
from flower.urls import handlers, settings
from flower.views import BaseHandler
from flower.views.tasks import TASK_COLUMNS
from tornado import web
from tornado.template import DictLoader

from producer.console.durations import age
from producer.monitoring.flower import svg as plots
from producer.monitoring.flower.broker import QueueLengths, check_url, settings_of
from producer.monitoring.flower.throughput_stats import PERIOD_S, STAGES, Throughput, View
from producer.monitoring.queue_stats import look
from worker.contract.messages import QUEUE
from worker.contract.printable import printable
from worker.contract.queue.app import prefix_options, use_broker
from worker.contract.redis.connections import BrokerUnreachableError, connect
from worker.contract.stores.dead_letters import DeadLetters
from worker.contract.stores.jobs import JobStore

# Means over the images of a chunk, in milliseconds where the name says so.
FIELDS: Final = {
    "images": "Images",
    "failed_images": "Failed",
    "images_per_s": "img/s",
    "batch": "Batch",
    "queue_ms": "Queue ms",
    "read_ms": "Read ms",
    "decode_ms": "Decode ms",
    "batch_wait_ms": "Wait ms",
    "infer_ms": "Infer ms",
    "total_ms": "Total ms",
    "device": "Device",
    "model": "Model",
}
_WORDS: Final = ("device", "model")
# A worker says every two seconds that it lives.
SILENT_S: Final = 15.0
LOOK_TIMEOUT_S: Final = 5.0
_URL_VARIABLE: Final = "CELERY_BROKER_URL"
_HERE: Final = Path(__file__).parent
_NAVIGATION: Final = "      </ul>\n"
_LINK: Final = """        <li class="nav-item">
          <a class="nav-link{% if active_tab == 'throughput' %} active{% end %}"
            href="{{ reverse_url('throughput') }}"
            {% if active_tab == 'throughput' %}aria-current="page"{% end %}>Throughput</a>
        </li>
"""

# Of Flower's own pages: what our workers refuse (`worker.service.control`). Flower asks for it and
# says that it is done, whatever they answer.
_REFUSED: Final = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (
        r'<button id="worker-(?:shutdown|pool-restart)".*?</button>',
        r'<section class="worker-panel worker-controls-panel".*?</section>',
        r'<button id="worker-cancel-consumer-.*?</button>',
        r'<input id="add-consumer-name".*?</button>',
        r'<button[^>]*id="task-(?:rate-limit|timeout-soft|timeout-hard)-.*?</button>',
        r'<button[^>]*id="task-terminate".*?</button>',
    )
)

throughput: Final = Throughput()


class ThroughputEvents(Events):
    """Flower's ears, with ours beside them; and where it learns our settings of the broker."""

    def __init__(self, capp: Any, *arguments: Any, **named: Any) -> None:
        self._settings = settings_of(capp)
        # What an installation without workers asks for, too.
        capp.conf.task_default_queue = QUEUE
        # Celery's command sets it, and it is stronger than what is set here.
        os.environ.pop(_URL_VARIABLE, None)
        use_broker(capp, self._settings.broker_url, prefix_options(self._settings.keys))
        super().__init__(capp, *arguments, **named)

    def start(self) -> None:
        """Begin to listen, and to look into Redis."""
        super().start()
        threading.Thread(target=self._look, name="throughput", daemon=True).start()

    def on_event(self, event: Any) -> None:
        """Take in an event."""
        throughput.on_event(event)
        # Flower's tables escape what is HTML, and nothing that hides or turns.
        shown = {
            name: printable(event[name]) for name in _WORDS if isinstance(event.get(name), str)
        }
        super().on_event(event | shown)

    def _look(self) -> None:
        pause = threading.Event()
        settings = self._settings
        keys, url, ttl_s = settings.keys, settings.broker_url, settings.result_ttl_s
        while True:
            with (
                suppress(BrokerUnreachableError, redis.RedisError),
                connect(url, timeout_s=LOOK_TIMEOUT_S) as client,
            ):
                jobs, dead = JobStore(client, ttl_s, keys=keys), DeadLetters(client, keys)
                while True:
                    throughput.look(look(client, keys, jobs, dead))
                    pause.wait(PERIOD_S)
            throughput.look(None)
            pause.wait(PERIOD_S)


class ThroughputView(BaseHandler):
    """`GET /throughput`: the page; with `?figures=1` that of it which changes."""

    @web.authenticated
    def get(self) -> None:
        """Answer."""
        view = throughput.view()
        page = "throughput_figures.html" if self.get_argument("figures") else "throughput.html"
        self.render(
            page,
            view=view,
            cards=_cards(view),
            plots=_plots(view),
            width=plots.WIDTH,
            height=plots.HEIGHT,
            stages=STAGES,
            span_s=plots.span_of([one.ago_s for one in view.moments]),
            fastest=max((one.images_per_s for one in view.workers), default=0.0),
            age=age,
            period_s=PERIOD_S,
            silent_s=SILENT_S,
            url_prefix_of=self.application.options.url_prefix or "",
        )


class ThroughputApi(BaseApiHandler):
    """`GET /api/throughput`: a `throughput.View` as JSON."""

    @web.authenticated
    def get(self) -> None:
        """Answer."""
        self.write(msgspec.to_builtins(throughput.view()))


def install() -> None:
    """Teach the Flower of this process, before it starts.

    Raises:
        SystemExit: the URL of its broker cannot be used, in a sentence.
    """
    check_url()
    for name in FIELDS:
        if name not in Task._fields:
            # A task that is not finished has none of them.
            setattr(Task, name, None)
            Task._fields += (name,)
            Task._info_fields += (name,)  # noqa: SLF001 - what the page of a task shows
    TASK_COLUMNS.update(FIELDS)
    flower.app.Events = ThroughputEvents
    flower.views.Broker = QueueLengths
    # Before the last, which answers whatever no other does.
    handlers[-1:-1] = [
        web.url(r"/throughput", ThroughputView, name="throughput"),
        web.url(r"/api/throughput", ThroughputApi),
    ]
    settings["template_loader"] = DictLoader(_templates(Path(settings["template_path"])))


def _templates(directory: Path) -> dict[str, str]:
    """Return Flower's pages, ours, and what ours add to Flower's."""
    pages = _pages(directory, directory.rglob("*.html")) | _pages(_HERE, _HERE.glob("*.html"))
    panel = pages["worker_panel.html"]
    pages["worker.html"] = pages["worker.html"].replace("</header>", f"</header>\n{panel}", 1)
    # The first list of the bar is the pages', the second is of small signs.
    pages["navbar.html"] = pages["navbar.html"].replace(_NAVIGATION, _LINK + _NAVIGATION, 1)
    for name in ("worker.html", "task.html"):
        for refused in _REFUSED:
            pages[name] = refused.sub("", pages[name])
    return pages


def _pages(directory: Path, files: Iterable[Path]) -> dict[str, str]:
    return {str(file.relative_to(directory)): file.read_text(encoding="utf-8") for file in files}


def _cards(view: View) -> list[tuple[str, str, str, str]]:
    rate = view.images_per_s
    chunks = f"{view.chunks_waiting:,} chunks wait, workers have {view.chunks_in_workers:,}"
    left = "" if view.left_s is None else age(view.left_s)
    return [
        ("backlog", "Images to do", f"{view.backlog_images:,}", chunks),
        ("rate", "Images a second", "" if rate is None else f"{rate:,.1f}", "of all workers"),
        ("left", "Time left", left or "–", "if it goes on like this"),
        ("oldest", "Waiting time", age(view.oldest_s), "of the chunk that is next"),
    ]


def _plots(view: View) -> list[tuple[str, str, float, str]]:
    ago_s = [one.ago_s for one in view.moments]
    found = []
    for name, label, values in (
        ("backlog", "Images to do", [float(one.backlog_images) for one in view.moments]),
        ("rate", "Images a second", [one.images_per_s for one in view.moments]),
    ):
        top = plots.top_of(values)
        found.append((name, label, top, plots.points(ago_s, values, top, plots.span_of(ago_s))))
    return found

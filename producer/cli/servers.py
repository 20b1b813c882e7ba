"""The verbs that are servers: metrics for Prometheus, and the HTTP API."""

from __future__ import annotations

import logging

import click

from producer.cli.exit_codes import OK, echo, exits_with_code
from producer.cli.options import address_options, broker_option
from producer.cli.verbs import verb
from worker.contract.extras import need
from worker.contract.i18n import ENGLISH, use_language
from worker.contract.i18n import gettext as _
from worker.contract.printable import PrintableFormatter

_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


@verb("producer exporter --port 9808")
@address_options(9808)
@broker_option
@exits_with_code
def exporter(port: int, address: str, broker: str | None) -> int:
    """Serve queue metrics for Prometheus, until interrupted. Run one per Redis."""
    need("ops")
    from producer.backend.connection import open_connection
    from producer.backend.ports import url_place
    from producer.monitoring.prometheus import serve as answer
    from worker.contract.settings import Settings

    place = url_place(address, port)

    def listening() -> None:
        echo(_("listening on http://{place}/metrics").format(place=place))

    with open_connection(Settings.from_env(broker_url=broker), retries=False) as connection:
        answer(connection, address, port, listening)
    return OK


@verb("producer serve --port 8000")
@address_options(8000)
@broker_option
@exits_with_code
def serve(port: int, address: str, broker: str | None) -> int:
    """Serve the HTTP API until interrupted: tags for single images, and jobs."""
    need("http")
    from producer.api.server import serve as answer
    from producer.backend.connection import open_connection
    from producer.backend.ports import url_place
    from worker.contract.settings import Settings

    settings = Settings.from_env(broker_url=broker)
    if not settings.api_key and address not in _LOOPBACK:
        msg = _("anyone who can reach this port could use it: set WANWU_API_KEY")
        raise click.UsageError(msg)
    place = url_place(address, port)

    def listening() -> None:
        message = _("listening on http://{place}, documented at http://{place}/docs")
        echo(message.format(place=place))
        # What uvicorn logs of requests and of errors is chosen by whoever asks.
        for handler in logging.getLogger("uvicorn").handlers:
            handler.setFormatter(PrintableFormatter("%(levelname)s: %(message)s"))
        # What is answered over HTTP is for programs.
        use_language(ENGLISH)

    with open_connection(settings, retries=False) as connection:
        answer(connection, address, port, listening)
    return OK

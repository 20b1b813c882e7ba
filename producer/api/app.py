"""HTTP requests -> predictions and jobs -> replies: the routes, and what holds for all."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from fastapi import FastAPI, Response, Security
from fastapi.security import APIKeyHeader
from starlette.types import Receive, Scope, Send

from producer.api.bodies import Bodies
from producer.api.errors import RESPONSES, handle_errors
from producer.api.gate import Gate, Rules
from producer.api.health import HealthWatch
from producer.api.job_routes import bulk
from producer.api.jobs import ApiJobs
from producer.api.pages import add_pages
from producer.api.predict import predictions
from producer.api.results import ResultStreams
from producer.api.schemas import Health
from producer.api.urgent_queue import UrgentQueue
from producer.backend.connection import Connection

# For the description alone: the gate has looked at the key before.
_KEY: Final = APIKeyHeader(name="X-API-Key", auto_error=False)


class Api:
    """The application, and how it ends: streams at once, and what is under way when time is up."""

    def __init__(self, connection: Connection, api_key: str, hosts: frozenset[str]) -> None:
        """With an API key, every request but those to open paths must bring it as X-API-Key.

        Without one, only requests to these hosts are answered.
        """
        jobs = ApiJobs(connection)
        self._urgent_queue = UrgentQueue(connection)
        self._streams = ResultStreams(connection, jobs)
        self._health = HealthWatch(connection)
        self._bodies = Bodies()
        self._app = FastAPI(
            title="wanwu-tagger",
            summary="Tags for images, through the queue",
            lifespan=self._living,
            responses=RESPONSES,
            docs_url=None,
            redoc_url=None,
            # It would lead to whatever host a request names.
            redirect_slashes=False,
        )
        handle_errors(self._app)
        for routes in (
            predictions(connection, self._urgent_queue),
            bulk(connection, jobs, self._streams),
        ):
            self._app.include_router(routes, dependencies=[Security(_KEY)])
        add_health(self._app, self._health)
        add_pages(self._app)
        rules = Rules(api_key, hosts, connection.settings.max_file_bytes)
        self._gate = Gate(self._app, rules, self._bodies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, as ASGI has it."""
        await self._gate(scope, receive, send)

    def end_streams(self) -> None:
        """End what would go on for as long as it likes: clients see that it is not complete."""
        self._streams.stop()

    def end_all(self) -> None:
        """Refuse whoever still waits, or sends."""
        self._urgent_queue.refuse_all()
        self._bodies.refuse_all()

    @asynccontextmanager
    async def _living(self, _: FastAPI) -> AsyncIterator[None]:
        self._urgent_queue.start()
        yield
        self._health.stop()
        await self._urgent_queue.stop()


def add_health(app: FastAPI, watch: HealthWatch) -> None:
    """Add the route that anybody may ask."""

    @app.get("/health")
    async def health(response: Response) -> Health:
        """Tell whether the queue answers, and who works."""
        found = await watch.look()
        if found.status == "no queue":
            response.status_code = 503
        return found

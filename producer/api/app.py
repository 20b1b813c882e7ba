"""HTTP requests -> predictions and jobs -> replies: the routes, and what holds for all."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Final

from fastapi import Depends, FastAPI, Response, Security
from fastapi.security import APIKeyHeader

from producer.api.errors import RESPONSES, RefusedError, handle_errors, limit_bodies
from producer.api.job_routes import bulk
from producer.api.predict import predictions
from producer.api.schemas import Health
from producer.api.urgent_queue import UrgentQueue
from producer.backend.connection import Connection
from producer.backend.workers import online
from worker.contract.redis.connections import BrokerUnreachableError

ONLINE_S: Final = 1.0
_KEY: Final = APIKeyHeader(name="X-API-Key", auto_error=False)


def make_app(connection: Connection, api_key: str = "") -> FastAPI:
    """Return the app; with an API key, every request but /health must bring it as X-API-Key."""
    urgent_queue = UrgentQueue(connection)

    @asynccontextmanager
    async def living(_: FastAPI) -> AsyncIterator[None]:
        urgent_queue.start()
        yield
        urgent_queue.stop()

    def known(given: Annotated[str | None, Security(_KEY)]) -> None:
        if api_key and not secrets.compare_digest((given or "").encode(), api_key.encode()):
            raise RefusedError(401, "unauthorized", "give the API key as X-API-Key")

    app = FastAPI(
        title="wanwu-tagger",
        summary="Tags for images, through the queue",
        lifespan=living,
        responses=RESPONSES,
    )
    handle_errors(app)
    limit_bodies(app, connection.settings.max_file_bytes)
    for routes in (predictions(connection, urgent_queue), bulk(connection)):
        app.include_router(routes, dependencies=[Depends(known)])

    @app.get("/health")
    def health(response: Response) -> Health:
        """Tell whether the queue answers, and who works."""
        try:
            workers = online(connection.app, ONLINE_S)
        except BrokerUnreachableError:
            response.status_code = 503
            return Health(status="no queue")
        found = [{"name": one.name, "model": one.model, "device": one.device} for one in workers]
        return Health(status="ok" if found else "no worker", workers=found)

    return app

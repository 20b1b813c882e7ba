"""The door's app, served by uvicorn until it is told to stop."""

from __future__ import annotations

import uvicorn

from producer.desk import Desk
from producer.door.app import make_app


def serve(desk: Desk, address: str, port: int) -> None:
    """Answer until interrupted; then requests under way are finished, for some seconds."""
    uvicorn.run(
        make_app(desk, desk.settings.api_key.reveal()),
        host=address,
        port=port,
        log_level="warning",
        timeout_graceful_shutdown=10,
        server_header=False,
    )

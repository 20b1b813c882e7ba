"""An application of Celery that has nothing to do with ours, beside which a campaign runs."""

from __future__ import annotations

import os
import time

from celery import Celery

app = Celery("stock", broker=os.environ["STOCK_URL"], backend=os.environ["STOCK_URL"])
# Each task is in Redis until it has ended, and no worker of this application takes it from another.
app.conf.task_acks_late = True
app.conf.worker_prefetch_multiplier = 8
app.conf.broker_connection_retry_on_startup = True


@app.task  # type: ignore[untyped-decorator]
def run(number: int, seconds: float) -> int:
    """Note that it runs, and take a while."""
    app.backend.client.hincrby("stock-runs", number, 1)
    time.sleep(seconds)
    return number

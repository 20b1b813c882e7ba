"""`python -m worker.cli` is `worker`."""

from __future__ import annotations

from worker.cli import main
from worker.contract.stops import end_at_once

end_at_once()
main()

"""`python -m producer.cli` is `producer`."""

from __future__ import annotations

from producer.cli import main
from worker.contract.stops import INTERRUPTED, end_at_once

end_at_once(INTERRUPTED)
main()

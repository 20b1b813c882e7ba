"""A worker that waits for two seconds, not an hour, for one of a later version.

python tests/support/impatient_worker.py start ...
"""

from __future__ import annotations

from worker.cli import main
from worker.contract.queue import acks_and_leases

if __name__ == "__main__":
    vars(acks_and_leases).update(NEWER_WAIT_S=2.0)
    main()

"""`producer` and `python -m producer`: a signal ends it without a traceback while it still loads."""

from __future__ import annotations

from worker.contract.stops import INTERRUPTED, end_at_once


def main() -> None:
    """Run the command line."""
    end_at_once(INTERRUPTED)
    from producer.cli import main as run

    run()


if __name__ == "__main__":
    main()

"""`producer`, and `python -m producer`: while it loads, a signal ends it without a traceback."""

from __future__ import annotations

from worker.contract.stops import INTERRUPTED, end_at_once


def main() -> None:
    """Run the command line."""
    end_at_once(INTERRUPTED)
    from producer.cli import main as run  # noqa: PLC0415 - it takes its time

    run()


if __name__ == "__main__":
    main()

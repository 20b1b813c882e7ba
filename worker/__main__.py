"""`worker`, and `python -m worker`: while it loads, a signal ends it without a traceback."""

from __future__ import annotations

from worker.contract.stops import end_at_once


def main() -> None:
    """Run the command line."""
    end_at_once()
    from worker.cli import main as run  # noqa: PLC0415 - it takes its time

    run()


if __name__ == "__main__":
    main()

"""`python -m producer.cli` is `producer`."""

from __future__ import annotations

from producer.cli import main

main()

"""`python -m suite`, which `ops/bench/all` runs."""

import sys

from suite.command import main

if __name__ == "__main__":
    sys.exit(main())

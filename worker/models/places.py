"""Where what was made from models is kept on this machine."""

from __future__ import annotations

import os
from pathlib import Path


def cache_directory() -> Path:
    """Return `wanwu-tagger` in the user's cache directory."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wanwu-tagger"

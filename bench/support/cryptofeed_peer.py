"""cryptofeed on the same recordings."""

from pathlib import Path
from typing import Any

from support.processes import Unavailable


def measure(recordings: Path, passes: int) -> list[dict[str, Any]]:
    raise Unavailable("not yet")

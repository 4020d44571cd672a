"""The table ``[plugins.recorder]`` as it is written. The text under each key is its documentation."""

import fnmatch
import importlib.util
from typing import Any, Literal

from attrs import field, frozen, validators

_positive: Any = validators.gt(0)


@frozen(kw_only=True)
class RecorderTable:
    """Record what sessions send and receive, and what is published. Secrets are left out. Off without a `directory`."""

    directory: str = ""
    """The directory of the recordings, relative to where the relay runs. Nobody else may read what is made in it."""
    providers: tuple[str, ...] = ("*",)
    """The providers whose traffic is recorded, with `*` for any text."""
    frames: bool = True
    """Record the traffic of the sessions: frames in both directions, HTTP requests and answers, openings and closes."""
    events: bool = False
    """Record the published events, as SQLite."""
    rotate_bytes: int = field(default=64 * 1024 * 1024, validator=validators.ge(1024))
    """Bytes of a file, from which on another one is begun."""
    rotate_after: float = field(default=3600.0, validator=_positive)
    """Seconds after which another file is begun."""
    keep_bytes: int = field(default=4 * 1024 * 1024 * 1024, validator=validators.ge(1024 * 1024))
    """Bytes of all files of the directory. Where there are more, the oldest that are not written any more are deleted."""
    queue_bytes: int = field(default=32 * 1024 * 1024, validator=validators.ge(1024))
    """Bytes that may wait to be written. What comes when it is full is not recorded, and its number is, in its place."""
    compression: Literal["auto", "zstd", "gzip", "none"] = "auto"
    """`auto`: zstd where the package `zstandard` is installed (`tickrelay[zstd]`), else gzip."""

    def check(self) -> None:
        """Raise ValueError for a compression that is not installed."""
        if self.compression == "zstd" and importlib.util.find_spec("zstandard") is None:
            raise ValueError("recorder.compression: zstd needs the package zstandard: pip install 'tickrelay[zstd]'")

    def records(self, provider: str) -> bool:
        """Return True if the traffic of a provider is recorded."""
        return self.frames and any(fnmatch.fnmatchcase(provider, pattern) for pattern in self.providers)

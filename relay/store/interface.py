"""The one interface of all stores: rows by table and key, written soon, or acknowledged when they are on disk.

Everything but `Store.run` is synchronous and waits for nothing, so that the path of a message never does. A store that
fails keeps what it was told to write, tries again by itself, and says so in `Store.failure` until it has caught up.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from attrs import frozen

Rows = Mapping[str, Sequence[tuple[str, bytes]]]
"""Keys and values by table."""
Done = Callable[[str], object]
"""Called once with "" when the row is on disk, or with the reason that it is not. Must not raise."""


class StoreError(Exception):
    """Raised when the store cannot be used; the text gives the reason and the file."""


@frozen
class Row:
    """One row to be written; ``value`` None removes it."""

    table: str
    key: str
    value: bytes | None


class Store(Protocol):
    """Keeps rows over the end of the process. One process uses it at a time."""

    @property
    def failure(self) -> str:
        """The reason that rows cannot be written now; empty while they can."""

    def write(self, row: Row) -> None:
        """Write a row soon, after all that were given before."""

    def commit(self, row: Row, done: Done) -> None:
        """Write a row and call ``done`` when it is on disk. A row that could not be written in time stays absent."""

    async def run(
        self, restore: Callable[[Rows], object], contents: Callable[[], Iterable[Row]], *, task_status: Any = ...
    ) -> None:
        """Keep the store until cancelled, then write what is left.

        It has started when ``restore`` was called with what the store holds, or when it failed to open: then ``restore`` is
        called later, once it has been opened. ``contents`` gives all rows that should be there, where the file was lost.
        """

    def status(self) -> Mapping[str, Any]:
        """Return its part of the status page: ``kind``, ``available``, ``reason``, ``waiting`` rows and further figures."""

"""Looking at everything, a bounded part at a time."""

from collections.abc import Collection, Hashable, Sequence
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class Sweep(Generic[Key]):
    """Goes through the keys of a collection that changes meanwhile, and begins anew when it is through."""

    def __init__(self) -> None:
        self._left: list[Key] = []

    def next(self, keys: Collection[Key], count: int) -> Sequence[Key]:
        """The next `count` keys; some may be gone by now."""
        if not self._left:
            self._left = list(keys)
        part = self._left[-count:]
        del self._left[-count:]
        return part

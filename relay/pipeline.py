"""From a session to the hub: transforms before, taps after, each a plugin's and none of them able to harm the rest.

The functions are fixed when the relay is wired. A transform that raises leaves the event as it was; a tap that raises is
skipped for that event. Both are counted against their plugin, and logged at the first failure and at every power of ten.
"""

from collections import Counter
from collections.abc import Callable, Sequence

import structlog

from relay.model.events import Event, Stamp
from relay.plugins.hookspecs import Tap, Transform
from relay.plugins.manager import FromPlugin

log = structlog.get_logger()

Publish = Callable[[Event, Stamp], str]


class Pipeline:
    """What every event passes. ``publish`` is the hub's, and returns the event's id."""

    def __init__(
        self, publish: Publish, transforms: Sequence[FromPlugin[Transform]], taps: Sequence[FromPlugin[Tap]]
    ) -> None:
        self._publish = publish
        self._transforms = tuple(transforms)
        self._taps = tuple(taps)
        self.failures: Counter[str] = Counter()
        """Exceptions, by plugin."""
        self.withheld: Counter[str] = Counter()
        """Events a transform dropped, by plugin."""

    def publish(self, event: Event, stamp: Stamp) -> str | None:
        """Publish one event and return its id; None where a transform drops it."""
        for transform in self._transforms:
            try:
                changed = transform.value(event, stamp)
            except Exception as error:  # noqa: BLE001 - a plugin's code: whatever it raises is counted as its own
                self._failed(transform.plugin, "transform", error)
                continue
            if changed is None:
                self.withheld[transform.plugin] += 1
                return None
            event = changed
        id = self._publish(event, stamp)
        for tap in self._taps:
            try:
                tap.value(event, stamp, id)
            except Exception as error:  # noqa: BLE001 - a plugin's code: whatever it raises is counted as its own
                self._failed(tap.plugin, "tap", error)
        return id

    def _failed(self, plugin: str, what: str, error: Exception) -> None:
        self.failures[plugin] += 1
        count = self.failures[plugin]
        if count == 10 ** (len(str(count)) - 1):
            log.error("plugin failed", plugin=plugin, what=what, count=count, error=f"{type(error).__name__}: {error}")

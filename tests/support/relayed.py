"""A provider session with a simulator, and what it published, for tests that follow it event by event."""

from typing import Any, TypeVar

import attrs
import trio

from relay.adapter import Adapter, Context
from relay.model.events import Event, Stamp
from relay.provider.http import HttpClient
from support.deadlines import WITHIN
from support.lone_session import lone_session

E = TypeVar("E", bound=Event)


class Relayed:
    """The session; `declared` changes what the adapter declares (its URLs, its backoff)."""

    def __init__(self, adapter: type[Adapter], context: Context, client: HttpClient, **declared: Any) -> None:
        pointed = type(adapter.__name__, (adapter,), {"session": attrs.evolve(adapter.session, **declared)})
        self.events: list[Event] = []
        self._changed = trio.Event()
        self.session = lone_session(pointed, context, publish=self._publish, http=client)

    def _publish(self, event: Event, stamp: Stamp) -> None:
        self.events.append(event)
        self._changed.set()

    async def until(self, kind: type[E], **members: Any) -> E:
        """Wait for an event not yet waited for, dropping those before it."""
        with trio.fail_after(WITHIN):
            while True:
                while self.events:
                    event = self.events.pop(0)
                    if isinstance(event, kind) and all(getattr(event, n) == v for n, v in members.items()):
                        return event
                self._changed = trio.Event()
                await self._changed.wait()

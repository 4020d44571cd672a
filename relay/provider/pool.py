"""The connections of one provider account, which to the outside are one session.

A provider that limits the topics of a connection may allow more than one connection (`Session.most_connections`), and a
provider may have its streams on several sockets (`Session.sockets`). The first connection is there from the start, and the
account and commands are on it. A further one is opened when all others of its socket are full, or there is none. It stays
when its last topic is gone, not connected, and is used again. Each has a life of its own: what one of them loses makes its
own topics stale and nothing else.

The state that is told outside is the worst one: the session is connected while no connection that has topics is lost.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs

from relay.adapter import Session
from relay.model.channels import Asker, Topic
from relay.model.enums import ConnectionEvent
from relay.model.events import Connection, Event, Stamp
from relay.provider.driver import ProviderSession
from relay.provider.session import NO_TOPICS
from relay.provider.session_state import Publish

#: Entries of a list of the status, over all connections.
_SHOWN = 100


class ConnectionPool:
    """The connections of one provider account.

    Args:
        connect: makes a connection, of its number, of the function it publishes with, of the pool's first connection (None
            where it is the first one itself), and of the name of its socket.
        publish: takes every event with its stamp.
        session: the declaration of the provider.
        socket_of: returns the name of the socket that a topic is on; that of the session's own where it is none of
            `Session.sockets`.
    """

    def __init__(
        self,
        connect: Callable[[int, Publish, ProviderSession | None, str], ProviderSession],
        publish: Publish,
        session: Session,
        socket_of: Callable[[Topic], str] = lambda topic: "",
    ) -> None:
        self._connect = connect
        self._publish = publish
        self._session = session
        self._socket_of = socket_of
        self._is_one = session.most_connections == 1 and not session.sockets
        #: The numbers of the connections that are up, and of those that are lost or never came up.
        self._up: set[int] = set()
        self._lost: set[int] = set()
        self._run: Callable[[int, ProviderSession], object] = lambda number, connection: None
        published = publish if self._is_one else self._published_by(1)
        self.first: ProviderSession = connect(1, published, None, "")
        self.connections: list[ProviderSession] = [self.first]
        #: The socket of each connection.
        self._sockets = [""]
        self.first.on_turn = self._even_out

    def run_each(self, run: Callable[[int, ProviderSession], object]) -> None:
        """Have ``run`` called with the number of every connection there is, and of each that is opened later."""
        self._run = run
        for number, connection in enumerate(self.connections, start=1):
            run(number, connection)

    def want(self, topic: Topic, by: Asker | None = None) -> None:
        """Subscribe to ``topic`` for the subscriber ``by``, or for the operator, who pinned it."""
        self._connection_for(topic).want(topic, by)

    def want_too(self, topic: Topic, by: Asker) -> None:
        """Note that ``by`` needs ``topic`` too."""
        self._connection_for(topic).want_too(topic, by)

    def unwant(self, topic: Topic) -> None:
        """Unsubscribe from ``topic``, which nobody needs any more, when it has lingered."""
        (self._holder(topic) or self.first).unwant(topic)

    def _holder(self, topic: Topic) -> ProviderSession | None:
        if self._is_one:
            return self.first
        return next((each for each in self.connections if each.has(topic)), None)

    def _connection_for(self, topic: Topic) -> ProviderSession:
        """Return the connection that has ``topic``, the first one of its socket with room for it, or a new one.

        Where there can be no new one, the least crowded: ``topic`` waits there until one of that connection is given up, or
        another connection has room, see `_even_out`.
        """
        if (holder := self._holder(topic)) is not None:
            return holder
        socket = self._socket_of(topic)
        socket = socket if socket in self._session.sockets else ""
        there = [each for each, of in zip(self.connections, self._sockets, strict=True) if of == socket]
        declared = self._session.socket(socket)
        most = declared.most_topics
        if (found := next((each for each in there if most is None or each.topics < most), None)) is not None:
            return found
        if len(there) == declared.most_connections:
            return min(there, key=lambda each: each.topics)
        number = len(self.connections) + 1
        further = self._connect(number, self._published_by(number), self.first, socket)
        self.connections.append(further)
        self._sockets.append(socket)
        further.on_turn = self._even_out
        self._run(number, further)
        return further

    def _even_out(self) -> None:
        """Move topics that wait for room on a full connection to one of the same socket that has some.

        A topic that waits has no data yet, and nobody was told anything of it but that it waits. The connections of a pool
        know of each other's stale topics, so that the first event on the other one is FRESH.
        """
        for to, socket in zip(self.connections, self._sockets, strict=True):
            most = self._session.socket(socket).most_topics
            if most is None or to.topics >= most or to.is_over:
                continue
            for each, of in zip(self.connections, self._sockets, strict=True):
                if of == socket and each.topics > most and (room := most - to.topics) > 0:
                    each.hand_over(room, to)

    # --- one state outside -------------------------------------------------------------------------------------------

    def _published_by(self, number: int) -> Publish:
        def publish(event: Event, stamp: Stamp, now: float) -> None:
            if type(event) is Connection:
                outside = self._outside(number, event)
                if outside is None:
                    return
                event = outside
            self._publish(event, stamp, now)

        return publish

    def _outside(self, number: int, event: Connection) -> Connection | None:
        """Return what the state of one connection makes of the session's; None where that stays as it is."""
        was_up, was_lost = bool(self._up) and not self._lost, number in self._lost
        if socket := self._sockets[number - 1]:
            event = attrs.evolve(event, socket=socket)
        self._up.discard(number)
        self._lost.discard(number)
        match event.event:
            case ConnectionEvent.CONNECTED:
                self._up.add(number)
                return event if not self._lost and not was_up else None
            case ConnectionEvent.DISCONNECTING:
                if not self._up and not self._lost:
                    return event
                is_whole_again = was_lost and not self._lost and event.reason == NO_TOPICS
                return attrs.evolve(event, event=ConnectionEvent.CONNECTED, reason=None) if is_whole_again else None
        self._lost.add(number)
        if len(self.connections) == 1 or event.reason is None or event.socket is not None:
            return event
        return attrs.evolve(event, reason=f"connection {number} of {len(self.connections)}: {event.reason}")

    def status(self) -> dict[str, Any]:
        """Return the session's part of the status page: the worst state, and the sums of all connections."""
        statuses = [connection.status() for connection in self.connections]
        if len(statuses) == 1:
            return statuses[0]
        told = [statuses[number - 1] for number in sorted(self._lost) or sorted(self._up) or (1,)]
        shown = next((status for status in told if status["state"] == "failed"), told[0])
        names = ("unwritten", "topics", "books", "counters", "queued")
        sums = {name: _added(status[name] for status in statuses) for name in names}
        each = [
            {"state": status["state"], "reason": status["reason"], "topics": connection.topics}
            | ({"socket": socket} if socket else {})
            for status, connection, socket in zip(statuses, self.connections, self._sockets, strict=True)
        ]
        received = max((status["last_received_at"] or "" for status in statuses), default="") or None
        event = max((status["last_event_at"] or "" for status in statuses), default="") or None
        account: dict[str, Any] = {
            name: statuses[0][name] for name in ("commands", "budget", "budget_limits") if name in statuses[0]
        }
        times = {"last_received_at": received, "last_event_at": event}
        return {**shown, **sums, **account, **times, "connections": each}


def _added(parts: Iterable[Any]) -> Any:
    """Return the sum of counters, lists one behind the other, and objects with each of their members added up."""
    parts = list(parts)
    if isinstance(parts[0], Mapping):
        names = dict.fromkeys(name for part in parts for name in part)
        return {name: _added([part[name] for part in parts if name in part]) for name in names}
    if isinstance(parts[0], list):
        return [item for part in parts for item in part][:_SHOWN]
    return sum(parts)

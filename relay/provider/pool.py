"""The connections of one provider account, which appear to the outside as one session.

If a provider limits the topics per connection, it may allow several connections (`Session.most_connections`). Its streams
may also be on several sockets (`Session.sockets`). The first connection always exists and carries the account and commands.
A further one is opened if all others of its socket are full, or if its socket has none. When its last topic is gone it
disconnects; it is reused later. Each connection has its own `SessionMachine`: an outage makes only its own topics stale.

The published state is the worst one: the session is connected unless a connection with topics is lost.
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
from relay.provider.subscription_table import is_requested

#: Most entries of a list in the status, over all connections.
_SHOWN = 100


class ConnectionPool:
    """The connections of one provider account.

    Args:
        connect: creates a connection. Its arguments are the number, the function to publish with, the pool's first
            connection (None for the first one itself), and the name of the socket.
        publish: called with each event and its stamp.
        session: the provider's declaration.
        socket_of: returns the name of the socket that a topic is on. A name that is not in `Session.sockets` means the
            session's own socket.
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
        #: Numbers of the connections that are up, and of those that are lost or never reached UP.
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
        """Call ``run`` with number and connection of each existing connection, and of each that is opened later."""
        self._run = run
        for number, connection in enumerate(self.connections, start=1):
            run(number, connection)

    def want(self, topic: Topic, by: Asker | None = None) -> None:
        """Subscribe to ``topic`` for the subscriber ``by``, or as pinned by the operator if that is None."""
        self._connection_for(topic).want(topic, by)

    def want_too(self, topic: Topic, by: Asker) -> None:
        """Note that ``by`` needs ``topic`` too."""
        self._connection_for(topic).want_too(topic, by)

    def unwant(self, topic: Topic) -> None:
        """Unsubscribe from ``topic`` after its linger time, because it has no subscribers left."""
        (self._holder(topic) or self.first).unwant(topic)

    def _holder(self, topic: Topic) -> ProviderSession | None:
        if self._is_one:
            return self.first
        return next((each for each in self.connections if each.has(topic)), None)

    def _connection_for(self, topic: Topic) -> ProviderSession:
        """Return the connection that has ``topic``, else the first one of its socket that is not full, else a new one.

        If no further connection is allowed, return the one with the fewest topics. ``topic`` waits there until a topic of
        that connection is unsubscribed or another connection has room (`_even_out`). An instrument takes no place on a
        connection, and is on the first one.
        """
        if (holder := self._holder(topic)) is not None:
            return holder
        if not is_requested(topic):
            return self.first
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
        """Move waiting topics from a full connection to one of the same socket that has room.

        This loses nothing: a waiting topic has had no data, only a STALE event. The connections of a pool share their stale
        topics, so that the first event on the other connection makes it FRESH.
        """
        for to, socket in zip(self.connections, self._sockets, strict=True):
            most = self._session.socket(socket).most_topics
            if most is None or to.topics >= most or to.is_over:
                continue
            for each, of in zip(self.connections, self._sockets, strict=True):
                if of == socket and each.topics > most and (room := most - to.topics) > 0:
                    each.hand_over(room, to)

    # --- published state ---------------------------------------------------------------------------------------------

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
        """Return the session's `connection` event after one connection's state has changed; None if it does not change."""
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
        """Return the session's part of the status page: the worst state, and sums over all connections."""
        statuses = [connection.status() for connection in self.connections]
        if len(statuses) == 1:
            return statuses[0]
        relevant = [statuses[number - 1] for number in sorted(self._lost) or sorted(self._up) or (1,)]
        shown = next((status for status in relevant if status["state"] == "failed"), relevant[0])
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
    """Add up values of the same shape: numbers are summed, lists concatenated, objects added member by member."""
    parts = list(parts)
    if isinstance(parts[0], Mapping):
        names = dict.fromkeys(name for part in parts for name in part)
        return {name: _added([part[name] for part in parts if name in part]) for name in names}
    if isinstance(parts[0], list):
        return [item for part in parts for item in part][:_SHOWN]
    return sum(parts)

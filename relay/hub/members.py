"""The members of a channel and the users of an app: presence, sign-in and watchlists, subscription counts.

Presence knows users, not connections (Pusher Channels protocol, presence channels): a user is added with its first
connection and removed with its last. A signed-in user is online for as long as one of its connections is.
"""

from collections.abc import Iterable, Iterator, Sequence

from relay.pusher.messages import PresenceMember


class Presence:
    """The members of one presence channel. A member's data are those of its user's first connection."""

    __slots__ = ("_connections", "_members", "_users")

    def __init__(self) -> None:
        self._members: dict[str, PresenceMember] = {}
        self._connections: dict[str, int] = {}
        self._users: dict[str, str] = {}

    def __len__(self) -> int:
        """Return the number of distinct users."""
        return len(self._members)

    def __iter__(self) -> Iterator[PresenceMember]:
        """Iterate over one member per user, in the order they joined."""
        return iter(self._members.values())

    def __contains__(self, user_id: object) -> bool:
        return user_id in self._members

    def connections(self, user_id: str) -> Sequence[str]:
        """Return the user's connections."""
        return [socket_id for socket_id, own in self._users.items() if own == user_id]

    def join(self, socket_id: str, member: PresenceMember) -> bool:
        """Add a connection; returns True when it is its user's first."""
        user_id = member.user_id
        self._users[socket_id] = user_id
        connections = self._connections[user_id] = self._connections.get(user_id, 0) + 1
        if connections == 1:
            self._members[user_id] = member
        return connections == 1

    def leave(self, socket_id: str) -> str | None:
        """Remove a connection; returns its user's id when it was the last one of that user."""
        user_id = self._users.pop(socket_id)
        self._connections[user_id] -= 1
        if self._connections[user_id]:
            return None
        del self._connections[user_id], self._members[user_id]
        return user_id


class Users:
    """The signed-in users of one app, their connections (by socket id), and the connections that watch them.

    Signing in again replaces the connection's watchlist.
    """

    def __init__(self) -> None:
        self._connections: dict[str, dict[str, None]] = {}
        self._watchers: dict[str, dict[str, None]] = {}
        self._signed_in: dict[str, tuple[str, Sequence[str]]] = {}

    def __len__(self) -> int:
        """Return the number of users online."""
        return len(self._connections)

    def __bool__(self) -> bool:
        return bool(self._signed_in or self._connections or self._watchers)

    def sign_in(self, socket_id: str, user_id: str, watchlist: Sequence[str]) -> bool:
        """Assign the connection to the user; returns True when that brings the user online."""
        if socket_id in self._signed_in:
            self._unwatch(socket_id)
        self._signed_in[socket_id] = (user_id, watchlist := tuple(dict.fromkeys(watchlist)))
        for watched in watchlist:
            self._watchers.setdefault(watched, {})[socket_id] = None
        came_online = user_id not in self._connections
        self._connections.setdefault(user_id, {})[socket_id] = None
        return came_online

    def sign_out(self, socket_id: str) -> str | None:
        """Remove the connection; returns the user's id when that takes the user offline."""
        if socket_id not in self._signed_in:
            return None
        self._unwatch(socket_id)
        user_id, _ = self._signed_in.pop(socket_id)
        connections = self._connections[user_id]
        del connections[socket_id]
        if connections:
            return None
        del self._connections[user_id]
        return user_id

    def connections(self, user_id: str) -> Sequence[str]:
        """Return the user's signed-in connections."""
        return list(self._connections.get(user_id, ()))

    def watchers(self, user_id: str) -> Sequence[str]:
        """Return the connections that watch the user."""
        return list(self._watchers.get(user_id, ()))

    def online(self, user_ids: Iterable[str]) -> Sequence[str]:
        """Return those of the users who are online."""
        return [user_id for user_id in user_ids if user_id in self._connections]

    def _unwatch(self, socket_id: str) -> None:
        for watched in self._signed_in[socket_id][1]:
            watchers = self._watchers[watched]
            del watchers[socket_id]
            if not watchers:
                del self._watchers[watched]


SMALL = 100
"""Number of subscribers up to which every change of the subscription count is sent."""
INTERVAL = 5.0
"""Seconds between two counts of a larger channel."""


class SubscriptionCounts:
    """Throttle of `subscription_count` events, by channel name (Pusher Channels protocol). Times are monotonic seconds.

    Every change is sent at once while there are at most 100 subscribers; above that at most every 5 seconds, and the last
    change is always sent.
    """

    def __init__(self) -> None:
        self._sent: dict[str, float] = {}
        self._due: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._sent.keys() | self._due.keys())

    def changed(self, channel: str, count: int, now: float) -> bool:
        """Note that the channel has `count` subscribers now; returns True when the count is to be sent at once."""
        if count > SMALL and channel in self._sent and now < (next_at := self._sent[channel] + INTERVAL):
            self._due[channel] = next_at
            return False
        self._due.pop(channel, None)
        if count >= SMALL:
            self._sent[channel] = now
        else:
            self._sent.pop(channel, None)
        return True

    def take_due(self, now: float) -> Sequence[str]:
        """Return the channels whose withheld count is to be sent now, each once."""
        due = [channel for channel, at in self._due.items() if at <= now]
        for channel in due:
            del self._due[channel]
            self._sent[channel] = now
        return due

    def forget(self, channel: str) -> None:
        """Remove a channel that has no subscribers any more."""
        self._sent.pop(channel, None)
        self._due.pop(channel, None)

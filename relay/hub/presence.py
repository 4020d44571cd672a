"""Who is on a presence channel: users, not connections (Pusher Channels protocol, presence channels).

A user is added with its first connection and removed with its last; what lies between is nobody's business. What the first
connection's authorization said of the user stands until then.
"""

from collections.abc import Iterator

from relay.pusher.actions import Member


class Presence:
    """The members of one presence channel."""

    __slots__ = ("_connections", "_members", "_users")

    def __init__(self) -> None:
        self._members: dict[str, Member] = {}
        self._connections: dict[str, int] = {}
        self._users: dict[str, str] = {}

    def __len__(self) -> int:
        """Distinct users."""
        return len(self._members)

    def __iter__(self) -> Iterator[Member]:
        """One member per user, in the order they came."""
        return iter(self._members.values())

    def __contains__(self, user_id: str) -> bool:
        return user_id in self._members

    def join(self, socket_id: str, member: Member) -> bool:
        """A connection comes; True when it is its user's first."""
        user_id = member.user_id
        self._users[socket_id] = user_id
        connections = self._connections[user_id] = self._connections.get(user_id, 0) + 1
        if connections == 1:
            self._members[user_id] = member
        return connections == 1

    def leave(self, socket_id: str) -> str | None:
        """A connection goes; its user's id when it was the last one of that user."""
        user_id = self._users.pop(socket_id)
        self._connections[user_id] -= 1
        if self._connections[user_id]:
            return None
        del self._connections[user_id], self._members[user_id]
        return user_id

"""Who is signed in to an app, and who watches whom.

A user is online from its first signed-in connection to its last one's end. A connection watches the users its sign-in named
(the watchlist); it is told at once which of them are online, and later whenever one comes or goes.
"""

from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

Connection = TypeVar("Connection")


class Users(Generic[Connection]):
    """The signed-in users of one app, by connection. Signing in again replaces what the connection watches."""

    def __init__(self) -> None:
        self._connections: dict[str, dict[Connection, None]] = {}
        self._watchers: dict[str, dict[Connection, None]] = {}
        self._signed: dict[Connection, tuple[str, Sequence[str]]] = {}

    def __len__(self) -> int:
        """Users online."""
        return len(self._connections)

    def __bool__(self) -> bool:
        return bool(self._signed or self._connections or self._watchers)

    def sign_in(self, connection: Connection, user_id: str, watchlist: Sequence[str]) -> bool:
        """The connection belongs to the user from now on; True when that brings the user online."""
        if connection in self._signed:
            self._unwatch(connection)
        self._signed[connection] = (user_id, watchlist := tuple(dict.fromkeys(watchlist)))
        for watched in watchlist:
            self._watchers.setdefault(watched, {})[connection] = None
        came = user_id not in self._connections
        self._connections.setdefault(user_id, {})[connection] = None
        return came

    def sign_out(self, connection: Connection) -> str | None:
        """The connection ends; the user's id when that takes the user offline."""
        if connection not in self._signed:
            return None
        self._unwatch(connection)
        user_id, _ = self._signed.pop(connection)
        connections = self._connections[user_id]
        del connections[connection]
        if connections:
            return None
        del self._connections[user_id]
        return user_id

    def connections(self, user_id: str) -> Sequence[Connection]:
        """The user's signed-in connections."""
        return list(self._connections.get(user_id, ()))

    def watchers(self, user_id: str) -> Sequence[Connection]:
        """The connections that watch the user."""
        return list(self._watchers.get(user_id, ()))

    def online(self, user_ids: Iterable[str]) -> Sequence[str]:
        """Those of the users who are online."""
        return [user_id for user_id in user_ids if user_id in self._connections]

    def _unwatch(self, connection: Connection) -> None:
        for watched in self._signed[connection][1]:
            watchers = self._watchers[watched]
            del watchers[connection]
            if not watchers:
                del self._watchers[watched]

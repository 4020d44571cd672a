"""What is known of an account's events: which fills were published, and the last state of every order and position.

A fill is published once, whoever repeats it: the stream, a replay, or a list fetched after a reconnect. The last states
are what a fetched list is compared with, so that after an absence only differences are published, marked ``reconciled``.
Both memories outlive connections, and both are bounded: the longest unused is forgotten.
"""

from collections import OrderedDict

import attrs

from relay.model.events import Account, AccountScoped, Order, Position, Trade

#: Attributes that say what happened or when it was told, not what is.
_NOT_STATE = ("event", "timestamp", "reconciled", "updated_at", "correlation_id")

_State = tuple[object, ...]
_Name = tuple[str, str | None, str]


class Fills:
    """The fills seen, by (account, id); one memory belongs to one provider."""

    def __init__(self, size: int = 20_000) -> None:
        self._size = size
        self._seen: OrderedDict[tuple[str | None, str], None] = OrderedDict()

    def is_new(self, fill: Trade, account: str | None) -> bool:
        """Whether ``fill`` was not seen before; it is from now on. ``account`` is the session's own."""
        name = (fill.account or account, fill.id)
        if name in self._seen:
            self._seen.move_to_end(name)
            return False
        self._seen[name] = None
        if len(self._seen) > self._size:
            self._seen.popitem(last=False)
        return True


class States:
    """The last published state of every order, position and account."""

    def __init__(self, size: int = 20_000) -> None:
        self._size = size
        self._states: OrderedDict[_Name, _State] = OrderedDict()

    def changes(self, event: Order | Position | Account, account: str | None) -> bool:
        """Whether ``event`` says anything that was not last known; it is known from now on."""
        name = (event.kind, event.account or account, "" if isinstance(event, Account) else event.id)
        state = _state(event)
        changed = self._states.pop(name, None) != state
        self._states[name] = state
        if len(self._states) > self._size:
            self._states.popitem(last=False)
        return changed


def _state(event: AccountScoped) -> _State:
    return tuple(getattr(event, a.name) for a in attrs.fields(type(event)) if a.name not in _NOT_STATE)

"""A provider session as it is shown: on the status page, in the metrics, for readiness.

What a session's own `status()` tells is kept; on top come its state in the words of the `connection` event, and its counters
side by side.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

Session = Mapping[str, Any]
"""`provider`, `account`, `required`, `state`, `life`, `reason`, the counters, and whatever else its status tells."""
Sessions = Callable[[], Iterable[Session]]

#: Where a session stands -> the state that is shown.
_SHOWN = {
    "new": "CONNECTING",
    "preparing": "CONNECTING",
    "dialling": "CONNECTING",
    "opening": "CONNECTING",
    "up": "CONNECTED",
    "waiting": "RECONNECTING",
    "failed": "FAILED",
    "ended": "DISCONNECTED",
}
CONNECTED = "CONNECTED"
STATES = tuple(dict.fromkeys(_SHOWN.values()))


def shown(status: Mapping[str, Any]) -> Session:
    """A session's ``status()`` as it is shown. ``required`` (beside what the session tells) defaults to False."""
    life = status["state"]
    counters = status.get("counters", {})
    rest = {name: value for name, value in status.items() if name != "counters"}
    return {"required": False, **rest, **counters, "life": life, "state": _SHOWN.get(life, life)}


def without_samples(session: Session) -> Session:
    """The session without the messages that were not understood: an account's may be among them."""
    return {name: value for name, value in session.items() if name != "samples"}


def not_ready(sessions: Iterable[Session]) -> list[dict[str, Any]]:
    """The required sessions that are not connected."""
    return [
        {name: session.get(name) for name in ("provider", "account", "state", "reason")}
        for session in sessions
        if session["required"] and session["state"] != CONNECTED
    ]

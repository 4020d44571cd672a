"""Return the frames and HTTP answers that providers sent, to API keys with ``inspect``: the source of each event.

A session is tapped only while a client requests its frames. Its last frames are then in memory, bounded in number and bytes;
some time after the last request they are dropped. Secrets are masked in the answer. An event and its frame have the same
`received_at`.
"""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import trio
from attrs import define, field
from starlette.requests import Request
from starlette.responses import Response

from relay.auth import ApiKey, KeyRing
from relay.model.text import from_micros
from relay.plugins.hookspecs import FrameTap, TappedSession, Traffic
from relay.plugins.masking import masked
from relay.provider.driver import ProviderSession
from relay.server.api.answers import HttpRefusal, Slices, json_answer
from relay.server.api.channels import bearer

#: Frames and characters in memory of a session that is looked at.
FRAMES, CHARACTERS = 1000, 2_000_000
#: Characters shown of one frame; frames of one answer.
SHOWN, AT_ONCE = 32_768, 200
#: Most characters stored of one frame: masking a venue's whole symbol list would delay the relay.
KEPT = 262_144
#: Seconds after the last look until a session is not tapped any more.
LOOK = 15.0

#: Number, session, frame, and how many characters were not kept.
Frame = tuple[int, TappedSession, Traffic, int]


class FrameBuffer:
    """The last frames and HTTP answers that one session received, numbered from 1."""

    def __init__(self) -> None:
        self._frames: deque[Frame] = deque()
        self._size = 0
        self.last = 0
        """Number of the newest frame."""

    def take(self, session: TappedSession, traffic: Traffic) -> None:
        """Remember a received frame, and forget the oldest ones beyond the bounds."""
        if traffic.direction not in ("in", "http"):
            return
        self.last += 1
        kept = traffic._replace(data=traffic.data[:KEPT])
        self._frames.append((self.last, session, kept, len(traffic.data) - len(kept.data)))
        self._size += len(kept.data)
        while len(self._frames) > FRAMES or (self._size > CHARACTERS and len(self._frames) > 1):
            self._size -= len(self._frames.popleft()[2].data)

    def after(self, number: int) -> list[Frame]:
        """Return the oldest frames after this number, at most as many as fit into one answer."""
        return [frame for frame in self._frames if frame[0] > number][:AT_ONCE]


@define(eq=False)
class _Tapped:
    session: TappedSession
    connection: ProviderSession
    own: FrameTap | None
    """The tap of plugins, if any."""


@define
class Inspection:
    """Taps the sessions whose frames were requested lately.

    Attributes:
        now: monotonic seconds.
    """

    now: Callable[[], float] = trio.current_time
    _connections: dict[tuple[str, str | None], list[_Tapped]] = field(factory=dict)
    _buffers: dict[tuple[str, str | None], FrameBuffer] = field(factory=dict)
    _looked_at: dict[tuple[str, str | None], float] = field(factory=dict)

    def tap_of(self, session: TappedSession, connection: ProviderSession, own: FrameTap | None) -> FrameTap | None:
        """Register a connection and return its tap; ``own`` is the tap of plugins."""
        tapped = _Tapped(session, connection, own)
        name = session.provider, session.account
        self._connections.setdefault(name, []).append(tapped)
        return own if name not in self._buffers else _both(tapped, self._buffers[name])

    def has(self, provider: str, account: str | None) -> bool:
        """Return True if there is such a session."""
        return (provider, account) in self._connections

    def look(self, provider: str, account: str | None, after: int) -> tuple[list[Frame], int]:
        """Return frames after the number ``after``, and the number for the next request; the first one starts the tap."""
        name = provider, account
        self._looked_at[name] = self.now()
        if name not in self._buffers:
            buffer = self._buffers[name] = FrameBuffer()
            for each in self._connections[name]:
                each.connection.frame_tap = _both(each, buffer)
        frames = self._buffers[name].after(after)
        return frames, frames[-1][0] if frames else self._buffers[name].last

    def tick(self) -> None:
        """End the taps of sessions without recent requests."""
        for name in [name for name, at in self._looked_at.items() if self.now() - at >= LOOK]:
            for each in self._connections[name]:
                each.connection.frame_tap = each.own
            del self._buffers[name], self._looked_at[name]


def _both(tapped: _Tapped, buffer: FrameBuffer) -> FrameTap:
    session, own = tapped.session, tapped.own

    def tap(traffic: Traffic) -> None:
        buffer.take(session, traffic)
        if own is not None:
            own(traffic)

    return tap


@define
class Frames:
    """The endpoint.

    Attributes:
        pay: ``pay(caller, items)`` charges for an answer with so many frames; returns False if the budget is exceeded.
    """

    keys: KeyRing
    inspection: Inspection
    pay: Callable[[str, int], bool]
    slices: Slices

    async def endpoint(self, request: Request) -> Response:
        """Answer GET /api/v2/frames?provider=&account=&after=: what a session received, oldest first."""
        key = bearer(request, self.keys)
        asked = request.query_params
        provider, account, after = asked.get("provider"), asked.get("account") or None, asked.get("after", "0")
        if not provider:
            raise HttpRefusal(400, "provider is missing", field="provider")
        if not (after.isascii() and after.isdigit() and len(after) < 19):
            raise HttpRefusal(400, f"after: must be a whole number, not {after!r:.64}", field="after")
        _check_grant(key, provider, account)
        if not self.inspection.has(provider, account):
            raise HttpRefusal(404, "the relay has no such session", field="provider" if account is None else "account")
        frames, last = self.inspection.look(provider, account, int(after))
        if not self.pay(f"key {key.name}", len(frames)):
            raise HttpRefusal(429, "too many requests (limit costs.api_rate)")
        return json_answer({"frames": await self.slices.map(_described, frames), "last": last})


def _check_grant(key: ApiKey, provider: str, account: str | None) -> None:
    if key.may_inspect(provider, account):
        return
    pattern = f"{provider}.{account or '*'}"
    message = f'API key {key.name} may not see frames; it needs [api_keys.{key.name}] inspect = ["{pattern}"]'
    raise HttpRefusal(403, message, field="account" if account else "provider")


def _described(frame: Frame) -> Mapping[str, Any]:
    number, session, traffic, lost = frame
    (shown,) = masked([traffic], session.mask)
    rest = max(0, len(shown.data) - SHOWN) + lost
    request = {"method": shown.method, "url": shown.url, "status": shown.status} if shown.direction == "http" else {}
    return {
        "n": number,
        "t": traffic.unix_ns / 1e9,
        "received_at": from_micros(traffic.unix_ns // 1000),
        "connection": session.connection,
        "direction": traffic.direction,
        **request,
        "data": shown.data[:SHOWN],
        **({"cut": rest} if rest else {}),
    }

"""From streams to channels: the bootstrap that resolves them, the authorization that opens them, and how far each has come.

A stream is wanted, then resolved (the bootstrap named its channel), then joined (the Pusher server confirmed it). The rules:

- Every bootstrap repeats what is resolved and still wanted, as the published SDKs do.
- Its answer names streams without their filters; of several with one name the channels come in the order they were asked for
  (not documented). So a channel tells the stream, and only the payload itself tells the symbol.
- One refused filter refuses the whole bootstrap. What was new in it is then asked for one by one, so that only the one at
  fault is refused.
- ``private-`` and ``presence-`` channels need an authorization for this very connection, by a form (JSON is refused).
- A topic of several streams holds as long as one of them does.
- What was let go is known for a while: messages may be under way, and who wants it again needs no other bootstrap.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec
from attrs import frozen

from relay.adapter import Ack, Answer, Fetch, Learned, Nack, Send, Signal, Unknown, Waits, loads
from relay.model.channels import Topic
from relay.model.events import Error, Event
from relay.pusher import ClientConnection, channel_type
from relay_shuriken.streams import Want, canonical

SESSION, AUTH = "/api/v2/ws/session", "/api/v2/ws/auth"
LEFT = 1000
"""Streams that are remembered although nobody wants them."""

Items = Iterator[Event | Signal]


@frozen
class Resolve:
    """Tag of a bootstrap: everything it asks for, and what of it is new."""

    wants: tuple[Want, ...]
    new: tuple[Want, ...]


@frozen
class Authorize:
    """Tag of a channel's authorization."""

    want: Want


class Channels:
    """The channels of one connection.

    Args:
        pusher: the connection.
    """

    def __init__(self, pusher: ClientConnection) -> None:
        self._pusher = pusher
        self._auth_url = AUTH
        self._wanted: dict[Want, Topic] = {}
        self._streams_of: dict[Topic, dict[Want, None]] = {}
        self._resolved: dict[Want, str] = {}
        self._joined: set[str] = set()
        self._left: dict[Want, None] = {}
        #: The stream of every channel that is known.
        self.streams: dict[str, Want] = {}
        #: Addresses whose letters have no case of their own, as they were asked for, by their lower case.
        self.spelled: dict[str, str] = {}
        self._with_address: dict[str, set[Want]] = {}

    # --- asking ------------------------------------------------------------------------------------------------------

    def resolve(self, new: Iterable[Want], repeated: Iterable[Want] = ()) -> Fetch:
        """Return the bootstrap's request, for the ``new`` streams and those to be ``repeated``."""
        asked = tuple(dict.fromkeys((*repeated, *new)))
        body = {"subscriptions": [want.asked() for want in asked]}
        return Fetch(tag=Resolve(asked, tuple(new)), method="POST", url=SESSION, json=body)

    def want(self, asked: Mapping[Want, Topic]) -> Iterator[str | Fetch]:
        """Ask for streams on behalf of their topics: resolve those that are not, join those that are."""
        for want, topic in asked.items():
            self._forget(want)  # of the topic that it was wanted for before
            self._wanted[want] = topic
            self._streams_of.setdefault(topic, {})[want] = None
            self._left.pop(want, None)
            if "0x" in want.native:
                self.spelled[want.native.lower()] = want.native
                self._with_address.setdefault(want.native.lower(), set()).add(want)
        unresolved = [want for want in asked if want not in self._resolved]
        if unresolved:
            yield self.resolve(unresolved, [want for want in self._wanted if want in self._resolved])
        resolved = (want for want in asked if want in self._resolved)
        yield from (self._join(want) for want in resolved if self._resolved[want] not in self._joined)

    def _join(self, want: Want) -> str | Fetch:
        channel = self._resolved[want]
        if not channel_type(channel).authorized:
            return self._pusher.subscribe(channel)
        form = {"socket_id": self._pusher.socket_id or "", "channel_name": channel}
        return Fetch(tag=Authorize(want), method="POST", url=self._auth_url, form=form, authenticated=True)

    def leave(self, topics: Iterable[Topic]) -> Iterator[str]:
        """Leave the streams of these topics."""
        for want in [want for topic in topics for want in self._streams_of.get(topic, ())]:
            self._forget(want)
            if want in self._resolved:
                self._joined.discard(self._resolved[want])
                yield self._pusher.unsubscribe(self._resolved[want])
            self._let_go(want)

    def _forget(self, want: Want) -> Topic | None:
        """Want a stream no more; return the topic that it was wanted for."""
        topic = self._wanted.pop(want, None)
        if topic is not None:
            del self._streams_of[topic][want]
            if not self._streams_of[topic]:
                del self._streams_of[topic]
        return topic

    def _let_go(self, want: Want) -> None:
        """Remember a stream that nobody wants any more; of too many the one left longest ago is forgotten."""
        self._left.pop(want, None)
        self._left[want] = None
        if len(self._left) <= LEFT:
            return
        want = next(iter(self._left))
        del self._left[want]
        channel = self._resolved.pop(want, "")
        if self.streams.get(channel) == want:
            del self.streams[channel]
        address = want.native.lower()
        if same := self._with_address.get(address):
            same.discard(want)
            if not same:
                del self._with_address[address], self.spelled[address]

    # --- what comes of it --------------------------------------------------------------------------------------------

    def answered(self, tag: Resolve | Authorize, answer: Answer) -> Items:
        """Read the answer to a bootstrap or an authorization."""
        asked = tag.new if isinstance(tag, Resolve) else (tag.want,)
        asked = tuple(want for want in asked if want in self._wanted)
        if not answer.ok:
            yield from self._failed(asked, answer, alone=isinstance(tag, Authorize) or len(tag.wants) == 1)
        elif isinstance(tag, Authorize):
            yield from self._authorized(asked, loads(answer.text))
        else:
            body = loads(answer.text)
            body = body.get("data", body)
            if self._pusher.socket_id is None:
                yield self._located(body["connection"])
                yield from _recommended(body)
            yield from self._named(tag.wants, body["subscriptions"])
            yield from self._resolved_now(asked)

    def _located(self, connection: dict[str, Any]) -> Learned:
        """Yield the address of the Pusher server from the first bootstrap; later ones repeat it and change nothing."""
        self._auth_url = connection.get("authEndpoint") or AUTH
        scheme = "wss" if connection.get("forceTls", True) else "ws"
        server = f"{scheme}://{connection['wsHost']}:{connection['wsPort']}"
        return Learned({"server": server, "app_key": connection["appKey"]})

    def _named(self, asked: Iterable[Want], entries: Iterable[Any]) -> Items:
        waiting: dict[str, list[Want]] = {}
        for want in reversed(tuple(asked)):
            waiting.setdefault(want.stream, []).append(want)
        for entry in entries:
            match entry:
                case {"stream": str() as stream, "channel": str() as channel}:
                    if same := waiting.get(canonical(stream)):
                        self._resolved[named := same.pop()] = channel
                        if named not in self._wanted:
                            self._let_go(named)
                        self.streams[channel] = named
                    self.streams.setdefault(channel, Want(canonical(stream)))
                case _:
                    yield Unknown(entry, "a subscription without stream and channel")

    def _resolved_now(self, asked: Iterable[Want]) -> Items:
        for want in asked:
            if want not in self._resolved:
                yield from self._refused(want, "the bootstrap names no channel for it")
            else:
                joining = self._join(want)
                yield Send(joining) if isinstance(joining, str) else joining

    def _authorized(self, asked: Iterable[Want], given: Any) -> Items:
        for want in asked:
            match given:
                case {"auth": str() as auth, "channel_data": str() as channel_data}:
                    yield Send(self._pusher.subscribe(self._resolved[want], auth, channel_data))
                case {"auth": str() as auth}:
                    yield Send(self._pusher.subscribe(self._resolved[want], auth))
                case _:
                    yield from self._refused(want, "the authorization has no auth")

    def _failed(self, asked: tuple[Want, ...], answer: Answer, *, alone: bool) -> Items:
        reason = f"HTTP status {answer.status}: {_said(answer.text)}"
        if answer.status in (0, 408, 429) or answer.status >= 500:
            yield Error(code="no_answer", message=f"{', '.join(want.stream for want in asked)}: {reason}")
        elif alone or answer.status == 401:
            for want in asked:
                yield from self._refused(want, reason)
        else:
            yield from (self.resolve([want]) for want in asked)

    def joined(self, channel: str) -> Items:
        """Take note that the Pusher server confirmed a channel, and yield the acknowledgement."""
        topic = self._wanted.get(self.streams.get(channel, Want("")))
        if topic is not None:
            self._joined.add(channel)
            yield Ack((topic,))

    def refused(self, channel: str, reason: str) -> Items:
        """Take note that the Pusher server refused a channel, and yield the refusal."""
        yield from self._refused(self.streams.get(channel, Want(channel)), reason)

    def _refused(self, want: Want, reason: str) -> Items:
        topic = self._forget(want)
        self._let_go(want)
        if topic is None or topic in self._streams_of:
            yield Error(code="stream_refused", message=f"{want.stream}: {reason}")
        else:
            yield Nack((topic,), f"{want.stream}: {reason}")


def _recommended(body: Mapping[str, Any]) -> Items:
    match body:
        case {"session": {"recommendedReconnectBackoffMs": [*waits]}} if all(type(wait) is int for wait in waits):
            yield Waits(tuple(wait / 1000 for wait in waits))


def _said(text: str) -> str:
    """Return the code and the words of an error answer; its text where it has another form."""
    try:
        match loads(text):
            case {"error": {"code": str() as code, "message": str() as message}}:
                return f"{code}, {message}"
    except (msgspec.DecodeError, RecursionError):
        pass
    return text[:200]

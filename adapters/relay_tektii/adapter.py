"""Tektii Trading API: one gateway in front of a broker, or of a backtest. https://docs.tektii.com/docs/trading-api/event-types

Events come over the WebSocket, orders and questions go over REST. What is sent is configured at the gateway: there is no
message to subscribe with, so a new topic only asks for what stands. Frames of a backtest have an ``event_id``, and its time
goes on when every one of them was acknowledged; so each is, also one that was not understood.
"""

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

from relay.adapter import (
    Adapter,
    Answer,
    Backoff,
    Context,
    EventAck,
    Fetch,
    Header,
    Heartbeat,
    Offer,
    Option,
    Outgoing,
    Processed,
    Rate,
    Reconcile,
    Session,
    Signal,
    Subscribe,
    Unknown,
    dumps,
    loads,
)
from relay.adapter.reading import members
from relay.model.channels import Topic
from relay.model.commands import Command
from relay.model.enums import ErrorCode
from relay.model.events import Event, Notification, RateLimit
from relay_tektii import answers, reading, rest
from relay_tektii.reading import OVER, PONG, TIMEFRAMES

AAPL = {"symbol": "AAPL"}
BEARER = Header("Authorization", "Bearer {api_key}")

#: Kinds of events of an account.
CARRIED = ("account", "order", "position", "trade", "notification", "reply")


class Tektii(Adapter):
    name = "tektii"
    credentials = ("api_key",)
    options = (
        Option("host", "127.0.0.1:8080", about="HOST:PORT of the gateway"),
        Option("acknowledge", "paced", choices=("paced", "all"),
               about="`paced`: frames that have an id, which is all that advances a backtest; `all`: every frame"),
    )  # fmt: skip
    offers = (Offer(kind="quote", example=AAPL), Offer(kind="candle", timeframes=TIMEFRAMES, example=AAPL),
              Offer(kind="account", visibility="presence", events=CARRIED))  # fmt: skip
    commands = rest.COMMANDS
    orders = rest.ORDERS
    session = Session(
        url="ws://{host}/v1/ws",
        http="http://{host}",
        auth=BEARER,
        http_auth=BEARER,
        heartbeat=Heartbeat(every=20),
        silent_after=45,
        backoff=Backoff(first=2, cap=30),
        limits=(
            Rate(5, burst=20, of="interest"),
        ),  # our own restraint: what is asked of the gateway it asks its broker
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.acknowledges = self.option("acknowledge")

    @classmethod
    def error_code(cls, error: Mapping[str, Any], command: Command) -> ErrorCode:
        """Return the code of the reason where the gateway gives one, as it does for a rejected order."""
        details = error.get("details")
        reason = details.get("reject_code") if isinstance(details, dict) else error.get("reject_reason")
        return super().error_code({**error, "code": reason} if isinstance(reason, str) else error, command)

    def encode(self, outgoing: Outgoing) -> Iterable[str | Fetch]:
        match outgoing:
            case EventAck(ids, now, uuid):
                yield dumps({"type": "event_ack", "correlation_id": uuid, "events_processed": ids, "timestamp": now})
            case Subscribe(topics):
                for topic in topics:
                    if topic.kind != "account":
                        yield rest.current(topic, self.native(topic.symbol or ""))
            case Reconcile(since) if self.context.account is not None:
                yield from rest.open_or_missed(since)
            case Command():
                yield rest.request(outgoing, answers.kind(outgoing), self.native)

    def fetched(self, tag: Hashable, answer: Answer) -> Iterable[Event | Signal]:
        match tag:
            case ("call", str() as id, str() as name):
                yield from answers.called(id, name, answer, self.symbol)
            case ("current", Topic() as topic):
                yield from answers.current(topic, answer, self.symbol)
            case str() as what:
                yield from answers.listed(what, answer.text, self.symbol)

    def decode(self, text: str) -> Iterable[Event | Signal]:
        frame: Any = None
        try:
            frame = loads(text)
            items: list[Event | Signal] = list(self.read(members(frame)))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            items = [Unknown(text, f"{type(error).__name__}: {error}")]
        yield from items
        id = reading.event_id(text, frame)
        if id is not None or (self.acknowledges == "all" and PONG not in items):
            yield Processed(() if id is None else (id,))
        if isinstance(frame, dict) and frame.get("type") == "backtest_complete":
            yield OVER

    def read(self, frame: dict[str, Any]) -> Iterable[Event | Signal]:
        time = {"timestamp": frame["timestamp"]} if "timestamp" in frame else {}
        parent = {"parent_order_id": frame["parent_order_id"]} if "parent_order_id" in frame else {}
        match frame:
            case {"type": "quote", "quote": quote}:
                yield reading.quote(members(quote), self.symbol, **time)
            case {"type": "candle", "bar": bar}:
                yield reading.candle(members(bar), self.symbol, **time)
            case {"type": "order", "event": event, "order": order}:
                yield reading.order(members(order), self.symbol, event, **parent, **time)
            case {"type": "position", "event": event, "position": position}:
                yield reading.position(members(position), self.symbol, event, **time)
            case {"type": "account", "event": event, "account": account}:
                yield reading.account(members(account), event, **time)
            case {"type": "trade", "event": event, "trade": trade}:
                yield reading.trade(members(trade), self.symbol, event=event, **time)
            case {"type": "connection", "event": _}:
                yield reading.connection(frame, **time)
            case {"type": "rate_limit", "event": event, "requests_remaining": left, "reset_at": reset_at}:
                yield RateLimit(event=event, requests_remaining=left, reset_at=reset_at, **time)
            case {"type": "data_staleness", "event": _, "symbols": [*natives]}:
                yield reading.staleness(frame, self.symbol, natives, **time)
            case {"type": "financing"}:
                yield reading.financing(frame, self.symbol, **time)
            case {"type": "error", "code": _}:
                yield reading.error(frame, **time)
            case {"type": "ping"}:
                yield PONG
            case {"type": "backtest_complete"}:
                yield Notification(title="backtest_complete", message=OVER.reason, data=frame, **time)
            case _:
                yield Unknown(frame, "no message of the gateway's")

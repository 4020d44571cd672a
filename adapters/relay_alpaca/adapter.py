"""Alpaca: stocks and crypto of the US, with a paper account for everybody. https://docs.alpaca.markets

The account is on one socket (https://docs.alpaca.markets/docs/websocket-streaming), which tells of orders and fills, and
stocks and crypto are on one each (https://docs.alpaca.markets/docs/streaming-market-data). Commands, lists, positions and
money are requests (https://docs.alpaca.markets/reference). All frames are JSON, also the binary ones of the account.
"""

from collections import deque
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

from relay.adapter import (
    Ack,
    Adapter,
    Answer,
    Backoff,
    Book,
    CloseMeaning,
    Context,
    Fetch,
    Header,
    Heartbeat,
    Hello,
    Nack,
    Offer,
    Option,
    Outgoing,
    Poll,
    Rate,
    Ready,
    Reconcile,
    Redial,
    Send,
    Session,
    Signal,
    Subscribe,
    Unknown,
    Unsubscribe,
    dumps,
    loads,
)
from relay.adapter.reading import each, members
from relay.model.channels import Topic
from relay.model.commands import Command
from relay.model.enums import ErrorCode
from relay.model.events import Error, Event
from relay.model.hours import Hours
from relay_alpaca import reading, rest

AAPL = {"symbol": "AAPL"}
KEYS = (Header("APCA-API-KEY-ID", "{key_id}"), Header("APCA-API-SECRET-KEY", "{secret_key}"))
#: Requests of one API: of an account, https://alpaca.markets/support/usage-limit-api-calls, and of the free data plan.
REQUESTS = Rate(200, per=60, of=("call", "http"))
#: Trading before and after the regular hours included.
HOURS = Hours("Mon-Fri 04:00-20:00", "America/New_York")
LISTENING = dumps({"action": "listen", "data": {"streams": ["trade_updates"]}})
#: Codes of errors of a market data socket by what they mean for the connection; others are about the last request.
CLOSES = {
    **dict.fromkeys((402, 408, 409), CloseMeaning.REFUSED),
    **dict.fromkeys((401, 404, 407, 500), CloseMeaning.RETRY),
    406: CloseMeaning.OCCUPIED,
}


def _data(url: str, book: Book = Book.NONE) -> Session:
    """Return the declaration of a socket with market data: one connection, which says what it takes."""
    return Session(
        url=url,
        http="https://data.alpaca.markets",
        heartbeat=Heartbeat(every=10),
        silent_after=30,
        ready="signal",
        ack_within=10,
        single=True,
        on_interest=True,
        backoff=Backoff(first=1, cap=30),
        book=book,
        limits=(REQUESTS,),
    )


class Alpaca(Adapter):
    name = "alpaca"
    credentials = ("key_id", "secret_key")
    options = (
        Option("api", "paper-api", choices=("paper-api", "api"),
               about="`paper-api`: the paper account; `api`: the live one. Each has keys of its own"),
        Option("feed", "iex", choices=("iex", "sip", "delayed_sip", "test"),
               about="the stocks' feed; `sip` needs a subscription, `test` has only FAKEPACA, at all hours"),
    )  # fmt: skip
    offers = (
        Offer(kind="quote", socket="stocks", example=AAPL, hours=HOURS),
        Offer(kind="public_trade", socket="stocks", example=AAPL, hours=HOURS),
        Offer(kind="candle", socket="stocks", timeframes=tuple(reading.BARS), example=AAPL, hours=HOURS),
        Offer(kind="depth", socket="crypto", example={"symbol": "BTC/USD"}),
        Offer(kind="signal", socket="stocks", example=AAPL, hours=HOURS),
        Offer(kind="instrument", example=AAPL),
        Offer(kind="account", visibility="presence", events=("account", "order", "position", "trade", "reply")),
    )
    commands = rest.COMMANDS
    orders = rest.ORDERS
    session = Session(
        url="wss://{api}.alpaca.markets/stream",
        http="https://{api}.alpaca.markets",
        http_auth=KEYS,
        sockets={
            "stocks": _data("wss://stream.data.alpaca.markets/v2/{feed}"),
            "crypto": _data("wss://stream.data.alpaca.markets/v1beta3/crypto/us", Book.DELTAS),
        },
        commands_over="http",
        heartbeat=Heartbeat(every=10),
        silent_after=30,
        ready="signal",
        backoff=Backoff(first=1, cap=30),
        limits=(REQUESTS,),
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.asked: deque[Subscribe | Unsubscribe] = deque()

    @classmethod
    def socket_of(cls, topic: Topic) -> str:
        """Pairs are crypto, everything else is a stock."""
        return "" if topic.kind == "account" else "crypto" if "/" in (topic.symbol or "") else "stocks"

    @classmethod
    def hours(cls, topic: Topic, context: Context) -> Hours | None:
        """Crypto, and the feed for tests, never close."""
        always = cls.socket_of(topic) != "stocks" or context.options.get("feed") == "test"
        return None if always else super().hours(topic, context)

    @classmethod
    def error_code(cls, error: Mapping[str, Any], command: Command) -> ErrorCode:
        """Read the sentence of a refusal: the numbers are of kinds of refusals."""
        said = str(error.get("message", "")).lower()
        found = next((code for words, code in rest.REFUSALS.items() if words in said), None)
        return super().error_code(error, command) if found is None else found

    # --- what is sent ------------------------------------------------------------------------------------------------

    def encode(self, outgoing: Outgoing) -> Iterable[str | Fetch | Poll]:
        match outgoing:
            case Subscribe(topics) | Unsubscribe(topics):
                channels = reading.channels([topic for topic in topics if topic.kind != "account"], self.native)
                if channels:
                    self.asked.append(outgoing)
                    action = "subscribe" if isinstance(outgoing, Subscribe) else "unsubscribe"
                    yield dumps({"action": action, **channels})
            case Reconcile(since):
                yield from rest.lists(self.option("feed"))
                if self.context.account is not None:
                    yield from rest.open_or_missed(since, self.context.kept)
            case Command():
                yield rest.request(outgoing, self.native, self.option("feed"))
            case Hello() if not self.socket:
                yield dumps({"action": "authenticate", "data": self._keys("key_id", "secret_key")})

    def _keys(self, *names: str) -> dict[str, str]:
        given = self.context.credentials
        return dict(zip(names, (given["key_id"], given["secret_key"]), strict=True))

    # --- what comes --------------------------------------------------------------------------------------------------

    def decode(self, text: str) -> Iterable[Event | Signal]:
        frame = loads(text)
        if isinstance(frame, list):
            for raw in frame:
                yield from each([raw], self.market)
        else:
            yield from self.account(members(frame))

    def account(self, frame: dict[str, Any]) -> Iterable[Event | Signal]:
        match frame:
            case {"stream": "authorization", "data": {"status": "authorized"}}:
                yield Send(LISTENING)
            case {"stream": "authorization", "data": {"status": status}}:
                kind = "a paper account" if self.option("api") == "paper-api" else "the live account"
                wanted = f"with the option api = {self.option('api')!r} they must be those of {kind}"
                yield Redial(f"key_id and secret_key are {status}: {wanted}", CloseMeaning.REFUSED)
            case {"stream": "listening", "data": {"streams": [*streams]}} if "trade_updates" in streams:
                yield Ready()
            case {"stream": "listening", "data": {"error": error}}:
                yield Redial(str(error), CloseMeaning.REFUSED)
            case {"stream": "trade_updates", "data": data}:
                yield from reading.update(members(data), self.symbol, self.context.kept)
                if members(data).get("event") in reading.FILLS:
                    yield from rest.polls(self.context.kept)
            case _:
                yield Unknown(frame, "no message of the account's")

    def market(self, raw: Any) -> Iterable[Event | Signal]:
        given = members(raw)
        match given:
            case {"T": "success", "msg": "connected"}:
                yield Send(dumps({"action": "auth", **self._keys("key", "secret")}))
            case {"T": "success", "msg": "authenticated"}:
                yield Ready()
            case {"T": "subscription"}:
                yield from self._subscribed(given)
            case {"T": "error", "code": int() as code, "msg": str() as reason} if code in CLOSES:
                yield Redial(f"{code} {reason}", CLOSES[code])
            case {"T": "error", "code": int() as code, "msg": str() as reason}:
                request = self.asked.popleft() if self.asked else None
                if isinstance(request, Subscribe):
                    yield Nack(request.topics, f"{code} {reason}")
                else:
                    yield Error(code=str(code), message=reason)
            case {"T": str() as kind, "S": str() as native} if kind in reading.MARKET:
                read = reading.MARKET[kind]
                yield read(given, {"symbol": self.symbol(native), "native_symbol": native})
            case _:
                yield Unknown(raw, "no message of market data")

    def _subscribed(self, given: dict[str, Any]) -> Iterable[Signal]:
        """Compare what is subscribed now with what was asked for last."""
        request = self.asked.popleft() if self.asked else None
        if request is not None:
            done = isinstance(request, Subscribe)
            has = [reading.is_in(given, topic, self.native) for topic in request.topics]
            yield Ack(
                tuple(topic for topic, there in zip(request.topics, has, strict=True) if there is done), done=done
            )

    def fetched(self, tag: Hashable, answer: Answer) -> Iterable[Event | Signal]:
        match tag:
            case ("call", str() as id, str() as name):
                yield rest.called(id, name, answer, self.symbol, self.context.kept)
            case (str() as what, since, *_):
                yield from rest.listed(what, since, answer, self.symbol, self.context.kept)

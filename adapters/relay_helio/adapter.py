"""Helio, Trader WebSocket API: https://docs.helio.trade/trader/websocket.

Every message is ``{"type", "payload"}``. A JWT from the login goes into the URL. The page names the messages of an account
without their members; `relay_helio.reports` says what is read of them, `relay_helio.orders` how answers are told apart.
"""

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

from relay.adapter import (
    Ack,
    Adapter,
    Answer,
    Book,
    Complete,
    Context,
    Fetch,
    GivenUp,
    Heartbeat,
    Learned,
    Offer,
    Outgoing,
    Query,
    Session,
    Signal,
    Subscribe,
    Unknown,
    Unsubscribe,
    loads,
)
from relay.model.channels import Topic
from relay.model.commands import Command, PlaceOrder
from relay.model.events import Depth, Error, Event, Quote
from relay_helio.interest import ACCOUNT_EVENTS, QUOTE, Interest, message
from relay_helio.orders import TYPE_NAMES, TYPES, Waiting, body, login, rest_body
from relay_helio.reports import Reports, level, members, native

EURUSD = {"symbol": "EURUSD"}


class Helio(Adapter):
    name = "helio"
    credentials = ("email", "password")
    options = {"host": "localhost:8081", "account_id": "", "account_symbols": "", "depth": "10", "orders": "page",
               "portfolio": "part"}  # fmt: skip
    about_options = {
        "host": "the broker's trader host, HOST in wss://HOST/api/v1/ws",
        "account_id": "the provider's id of the account; may be left out where the login has exactly one",
        "account_symbols": "provider's symbols, comma-separated, to watch the account on beside those configured or quoted",
        "depth": "levels a side of the book",
        "orders": "spelling of trading messages: `page` as the WebSocket page has it, `rest` as the REST bodies",
        "portfolio": "what a portfolioEvent names: `whole` all open positions, so that one it lacks is closed; `part` some",
    }
    offers = (Offer(kind="quote", example=EURUSD), Offer(kind="depth", example=EURUSD),
              Offer(kind="account", visibility="presence"))  # fmt: skip
    commands = tuple(TYPES)
    session = Session(
        url="wss://{host}/api/v1/ws",
        http="https://{host}/api/v1",
        auth=Query("token", "{token}"),
        heartbeat=Heartbeat(every=20),  # the server's own pings are answered below the adapter and prove nothing to it
        silent_after=60,
        ack_within=10,
        book=Book.SNAPSHOTS,
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        chosen = {**self.options, **context.options}
        self.account_id, self.rest = chosen["account_id"], chosen["orders"] == "rest"
        self.whole = chosen["portfolio"] == "whole"
        listed = {name.strip() for name in chosen["account_symbols"].split(",") if name.strip()}
        known = listed | {native for native, _ in self.symbols}
        self.interest = Interest(self.native, int(chosen["depth"]), known)
        self.waiting = Waiting()
        self.reports = Reports()

    def prepare(self) -> Iterable[Fetch]:
        credentials = {name: self.context.credentials[name] for name in self.credentials}
        yield Fetch(tag="login", method="POST", url="/login", json=credentials)

    def fetched(self, tag: Hashable, answer: Answer) -> Iterable[Event | Signal]:
        if not answer.ok:
            yield Error(code=f"http_{answer.status}", message=f"login refused: {answer.text[:200]}")
            return
        token, expires_at, accounts = login(loads(answer.text))
        if not self.account_id and len(accounts) == 1:
            self.account_id = accounts[0]
        elif self.account_id not in accounts:
            yield Error(code="account_id", message=f"set the option account_id to one of: {', '.join(accounts)}")
        yield Learned({"token": token}, expires_at)

    def encode(self, outgoing: Outgoing) -> Iterable[str | Fetch]:
        match outgoing:
            case Subscribe(topics):
                yield from self.interest.subscribe(topics, self.account)
            case Unsubscribe(topics):
                yield from self.interest.unsubscribe(topics)
            case GivenUp(command_id):
                self.waiting.forget(command_id)
            case Command():
                traded = getattr(outgoing, "symbol", None)
                payload = body(outgoing, self.account(), None if traded is None else self.native(traded))
                if isinstance(outgoing, PlaceOrder):  # its executions must be heard of
                    yield from self.interest.watch([self.native(outgoing.symbol)])
                self.waiting.add(outgoing)
                yield message(TYPES[type(outgoing)], rest_body(payload) if self.rest else payload)

    def account(self) -> str:
        """The provider's id of the session's account. Raises ValueError when nobody said which it is."""
        if not self.account_id:
            raise ValueError("the login has no account, or several: set the option account_id")
        return self.account_id

    def decode(self, text: str) -> Iterable[Event | Signal]:
        match loads(text):
            case {"type": "quoteEvent", "payload": {"symbol": str(name)} as quote}:
                yield Quote(symbol=self.symbol(name), native_symbol=name, bid=quote.get("bid"), ask=quote.get("ask"),
                            time=quote.get("ts"))  # fmt: skip
            case {"type": "depthEvent", "payload": {"symbol": str(name), "bids": [*bids], "asks": [*asks]} as book}:
                yield Depth(symbol=self.symbol(name), native_symbol=name, bids=map(level, bids), asks=map(level, asks),
                            snapshot=True, timestamp=book.get("ts"))  # fmt: skip
            case {"type": "executionEvent", "payload": payload}:
                given = members(payload)
                execution = self.reports.execution(given, self.symbol(native(given)), self.other(given))
                yield execution.order
                yield from filter(None, (execution.trade, self.waiting.executed(execution)))
            case {"type": "portfolioEvent", "payload": payload}:
                given = members(payload)
                yield from self.reports.portfolio(given, self.symbol, self.other)
                if self.whole and "positions" in given:
                    yield Complete("position", self.other(given))
            case {"type": "metricsEvent", "payload": payload}:
                given = members(payload)
                yield self.reports.metrics(given, self.other(given))
            case {"type": "subscribed" | "unsubscribed" as word, "payload": {"symbols": [*names], "events": [*events]}}:
                quotes = [Topic(kind="quote", symbol=self.symbol(name)) for name in names if QUOTE in events]
                own = [Topic(kind="account", account=self.context.account)] if set(ACCOUNT_EVENTS) & set(events) else []
                yield Ack((*quotes, *own), done=word == "subscribed")
            case {"type": "error", "payload": {"code": str() | int() as code, "message": str(reason), **rest}}:
                yield Error(code=str(code), message=reason, details=rest or None)
            case {"type": str(word), "payload": payload} if word in TYPE_NAMES:
                yield self.waiting.answered(word, payload)
            case other:
                yield Unknown(other)

    def other(self, given: Mapping[str, Any]) -> str | None:
        """The account a message names, where it is not the session's own."""
        named: str | None = given.get("accountId")
        return None if named == self.account_id else named

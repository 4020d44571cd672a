"""Helio, Trader WebSocket API: https://docs.helio.trade/trader/websocket.

Every message is ``{"type", "payload"}``. A JWT from the login goes into the URL. `relay_helio.reports` reads the messages,
`relay_helio.requests` writes them. No answer names a command: the account's messages are the answers of most, and
`relay_helio.matching` finds those of the rest.
"""

from collections.abc import Hashable, Iterable

from relay.adapter import (
    Ack,
    Adapter,
    Answer,
    Book,
    Context,
    Fetch,
    GivenUp,
    Header,
    Heartbeat,
    Offer,
    Option,
    Outgoing,
    Query,
    Reconcile,
    Session,
    Signal,
    Subscribe,
    Unknown,
    Unsubscribe,
    loads,
)
from relay.model.channels import Topic
from relay.model.commands import AmendOrder, CancelOrder, Command, ListAccounts, ListOrders, ListPositions, PlaceOrder
from relay.model.events import Error, Event, Order
from relay_helio import requests
from relay_helio.matching import Matching
from relay_helio.reports import Reports, depth, quote


class Helio(Adapter):
    name = "helio"
    credentials = ("email", "password")
    options = (
        Option("host", "localhost:8081", about="the broker's trader host, HOST in wss://HOST/api/v1/ws"),
        Option("account_id", about="the provider's id of the account; may be left out where the login has exactly one"),
        Option("account_symbols",
               about="provider's symbols, comma-separated, to watch the account on beside those configured or quoted"),
        Option("depth", "10", about="levels a side of the book"),
        Option("orders", "page", choices=("page", "rest"),
               about="spelling of trading messages: `page` as the WebSocket page has it, `rest` as the REST bodies"),
        Option("portfolio", "part", choices=("part", "whole"),
               about="what a portfolioEvent names: `whole` all that is open, so that what it lacks is not; `part` some"),
    )  # fmt: skip
    offers = (
        Offer(kind="quote", example={"symbol": "EURUSD"}),
        Offer(kind="depth", example={"symbol": "EURUSD"}),
        Offer(kind="account", visibility="presence", events=("account", "order", "position", "trade", "reply")),
    )
    commands = (*requests.MESSAGES, *requests.LISTS)
    answered_by_stream = (PlaceOrder, CancelOrder, AmendOrder)
    orders = requests.ORDERS
    codes = requests.CODES
    session = Session(
        url="wss://{host}/api/v1/ws",
        http="https://{host}/api/v1",
        auth=Query("token", "{token}"),
        http_auth=Header("Authorization", "Bearer {token}"),
        heartbeat=Heartbeat(every=20),  # the server's own pings are answered below the adapter and prove nothing to it
        silent_after=60,
        ack_within=10,
        book=Book.SNAPSHOTS,
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.rest, self.whole = self.option("orders") == "rest", self.option("portfolio") == "whole"
        listed = {name.strip() for name in self.option("account_symbols").split(",") if name.strip()}
        self.reports = Reports(self.symbol, self.option("account_id"))
        self.matching = Matching(context.known)
        configured = listed | {native for native, _ in self.symbols}
        self.interest = requests.Interest(self.native, int(self.option("depth")), configured, context.known)

    def prepare(self) -> Iterable[Fetch]:
        credentials = {name: self.context.credentials[name] for name in self.credentials}
        yield Fetch(tag="login", method="POST", url="/login", json=credentials, authenticated=False)

    def fetched(self, tag: Hashable, answer: Answer) -> Iterable[Event | Signal]:
        match tag:
            case "login":
                self.reports.account, learned = requests.signed_in(answer, self.reports.account)
                yield from learned
            case requests.PORTFOLIO:
                yield from self.reports.portfolio(loads(answer.text), whole=True, streamed=False)
            case requests.MISSED:
                yield from map(self.reports.order, loads(answer.text)["orders"])
            case ("list", str() as command_id, str() as what):
                yield requests.listed(command_id, what, answer, self.reports)

    def encode(self, outgoing: Outgoing) -> Iterable[str | Fetch]:
        match outgoing:
            case Subscribe(topics):
                yield from self.interest.subscribe(topics, self.account)
            case Unsubscribe(topics):
                yield from self.interest.unsubscribe(topics)
            case GivenUp(command, again=False) if not isinstance(command, CancelOrder | AmendOrder):
                self.matching.forget(command)  # those two are answered by messages that name the order
            case Reconcile(since) if self.reports.account:
                yield from requests.reconcile(self.account(), since)
            case ListAccounts() | ListPositions() | ListOrders():
                yield requests.portfolio(self.account(), ("list", outgoing.id, outgoing.answer))
            case Command():
                native = None if (symbol := getattr(outgoing, "symbol", None)) is None else self.native(symbol)
                frame = requests.frame(outgoing, self.account(), native, rest=self.rest)
                if isinstance(outgoing, PlaceOrder):  # whose executions come only for subscribed symbols
                    yield from self.interest.trade(self.native(outgoing.symbol))
                yield frame

    def account(self) -> str:
        """Return the provider's id of the session's account. Raises ValueError when it is not known."""
        if not self.reports.account:
            raise ValueError("the login has no account, or several: set the option account_id")
        return self.reports.account

    def decode(self, text: str) -> Iterable[Event | Signal]:
        match loads(text):
            case {"type": "quoteEvent", "payload": {"symbol": str() as name} as given}:
                yield quote(given, name, self.symbol(name))
            case {"type": "depthEvent", "payload": {"symbol": str() as name, "bids": [*_], "asks": [*_]} as given}:
                yield depth(given, name, self.symbol(name))
            case {"type": "executionEvent", "payload": payload}:
                for item in self.reports.execution(payload):
                    yield item
                    yield from self.matching.executed(item) if isinstance(item, Order) else ()
            case {"type": "portfolioEvent", "payload": payload}:
                yield from self.reports.portfolio(payload, whole=self.whole)
            case {"type": "metricsEvent", "payload": payload}:
                yield self.reports.metrics(payload)
            case {"type": "subscribed" | "unsubscribed" as word, "payload": {"symbols": [*names], "events": [*events]}}:
                quotes = [Topic(kind="quote", symbol=self.symbol(name)) for name in names if requests.QUOTE in events]
                done, own = word == "subscribed", [Topic(kind="account", account=self.context.account)]
                # Where the account stays subscribed, its events of some symbols only are given up.
                whole = done or not requests.has_account(self.interest.topics)
                yield Ack((*quotes, *(own if whole and set(requests.ACCOUNT_EVENTS) & set(events) else ())), done=done)
            case {"type": "error", "payload": {"code": str() | int() as code, "message": str() as reason, **rest}}:
                yield Error(code=str(code), message=reason, details=rest or None)
            case {"type": str() as word, "payload": payload} if word in requests.KINDS:
                yield self.matching.answer(requests.KINDS[word], payload, self.reports)
            case other:
                yield Unknown(other)

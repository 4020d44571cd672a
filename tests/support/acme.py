"""A provider that does what a test says, for what a relay tells of it: its adapter, and its server.

Frames are arrays of items, each an array whose first member says what it is. What is open on the account, and every fill, is
listed over HTTP at ``/account``.
"""

import time
from collections.abc import Callable, Hashable, Iterable
from typing import Any

from relay.adapter import (
    Ack,
    Adapter,
    Answer,
    Backoff,
    Book,
    CommandReply,
    Complete,
    Fetch,
    Nack,
    Offer,
    Outgoing,
    Reconcile,
    Sequence,
    Session,
    Signal,
    Subscribe,
    Symbols,
    Unknown,
    Unsubscribe,
    dumps,
    loads,
)
from relay.model.channels import Topic
from relay.model.commands import Command, PlaceOrder
from relay.model.events import Depth, Event, Level, Order, Position, Quote, Trade
from relay.model.text import from_nanos
from relay.plugins.hookspecs import hookimpl
from relay.testing.simulator import HttpRequest, HttpResponse, Link, Simulator

SYMBOL = "EUR/USD"


class Acme(Adapter):
    name = "acme"
    offers = (Offer(kind="quote"), Offer(kind="depth"), Offer(kind="account"))
    commands: tuple[type[Command], ...] = (PlaceOrder,)
    session = Session(
        url="ws://acme.test/ws",
        http="http://acme.test",
        ack_within=0.5,
        backoff=Backoff(first=0.02, cap=0.05),
        book=Book.DELTAS,
        sequence=Sequence(scope="topic", contiguous=True),
    )

    @staticmethod
    def checksum(bids: Iterable[Level], asks: Iterable[Level]) -> str:
        """The number of levels; the provider sends one where a test wants it checked."""
        return str(len([*bids, *asks]))

    def encode(self, outgoing: Outgoing) -> Iterable[str | Fetch]:
        match outgoing:
            case Subscribe(topics) | Unsubscribe(topics):
                what = "subscribe" if isinstance(outgoing, Subscribe) else "unsubscribe"
                yield dumps([what, *(f"{topic.kind}:{topic.symbol or ''}" for topic in topics)])
            case Reconcile(since):
                yield Fetch(tag="account", url="/account", query={} if since is None else {"since": since})
            case PlaceOrder(id=id):
                yield dumps(["place", id])

    def decode(self, message: str) -> Iterable[Event | Signal]:
        for item in loads(message):
            yield self._item(item)

    def _item(self, item: Any) -> Event | Signal:
        match item:
            case ["symbols", *symbols]:
                return Symbols(tuple((symbol, symbol) for symbol in symbols), complete=True)
            case ["ack", *streams]:
                return Ack(tuple(map(self._topic, streams)))
            case ["refused", stream, reason]:
                return Nack((self._topic(stream),), reason)
            case ["quote", symbol, bid, at]:
                return Quote(symbol=symbol, bid=bid, time=at)
            case ["depth", symbol, seq, bids, whole, checksum]:
                first = None if whole else seq
                return Depth(symbol=symbol, bids=bids, asks=(), snapshot=whole, first_seq=first, last_seq=seq,
                             checksum=checksum)  # fmt: skip
            case ["order", id, status, filled, at]:
                return Order(event=None, id=id, symbol=SYMBOL, side="BUY", order_type="LIMIT", quantity="2",
                             filled_quantity=filled, status=status, updated_at=at, timestamp=at)  # fmt: skip
            case ["fill", id, order, quantity, at]:
                return Trade(id=id, order_id=order, symbol=SYMBOL, side="BUY", quantity=quantity, price="1.1", time=at)
            case ["position", id, quantity, at]:
                return Position(event=None, id=id, symbol=SYMBOL, side="LONG", quantity=quantity, updated_at=at,
                                timestamp=at)  # fmt: skip
            case ["complete", kind]:
                return Complete(kind)
            case ["reply", id]:
                return CommandReply(id, result={})
        return Unknown(item)

    def fetched(self, tag: Hashable, answer: Answer) -> Iterable[Event | Signal]:
        return self.decode(answer.text) if answer.ok else [Unknown(answer.text, f"status {answer.status}")]

    def _topic(self, stream: str) -> Topic:
        kind, _, symbol = stream.partition(":")
        return Topic(kind=kind, symbol=symbol or None, account=None if symbol else self.context.account)


class AcmePlugin:
    """A plugin with the adapter."""

    @hookimpl
    def relay_adapters(self) -> list[type[Adapter]]:
        return [Acme]


class AcmeSimulator(Simulator):
    """The provider.

    Attributes:
        ahead: seconds by which its clock is ahead.
        acknowledges: it answers a subscription of data.
        refuses: the reason for which it refuses subscriptions; None when it does not.
        mute: it sends nothing of a stream, although it acknowledged it.
        orders, fills, positions: the account, by id, as items.
        listing: makes the answer of ``/account`` out of the true one.
        before_answer: waited for before an answer is sent.
    """

    ws_path = "/ws"

    def __init__(self) -> None:
        super().__init__()
        self.ahead = 0.0
        self.acknowledges = True
        self.refuses: str | None = None
        self.mute = False
        self.orders: dict[str, list[Any]] = {}
        self.fills: dict[str, list[Any]] = {}
        self.positions: dict[str, list[Any]] = {}
        self.listing: Callable[[list[Any]], list[Any]] = lambda items: items
        self.before_answer: Callable[[], Any] | None = None
        self.seq = 100
        self._bid = 10_000

    # --- market ------------------------------------------------------------------------------------------------------

    @property
    def now(self) -> str:
        """The time of its clock."""
        return from_nanos(time.time_ns() + int(self.ahead * 1e9))

    def say(self, *items: Any) -> None:
        """Send these items to whoever is connected."""
        for link in self.links:
            link.send(dumps(items))

    def quote(self) -> None:
        """A new price."""
        self._bid += 1
        self.say(self._quote())

    @property
    def last_bid(self) -> str:
        """The bid of the last quote."""
        return f"1.{self._bid}"

    def delta(self, *, skip: int = 0, checksum: str | None = None) -> None:
        """A change of the book; before it ``skip`` others that nobody gets."""
        self.seq += 1 + skip
        self.say(["depth", SYMBOL, self.seq, [["1.1", str(self.seq)]], False, checksum])

    def _quote(self) -> list[Any]:
        return ["quote", SYMBOL, self.last_bid, self.now]

    def received(self, link: Link, message: str | bytes) -> None:
        match loads(message):
            case ["subscribe", *streams]:
                for stream in streams:
                    self._subscribe(link, stream)
            case ["place", id]:
                link.send(dumps([["reply", id]]))

    def opened(self, link: Link) -> None:
        link.send(dumps([["symbols", SYMBOL]]))

    def _subscribe(self, link: Link, stream: str) -> None:
        if not self.acknowledges and not stream.startswith("account"):
            return
        if self.refuses is not None and not stream.startswith("account"):
            link.send(dumps([["refused", stream, self.refuses]]))
            return
        link.send(dumps([["ack", stream]]))
        match stream.partition(":")[0]:
            case "quote" if not self.mute:
                link.send(dumps([self._quote()]))
            case "depth" if not self.mute:
                link.send(dumps([["depth", SYMBOL, self.seq, [["1.1", str(self.seq)]], True, None]]))

    # --- account -----------------------------------------------------------------------------------------------------

    def order(self, id: str, status: str, filled: str = "0", *, told: bool = True) -> None:
        """Record the new state of an order; with ``told`` the stream sends it."""
        self.orders[id] = ["order", id, status, filled, self.now]
        if told:
            self.say(self.orders[id])

    def fill(self, id: str, order: str, quantity: str, *, told: bool = True) -> None:
        """A fill."""
        self.fills[id] = ["fill", id, order, quantity, self.now]
        if told:
            self.say(self.fills[id])

    def position(self, id: str, quantity: str, *, told: bool = True) -> None:
        """A position as it is now."""
        self.positions[id] = ["position", id, quantity, self.now]
        if told:
            self.say(self.positions[id])

    def true_list(self, since: str | None = None) -> list[Any]:
        """Return the account: open orders, and those that changed and the fills made ``since``."""
        orders = [
            item
            for item in self.orders.values()
            if item[2] in ("OPEN", "PARTIALLY_FILLED") or (since is not None and item[4] >= since)
        ]
        fills = [item for item in self.fills.values() if since is not None and item[4] >= since]
        held = [item for item in self.positions.values() if item[2] != "0"]
        return [*orders, *fills, *held, ["complete", "order"], ["complete", "position"]]

    async def answer(self, request: HttpRequest) -> HttpResponse:
        items = self.listing(self.true_list(Link.query_of(request).get("since")))
        if self.before_answer is not None:
            await self.before_answer()
        return HttpResponse(body=dumps(items))

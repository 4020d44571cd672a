"""Kraken spot market data: the declaration. The protocol is `relay_kraken.v1` or `relay_kraken.v2`, by an option."""

from collections.abc import Hashable, Iterable

from relay.adapter import (
    Adapter,
    Answer,
    Book,
    Context,
    Fetch,
    Heartbeat,
    Offer,
    Option,
    Outgoing,
    Rate,
    Session,
    Signal,
)
from relay.model.events import Event
from relay_kraken.book import checksum
from relay_kraken.v1 import V1
from relay_kraken.v2 import V2
from relay_kraken.words import MINUTES

PROTOCOLS: dict[str, type[V1] | type[V2]] = {"v1": V1, "v2": V2}
BTC = {"symbol": "BTC/USD"}


class Kraken(Adapter):
    name = "kraken"
    options = (
        Option("api", "v1", choices=tuple(PROTOCOLS), about="version of the WebSocket API"),
        Option("depth", "1000", choices=("10", "25", "100", "500", "1000"), about="levels a side of the book"),
    )
    offers = (
        Offer(kind="quote", example=BTC),
        Offer(kind="public_trade", example=BTC),
        Offer(kind="depth", example=BTC),
        Offer(kind="instrument", example=BTC),
        Offer(kind="candle", timeframes=tuple(MINUTES), example=BTC),
    )
    session = Session(
        url=V1.url,
        http="https://api.kraken.com",
        heartbeat=Heartbeat(every=10, frame=False),  # Kraken's own heartbeats begin with the first subscription
        silent_after=25,
        ack_within=10,
        book=Book.DELTAS,
        limits=(Rate(150, per=600, of="dial"),),
    )
    checksum = staticmethod(checksum)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._protocol = PROTOCOLS[self.option("api")](self)

    @classmethod
    def url(cls, context: Context) -> str:
        """Return the endpoint of the chosen protocol; a configured ``url`` is that endpoint already."""
        own = cls.session.url
        return PROTOCOLS[context.options.get("api", "v1")].url if own == V1.url else own

    @classmethod
    def book_levels(cls, context: Context) -> int:
        """Return the subscribed depth: a level beyond it is gone without a word (page "Maintaining the book")."""
        return int(context.options["depth"])

    def prepare(self) -> Iterable[Fetch]:
        return self._protocol.prepare()

    def encode(self, outgoing: Outgoing) -> Iterable[str | Fetch]:
        return self._protocol.encode(outgoing)

    def decode(self, message: str) -> Iterable[Event | Signal]:
        return self._protocol.decode(message)

    def fetched(self, tag: Hashable, answer: Answer) -> Iterable[Event | Signal]:
        return self._protocol.fetched(answer)

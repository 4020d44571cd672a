"""Orders that a test places at a broker through the relay, and another terminal of the same account."""

from attrs import frozen

from relay.model.commands import PlaceOrder
from support.terminal import terminal_of


@frozen
class Traded:
    """The way to trade at a provider, and the kinds of which an absence leaves nothing unknown.

    Attributes:
        limit: a price far away from the market's.
    """

    symbol: str
    quantity: str
    limit: str
    lists: frozenset[str]


TRADED = {
    "crosstrade": Traded("ES 09-26", "1", "100.00", frozenset({"position", "order", "trade"})),
    "helio": Traded("EUR/USD", "10000", "0.50000", frozenset({"position", "order"})),
    "scaletrade": Traded("EUR/USD", "10", "0.50000", frozenset({"position", "order"})),
    "tektii": Traded("AAPL", "10", "50.00", frozenset({"position", "order", "trade"})),
}


def order(id, name, order_type="MARKET"):
    traded = TRADED[name]
    limit = traded.limit if order_type == "LIMIT" else None
    return PlaceOrder(
        id=id, symbol=traded.symbol, side="BUY", order_type=order_type, quantity=traded.quantity, limit_price=limit
    )


async def traded(r):
    """Open a position and have an order rest, both as far as the subscriber can see them."""
    there, view = terminal_of(r.simulator), r.subscriber.views[r.account]
    r.session.send(order("c1", r.name))
    await r.subscriber.until(lambda: view.open("position"))
    r.session.send(order("c2", r.name, "LIMIT"))
    await r.subscriber.until(
        lambda: replied(r, "c2") == "accepted" and ("order" not in TRADED[r.name].lists or view.open("order"))
    )
    return there, view


def replied(r, id):
    """The outcome of a command; None before there is one."""
    found = [event for event in r.on(r.account) if event["type"] == "reply" and event["command_id"] == id]
    return found[0]["outcome"] if found else None

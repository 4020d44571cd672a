"""The requests Helio is sent: subscriptions and trading messages, and the login, the portfolio and the history over HTTP.

The pages are https://docs.helio.trade/trader/websocket and, below /trader/api, authentication/client-login,
trading/get-portfolio and history/order-history. Trading messages are spelled as the WebSocket page has them, or as the REST
bodies. The open orders and positions are fetched on every connect, because the socket's own portfolio is documented as a
change only, and its executions as those of subscribed symbols.

Quotes are subscribed by symbols and events together, depth symbol by symbol. So are the account's executions and portfolio.
The relay wants the whole account: they are subscribed for every symbol that is configured, as long as it is quoted, and once
it was traded. There is no ``metricsUnsubscribe``; metrics stop with the connection.
"""

import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any

from attrs import Factory, define

from relay.adapter import Answer, CommandReply, Fetch, Known, Learned, Orders, Signal, dumps, loads, reading
from relay.adapter.reading import written
from relay.model import commands
from relay.model.channels import Topic
from relay.model.enums import ErrorCode, OrderType
from relay.model.events import Error, Event
from relay.model.text import from_nanos, to_ns
from relay_helio.reports import Reports, members

#: The members of the commands by their names on the page.
PLACED = {
    "symbol": "symbol", "side": "side", "quantity": "quantity", "type": "order_type", "clientOrderId": "client_order_id",
    "timeInForce": "time_in_force", "limitPrice": "limit_price", "stopPrice": "stop_price", "stopLossPrice": "stop_loss",
    "takeProfitPrice": "take_profit", "goodTillDate": "good_till",
}  # fmt: skip
AMENDED = {"orderId": "order_id", "quantity": "quantity", "limitPrice": "limit_price", "stopPrice": "stop_price",
           "timeInForce": "time_in_force", "goodTillDate": "good_till"}  # fmt: skip
LEVELS = {"slLevels": "stop_loss", "tpLevels": "take_profit"}
PERIOD = {"from": "since", "to": "until"}
#: The message of each command, and the members of it.
MESSAGES: Mapping[type[commands.Command], tuple[str, Mapping[str, str]]] = {
    commands.PlaceOrder: ("createOrder", PLACED),
    commands.CancelOrder: ("cancelOrder", {"orderId": "order_id"}),
    commands.AmendOrder: ("amendOrder", AMENDED),
    commands.ClosePosition: ("closePosition", {"positionId": "position_id", "qty": "quantity"}),
    commands.AmendPosition: ("amendPosition", {"positionId": "position_id"}),
    commands.OrderHistory: ("orderHistory", PERIOD),
    commands.PositionHistory: ("positionHistory", PERIOD),
    commands.TradeHistory: ("dealHistory", PERIOD),
}
#: The command of each message.
KINDS = {word: kind for kind, (word, _) in MESSAGES.items()}
#: Commands that the portfolio answers.
LISTS = (commands.ListAccounts, commands.ListPositions, commands.ListOrders)
ORDERS = Orders(
    types=(OrderType.MARKET, OrderType.LIMIT, OrderType.STOP, OrderType.STOP_LIMIT),
    members=("client_order_id", "stop_loss", "take_profit"),
    always_named=True,
)
#: The codes of gRPC that its gateway's errors have.
CODES = {"3": ErrorCode.INVALID_REQUEST, "7": ErrorCode.NOT_PERMITTED, "12": ErrorCode.UNSUPPORTED}
#: Names of the REST bodies that are not the page's in snake_case.
REST_NAMES = {"symbol": "symbol_id", "quantity": "volume"}
REST_PREFIXES = {"side": "TRADE_SIDE_", "type": "ORDER_TYPE_", "timeInForce": "TIF_"}
PORTFOLIO, MISSED = "portfolio", "missed"

#: Members of an order as the REST page spells them; `extra` must not contradict them either.
_OTHER_SPELLINGS = ("symbol_id", "volume", "client_order_id", "order_type")
_DAY = 24 * 3600 * 1_000_000_000
_camel = re.compile(r"[A-Z]")

QUOTE = "quoteEvent"
ACCOUNT_EVENTS = ["executionEvent", "portfolioEvent"]
#: Symbols that may be traded on one connection beside those that are configured.
MOST_TRADED = 1000


def message(type: str, /, **payload: object) -> str:
    """Return a frame of Helio's envelope."""
    return dumps({"type": type, "payload": payload})


# --- subscriptions ---------------------------------------------------------------------------------------------------


def has_account(topics: Iterable[Topic]) -> bool:
    """Return whether the account is among the topics."""
    return any(topic.kind == "account" for topic in topics)


@define(eq=False)
class Interest:
    """The subscriptions of one connection.

    Attributes:
        native: return the provider's text of a canonical symbol.
        depth: levels a side to ask for.
        configured: provider's symbols whose account events are always wanted.
        known: the account's orders and positions.
        traded: provider's symbols that orders were sent for.
        topics: the topics that are subscribed.
        watched: provider's symbols whose account events are subscribed.
    """

    native: Callable[[str], str]
    depth: int
    configured: set[str]
    known: Known
    traded: set[str] = Factory(set)
    topics: set[Topic] = Factory(set)
    watched: set[str] = Factory(set)

    @property
    def lasting(self) -> set[str]:
        """The symbols whose account events are wanted even if nobody subscribes their prices."""
        held = [order.native_symbol for order in self.known.open_orders()]
        held += [position.native_symbol for position in self.known.open_positions()]
        return self.configured | self.traded | set(filter(None, held))

    def subscribe(self, topics: Iterable[Topic], account_id: Callable[[], str]) -> Iterator[str]:
        """Yield frames that subscribe ``topics``, if again their account events too; ``account_id`` returns the own id."""
        yield from self._prices("subscribe", topics, depth=self.depth)
        self.watched -= self._natives(topics) - self.lasting
        if has_account(topics):
            yield message("metricsSubscribe", accountId=account_id())
            self.watched.clear()
        self.topics.update(topics)
        yield from self._watch()

    def unsubscribe(self, topics: Iterable[Topic]) -> Iterator[str]:
        """Yield frames that unsubscribe ``topics``, and the account events of symbols no longer wanted."""
        yield from self._prices("unsubscribe", topics)
        self.topics.difference_update(topics)
        if has_account(topics):
            self.traded.clear()
        yield from self._watch()

    def trade(self, native: str) -> Iterator[str]:
        """Subscribe the account's events of a symbol that an order is about to be sent for.

        Raises:
            ValueError: too many were traded on this connection, so that no events of this order would be received.
        """
        if native not in self.configured | self.traded and len(self.traded - self.configured) >= MOST_TRADED:
            raise ValueError(f"symbol: {MOST_TRADED} were traded already; list {native!r:.64} in account_symbols")
        self.traded.add(native)
        yield from self._watch()

    def _watch(self) -> Iterator[str]:
        """Yield the frames that begin and end the account's events as they are wanted: those of orders in any case."""
        wanted = self.lasting | self._natives(self.topics) if has_account(self.topics) else set(self.traded)
        changes = {"subscribe": wanted - self.watched, "unsubscribe": self.watched - wanted}
        self.watched = wanted
        for word, natives in changes.items():
            if natives:
                yield message(word, symbols=sorted(natives), events=ACCOUNT_EVENTS)

    def _prices(self, word: str, topics: Iterable[Topic], **more: int) -> Iterator[str]:
        """Yield the frames that begin or end quotes and books."""
        if quoted := [self.native(topic.symbol or "") for topic in topics if topic.kind == "quote"]:
            yield message(word, symbols=quoted, events=[QUOTE])
        for topic in topics:
            if topic.kind == "depth":
                yield message(f"depth{word.capitalize()}", symbol=self.native(topic.symbol or ""), **more)

    def _natives(self, topics: Iterable[Topic]) -> set[str]:
        return {self.native(topic.symbol) for topic in topics if topic.symbol}


# --- trading ---------------------------------------------------------------------------------------------------------


def frame(command: commands.Command, account_id: str, native: str | None, *, rest: bool) -> str:
    """Return the message of ``command`` in the spelling of the WebSocket page, or of the ``rest`` bodies.

    Raises:
        ValueError: Helio has no member for a part of the command.
    """
    word, names = MESSAGES[type(command)]
    page = {"accountId": account_id, **written(command, names)}
    match command:
        case commands.PlaceOrder():
            page = command.with_extra(page | {"symbol": native}, *PLACED, *_OTHER_SPELLINGS)
        case commands.AmendOrder() | commands.AmendPosition():
            page |= {name: [{"price": price}] for name, price in written(command, LEVELS).items()}
        case commands.OrderHistory() | commands.PositionHistory() | commands.TradeHistory():
            if command.until is None:
                raise ValueError("until: Helio's history needs to be told up to when")
            if native is not None:
                raise ValueError("symbol: Helio's history has no such member")
    return message(word, **(_rest_body(page) if rest else page))


def _rest_body(page: dict[str, Any]) -> dict[str, Any]:
    snake = {name: REST_NAMES.get(name) or _camel.sub(lambda m: f"_{m[0].lower()}", name) for name in page}
    return {
        snake[name]: f"{REST_PREFIXES[name]}{value}" if name in REST_PREFIXES else value for name, value in page.items()
    }


# --- HTTP ------------------------------------------------------------------------------------------------------------


def portfolio(account_id: str, tag: Hashable) -> Fetch:
    """Ask for the account's money and all that is open on it."""
    return Fetch(tag=tag, url=f"/accounts/{account_id}/portfolio")


def reconcile(account_id: str, since: str | None) -> Iterator[Fetch]:
    """Ask for all that is open, and after an absence for the orders that may have ended in it.

    The page's dates are days of the order's creation: those made since the day before, up to a year ahead, are asked for.
    """
    if since is not None:
        began = to_ns(since)
        query = {"from": from_nanos(began - _DAY)[:10], "to": from_nanos(began + 365 * _DAY)[:10]}
        yield Fetch(tag=MISSED, url=f"/accounts/{account_id}/history/orders", query=query)
    yield portfolio(account_id, PORTFOLIO)


def listed(command_id: str, what: str, answer: Answer, reports: Reports) -> CommandReply:
    """Return the reply to a list command: its part of the portfolio as it came, and as it is read."""
    reply = reading.reply(command_id, answer)
    if reply.error is not None:
        return reply
    money = {name: value for name, value in reply.result.items() if not isinstance(value, list)}
    result = money if what == "accounts" else reply.result[what]
    return CommandReply(command_id, result, events=reports.answer(reply.result, what))


def signed_in(answer: Answer, chosen: str) -> tuple[str, list[Event | Signal]]:
    """Return the session's account and what the login's answer yields; ``chosen`` is the operator's option."""
    given = members(loads(answer.text))
    expires = given.get("expiresAt")
    learned = Learned({"token": reading.text(given, "accessToken")}, None if expires is None else int(expires))
    ids = [account["id"] for account in given.get("accounts", ()) if isinstance(account["id"], str)]
    account = chosen or (ids[0] if len(ids) == 1 else "")
    unclear = Error(code="account_id", message=f"set the option account_id to one of: {', '.join(ids)}")
    return account, [learned] if account in ids else [unclear, learned]

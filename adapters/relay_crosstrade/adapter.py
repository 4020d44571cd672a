"""CrossTrade, WebSocket API: https://docs.crosstrade.io/api/websocket-api

One socket per user to the add-on in their NinjaTrader: quotes and the accounts' profit are streamed, everything else is a
function called by rpc. `relay_crosstrade.orders` requests orders, fills and positions. The server closes after more than 10
violations of its limits in a row; the adapter leaves before, at the tenth.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from relay.adapter import (
    Adapter,
    Alive,
    Backoff,
    CloseMeaning,
    CommandReply,
    Context,
    GivenUp,
    Header,
    Heartbeat,
    Limited,
    Nack,
    Offer,
    Option,
    Outgoing,
    Ping,
    Poll,
    Rate,
    Reconcile,
    Redial,
    Refresh,
    Seek,
    Session,
    Signal,
    Subscribe,
    Unknown,
    Unsubscribe,
    dumps,
    loads,
)
from relay.adapter.reading import each, listed
from relay.model import commands
from relay.model.channels import Topic
from relay.model.commands import Command
from relay.model.events import Account, Error, Event, Quote
from relay.model.text import from_millis
from relay_crosstrade.orders import Blotter
from relay_crosstrade.reading import Reader, has_expiry, is_alias, names_another, of_account, of_symbol
from relay_crosstrade.rpc import COMMANDS, ORDERS, Failure, Writer, failure, is_refusal, may_change

VIOLATIONS = 10
_of_limits = re.compile(r"(?!.*(session|elsewhere)).*(rate|limit|violation|abuse)", re.IGNORECASE).match


class CrossTrade(Adapter):
    name = "crosstrade"
    credentials = ("key",)
    options = (
        Option("account", about="NinjaTrader's name of the configured account; empty: they have the same name"),
        Option("pnl_interval", "1000", about="milliseconds between two profit updates, 1000 to 60000"),
        Option("time_in_force", "DAY", choices=("DAY", "GTC"),
               about="of an order without one, because CrossTrade requires one"),
    )  # fmt: skip
    offers = (
        Offer(kind="quote", example={"symbol": "ES 09-26"}),
        Offer(kind="account", visibility="presence", events=("account", "order", "position", "trade", "reply")),
    )
    commands = COMMANDS
    names_accounts = True
    orders = ORDERS
    session = Session(
        url="wss://app.crosstrade.io/ws/stream",
        auth=Header("Authorization", "Bearer {key}"),
        heartbeat=Heartbeat(every=20),
        silent_after=60,
        stale_after={"account": 90},  # the profit comes periodically; quiet quotes are normal
        topics_per_frame=500,
        single=True,
        closes={1008: CloseMeaning.TAKEOVER},  # or abuse of the limits: `closed`
        backoff=Backoff(first=1, cap=30, jitter=0, settle=60),
        # The provider's are 20 at once, and 60 s: two calls, and a second, are left to spare, because a frame that travels
        # faster than the one before it would meet a limit that is used to the last.
        limits=(Rate(3, burst=18, of="call"), Rate(20, per=61, of="interest"), Rate(5, per=61, of="dial")),
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.own = self.option("account") or context.account or ""
        self.interval = int(self.option("pnl_interval"))
        if not 1000 <= self.interval <= 60_000:
            raise ValueError(f"pnl_interval: expected 1000 to 60000 milliseconds, got {self.interval}")
        self.reader = Reader(self.symbol, self.native, self.own, self.own if context.account else "")
        self.writer = Writer(native=self.native, account=self.own, time_in_force=self.option("time_in_force"))
        self.blotter = Blotter(self.reader, context.known, self.interval / 1000)
        self.aliases: set[str] = set()  # subscribed names that may be aliases: the add-on has not used them yet
        self.violations = 0  # of the rate limit, without a success between
        self.watch(set())

    @classmethod
    def closed(cls, code: int, reason: str) -> CloseMeaning:
        """Return the meaning of a close; only the text says whether 1008 is a takeover or about the limits."""
        return CloseMeaning.RATE_LIMITED if code == 1008 and _of_limits(reason) else super().closed(code, reason)

    # --- writing -----------------------------------------------------------------------------------------------------

    def encode(self, outgoing: Outgoing) -> Iterable[str | Poll]:
        match outgoing:
            case Subscribe(topics):
                yield from self.instruments("subscribe", topics)
                if accounts := {topic for topic in topics if topic.kind == "account"}:
                    self.watch(self.accounts | accounts)
                    yield from self.blotter.look(*self.blotter.accounts)
                    yield dumps({"action": "streamPnl", "enabled": True, "interval": self.interval})
            case Unsubscribe(topics):
                yield from self.instruments("unsubscribe", topics)
                left = self.accounts.difference(topics)
                if self.accounts and not left:
                    yield dumps({"action": "streamPnl", "enabled": False})
                self.watch(left)
            case Ping():
                yield dumps({"action": "ping"})
            case Reconcile():
                yield from self.blotter.look(*self.blotter.accounts)
            case Refresh(account):
                yield from self.blotter.look(account or self.own)
            case Seek(id, account):
                yield from self.blotter.ask("order", id, account or self.own)
            case GivenUp(command):
                yield from self.follow(command)
            case Command():
                yield self.writer.frame(outgoing)

    def watch(self, accounts: set[Topic]) -> None:
        """Poll the fills of these accounts, which are subscribed, and those of the session's own."""
        self.accounts = accounts
        names = {self.own if topic.account == self.context.account else topic.account for topic in accounts}
        self.blotter.accounts = sorted(filter(None, {self.own} | names))

    def instruments(self, action: str, topics: Iterable[Topic]) -> Iterable[str]:
        natives = [self.native(topic.symbol or "") for topic in topics if topic.kind == "quote"]
        if natives:
            unsure = {native for native in natives if not has_expiry(native)}
            self.aliases = self.aliases | unsure if action == "subscribe" else self.aliases - unsure
            yield dumps({"action": action, "instruments": natives})

    def follow(self, command: Command) -> Iterator[Poll]:
        """Ask what has become of what a command is about."""
        account = command.account or self.own
        match command:
            case commands.PlaceOrder(client_order_id=str() as id):
                yield from self.blotter.ask("placed", id, account)
            case commands.CancelOrder(order_id=id) | commands.AmendOrder(order_id=id):
                yield from self.blotter.ask("order", id, account)
            case _ if may_change(command):
                yield from self.blotter.look(account)

    # --- reading -----------------------------------------------------------------------------------------------------

    def decode(self, message: str) -> Iterable[Event | Signal]:
        match loads(message):
            case {"type": "marketData", "quotes": [*quotes]}:
                yield from self.quotes(quotes)
            case {"type": "pnlUpdate", "accounts": [*accounts]} as update:
                epoch = update.get("epoch")
                yield from self.updated(accounts, None if epoch is None else from_millis(epoch))
            case {"type": "pong"}:
                yield Alive()
            case {"type": _} as other:
                yield Unknown(other, "no message of the page's")
            case {"id": str() as id, "data": dict() | list() as data}:
                yield from self.answered(id, data)
            case {"error": str()} | {"data": {"error": str()}} as failed:
                id = failed.get("id")
                yield from self.answered(id if isinstance(id, str) else "", failed.get("data", failed))
            case other:
                yield Unknown(other)

    def quotes(self, raws: list[Any]) -> Iterable[Event | Signal]:
        """Yield quotes, and refuse subscriptions under an alias: quotes have the add-on's own name."""
        for item in each(raws, self.reader.quote):
            yield item
            if self.aliases and isinstance(item, Quote) and (native := item.native_symbol) is not None:
                self.aliases.discard(native)
                for alias in [alias for alias in self.aliases if is_alias(alias, native)]:
                    self.aliases.discard(alias)
                    topic = Topic(kind="quote", symbol=self.symbol(alias))
                    yield Nack((topic,), f"{alias} is {native}: subscribe that")

    def updated(self, accounts: list[Any], time: str | None) -> Iterable[Event | Signal]:
        """Yield the money, and the positions, of a pnlUpdate."""
        raws = of_account(accounts, self.reader.only, "name")
        yield from each(raws, partial(self.reader.money, timestamp=time))
        for raw in raws:
            if isinstance(raw, dict) and isinstance(raw.get("positions"), list):
                yield from each(raw["positions"], self.reader.position)

    def answered(self, id: str, data: Any) -> Iterable[Event | Signal]:
        """Yield what the answer to a question or to a command tells."""
        data = of_account(data, self.reader.only)
        failed = failure(data)
        if id.startswith("ask "):  # the id of a command has no space
            yield from self.blotter.answered(id, data, failed)
        else:
            yield from self.replied(id, data, failed)
        if failed is None:
            self.violations = 0
        elif failed["code"] == "rate_limited":
            self.violations += 1
            yield Limited()
            if self.violations >= VIOLATIONS:
                yield Redial(f"{self.violations} rate limit violations in a row", CloseMeaning.RATE_LIMITED)

    def replied(self, id: str, data: Any, failed: Failure | None) -> Iterator[Event | Signal]:
        """Yield the reply to a command and what it tells, or an error where a failure answers none.

        A command that may change something stays open, and becomes unknown at its deadline, when the answer does not say
        whether it was carried out: it has no ``success``, or fails with what is no refusal that is documented.
        """
        command = next((each for each in self.context.known.commands() if each.id == id), None)
        details = {"id": id, "data": data}
        if failed is not None and command is None:
            yield Error(code=failed["code"], message=failed["message"], details=details)
            return
        succeeded = isinstance(data, dict) and data.get("success") is True
        if not (succeeded if failed is None else is_refusal(failed)) and (command is None or may_change(command)):
            said = f"the answer to command {id} does not say what became of it"
            yield Error(code="undecided", message=said, details=details)
            yield from () if command is None else self.follow(command)
            return
        account = (None if command is None else command.account) or self.reader.only
        if failed is None and names_another(data, account, "account"):
            failed = {"code": "not_of_this_account", "message": f"the answer is of another account than {account}"}
        if failed is not None:
            yield CommandReply(id, error=failed)
            return
        native = self.native(symbol) if (symbol := getattr(command, "symbol", None)) is not None else ""
        result, raws = of_symbol(of_account(data, account), native if isinstance(command, HISTORIES) else ""), None
        order_id = data.get("orderId") if isinstance(data, dict) else None
        if command is None and not account:  # it comes late: nobody knows whose account's it is, and whose data
            yield CommandReply(id, {"order_id": order_id} if order_id else {})
        elif (reader := self.list_of(command)) is not None:
            name, read = reader
            raws = [result] if not name else result.get(name) if isinstance(result, dict) else result
            yield listed(id, result, raws, read)
        else:
            yield CommandReply(id, {"order_id": order_id, **data} if order_id else result)
        match command:
            case commands.PlaceOrder() if isinstance(order_id, str) and order_id:
                yield from self.blotter.placed(command, order_id, self.writer.account_of(command))
            case None if isinstance(order_id, str) and order_id:  # the answer comes late
                yield from self.blotter.ask("order", order_id, account)
            case Command():
                yield from self.follow(command)
        match data:
            case {"positions": [*positions]}:
                yield from each(positions, self.reader.position)
            case {"accounts": [*accounts]}:
                yield from (item for item in each(accounts, self.reader.money) if isinstance(item, Account))

    def list_of(self, command: Command | None) -> tuple[str, Callable[[Any], Event]] | None:
        """Return the member that is the list of an answer, empty where that is the answer itself, and its reader."""
        match command:
            case commands.GetQuote():
                return "", self.reader.quote
            case commands.ListAccounts():
                return "accounts", self.reader.listed
            case commands.ListPositions():
                return "positions", self.reader.position
            case commands.ListOrders() | commands.OrderHistory():
                return "orders", self.blotter.order
            case commands.TradeHistory():
                return "executions", self.blotter.execution
        return None


#: Commands whose functions have no argument for a symbol.
HISTORIES = (commands.ListOrders, commands.OrderHistory, commands.TradeHistory)

"""CrossTrade, WebSocket API: https://docs.crosstrade.io/api/websocket-api

One socket per user to the add-on in their NinjaTrader: quotes and the accounts' profit are streamed, everything else is a
function called by rpc. `relay_crosstrade.polling` requests orders, fills and positions.
"""

import re
from collections.abc import Iterable
from typing import Any

from relay.adapter import (
    Adapter,
    Alive,
    Backoff,
    CloseMeaning,
    Context,
    GivenUp,
    Header,
    Heartbeat,
    Nack,
    Offer,
    Option,
    Outgoing,
    Ping,
    Poll,
    Rate,
    Reconcile,
    Session,
    Signal,
    Subscribe,
    Unknown,
    Unsubscribe,
    dumps,
    loads,
)
from relay.adapter.reading import each
from relay.model.channels import Topic
from relay.model.commands import Command
from relay.model.events import Event, Quote
from relay.model.text import from_millis
from relay_crosstrade.answers import Answers
from relay_crosstrade.polling import Blotter, Memory, Polling
from relay_crosstrade.reading import Reader, has_expiry, is_alias
from relay_crosstrade.rpc import COMMANDS, ORDERS, Writer

_of_limits = re.compile(r"(?!.*(session|elsewhere)).*(rate|limit|violation|abuse)", re.IGNORECASE).match


#: Kinds of events of an account.
CARRIED = ("account", "order", "position", "trade", "reply")


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
        Offer(kind="account", visibility="presence", events=CARRIED),
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
        self.polling = Polling(self.interval / 1000)
        self.reader = Reader(self.symbol, self.native, self.own, self.own if context.account else "")
        blotter = Blotter(self.reader, self.polling, context.kept.setdefault("orders", Memory()))
        writer = Writer(native=self.native, account=self.own, time_in_force=self.option("time_in_force"))
        accounts = {self.reader.account(self.own)} if self.own else set()
        self.answers = Answers(writer, self.reader, blotter, self.polling, accounts)
        self.aliases: set[str] = set()  # subscribed names that may be aliases: the add-on has not used them yet
        self.watch(set())

    @classmethod
    def closed(cls, code: int, reason: str) -> CloseMeaning:
        """Return the meaning of a close; only the text says whether 1008 is a takeover or about the limits."""
        return CloseMeaning.RATE_LIMITED if code == 1008 and _of_limits(reason) else super().closed(code, reason)

    def encode(self, outgoing: Outgoing) -> Iterable[str | Poll]:
        match outgoing:
            case Subscribe(topics):
                yield from self.instruments("subscribe", topics)
                if accounts := {topic for topic in topics if topic.kind == "account"}:
                    self.watch(self.accounts | accounts)
                    self.polling.look(*self.polling.accounts, now=not self.polling.missed)  # they are under way
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
                self.answers.reconcile()
            case GivenUp(id):
                self.answers.given_up(id)
            case Command():
                frame = self.answers.writer.frame(outgoing)
                self.answers.awaited(outgoing)
                yield frame
        yield from self.polling.take()

    def watch(self, accounts: set[Topic]) -> None:
        """Poll the fills of these accounts, which are subscribed, and those of the session's own."""
        self.accounts = accounts
        names = {self.own if topic.account == self.context.account else topic.account for topic in accounts}
        self.polling.accounts = sorted(filter(None, {self.own} | names))

    def instruments(self, action: str, topics: Iterable[Topic]) -> Iterable[str]:
        natives = [self.native(topic.symbol or "") for topic in topics if topic.kind == "quote"]
        if natives:
            unsure = {native for native in natives if not has_expiry(native)}
            self.aliases = self.aliases | unsure if action == "subscribe" else self.aliases - unsure
            yield dumps({"action": action, "instruments": natives})

    def quotes(self, raws: list[Any]) -> Iterable[Event | Signal]:
        """Yield quotes, and refuse subscriptions under an alias: quotes have the add-on's own name."""
        for item in each(raws, self.reader.quote):
            yield item
            if self.aliases and isinstance(item, Quote) and (native := item.native_symbol) is not None:
                self.aliases.discard(native)
                for alias in [alias for alias in self.aliases if is_alias(alias, native)]:
                    self.aliases.discard(alias)
                    yield Nack(
                        (Topic(kind="quote", symbol=self.symbol(alias)),), f"{alias} is {native}: subscribe that"
                    )

    def decode(self, message: str) -> Iterable[Event | Signal]:
        match loads(message):
            case {"type": "marketData", "quotes": [*quotes]}:
                yield from self.quotes(quotes)
            case {"type": "pnlUpdate", "accounts": [*accounts]} as update:
                epoch = update.get("epoch")
                yield from self.answers.updated(accounts, None if epoch is None else from_millis(epoch))
            case {"type": "pong"}:
                yield Alive()
            case {"type": _} as other:
                yield Unknown(other, "no message of the page's")
            case {"id": str(id), "data": dict() | list() as data}:
                yield from self.answers.read(id, data)
            case {"error": str()} | {"data": {"error": str()}} as failed:
                id = failed.get("id")
                yield from self.answers.read(id if isinstance(id, str) else "", failed.get("data", failed))
            case other:
                yield Unknown(other)

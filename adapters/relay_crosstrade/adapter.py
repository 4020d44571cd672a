"""CrossTrade, WebSocket API: https://docs.crosstrade.io/api/websocket-api

One socket per user to the add-on in their NinjaTrader: quotes and the accounts' profit are streamed, everything else is a
function called by rpc. `relay_crosstrade.questions` says when orders, fills and positions are asked for.
"""

import re
from collections.abc import Iterable

from relay.adapter import (
    Adapter,
    Alive,
    Backoff,
    CloseMeaning,
    Context,
    GivenUp,
    Header,
    Heartbeat,
    Offer,
    Option,
    Outgoing,
    Ping,
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
from relay.model.channels import Topic
from relay.model.commands import Command
from relay.model.events import Event
from relay.model.text import from_millis
from relay_crosstrade.answers import Answers
from relay_crosstrade.blotter import Blotter
from relay_crosstrade.calls import COMMANDS, ORDERS, TIMES_IN_FORCE, Writing, rpc
from relay_crosstrade.positions import Positions
from relay_crosstrade.questions import SWEEP, Questions
from relay_crosstrade.reading import parts, quote

_of_limits = re.compile(r"(?!.*(session|elsewhere)).*(rate|limit|violation|abuse)", re.IGNORECASE).match


class CrossTrade(Adapter):
    name = "crosstrade"
    credentials = ("key",)
    options = (
        Option("account", about="NinjaTrader's name of the configured account; empty: they have the same name"),
        Option("pnl_interval", "1000", about="milliseconds between two profit updates, 1000 to 60000"),
        Option("time_in_force", "DAY", choices=TIMES_IN_FORCE,
               about="of an order without one, because CrossTrade requires one"),
    )  # fmt: skip
    offers = (Offer(kind="quote", example={"symbol": "ES 09-26"}), Offer(kind="account", visibility="presence"))
    commands = COMMANDS
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
        self.writing = Writing(native=self.native, account=self.own, time_in_force=self.option("time_in_force"))
        known = {self.other(self.own)} if self.own else set()
        positions = Positions(self.own, self.symbol, self.other, accounts=known)
        blotter = Blotter.of(context, self.own, self.symbol, self.other)
        self.questions = Questions(every=max(1, SWEEP // self.interval))
        self.answers = Answers(self.writing, positions, blotter, self.questions, self.own if context.account else "")
        self.watch(set())

    @classmethod
    def closed(cls, code: int, reason: str) -> CloseMeaning:
        """1008 takes a session over, or ends one that broke the limits; only the text tells them apart."""
        return CloseMeaning.RATE_LIMITED if code == 1008 and _of_limits(reason) else super().closed(code, reason)

    def encode(self, outgoing: Outgoing) -> Iterable[str]:
        match outgoing:
            case Subscribe(topics):
                yield from self.instruments("subscribe", topics)
                if accounts := {topic for topic in topics if topic.kind == "account"}:
                    self.watch(self.accounts | accounts)
                    self.questions.look(*self.questions.accounts)
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
                yield from (send.text for send in self.answers.reconcile())
            case GivenUp(id):
                self.answers.given_up(id)
            case Command():
                api, args = self.writing.function(outgoing)
                self.answers.awaited(outgoing)
                yield rpc(outgoing.id, api, args)

    def watch(self, accounts: set[Topic]) -> None:
        """These are subscribed: their fills are asked for, and those of the session's own account."""
        self.accounts = accounts
        names = {self.own if topic.account == self.context.account else topic.account for topic in accounts}
        self.questions.accounts = sorted(filter(None, {self.own} | names))

    def instruments(self, action: str, topics: Iterable[Topic]) -> Iterable[str]:
        natives = [self.native(topic.symbol or "") for topic in topics if topic.kind == "quote"]
        if natives:
            yield dumps({"action": action, "instruments": natives})

    def other(self, account: str) -> str | None:
        """The account a message names, where it is not the session's own."""
        return None if self.context.account and account.casefold() == self.own.casefold() else account

    def decode(self, message: str) -> Iterable[Event | Signal]:
        match loads(message):
            case {"type": "marketData", "quotes": [*quotes]}:
                yield from parts(lambda raw: quote(raw, self.symbol), quotes)
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

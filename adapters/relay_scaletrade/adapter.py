"""ScaleTrade, Client API: https://scaletrade.com/client-api/.

Sign-in over REST gives a token for the first frame of the WebSocket. Newer servers answer that frame and want an account
chosen before they push anything of it, older ones say nothing. All answer "ping": the first answer opens the session.
"""

from collections.abc import Hashable, Iterable, Iterator

from attrs import evolve

from relay.adapter import (
    Ack,
    Adapter,
    Answer,
    CloseMeaning,
    CommandReply,
    Complete,
    Context,
    Fetch,
    Header,
    Heartbeat,
    Hello,
    Learned,
    Offer,
    Option,
    Outgoing,
    Ping,
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
from relay.adapter.reading import Members, each, is_zero, jwt_expiry, named, text, unix_time, whole
from relay.limits import BoundedDict
from relay.model.channels import Topic
from relay.model.commands import AmendPosition, Command, ListAccounts, PlaceOrder
from relay.model.events import Error, Event, Position, Quote
from relay_scaletrade import requests, wire
from relay_scaletrade.trades import TRADE, Trades


class ScaleTrade(Adapter):
    name = "scaletrade"
    credentials = ("login", "password")
    options = (
        Option("host", "localhost", about="the broker's domain"),
        Option("ws_port", "443", about="the broker's port of the WebSocket stream"),
        Option("pending_path", "/trade/open/pending",
               about="where pending orders go; older servers take them at /trade/open"),
    )  # fmt: skip
    offers = (
        Offer(kind="quote", example={"symbol": "EURUSD"}),
        Offer(kind="account", visibility="presence",
              events=("account", "order", "position", "notification", "alert", "reply")),
    )  # fmt: skip
    commands = requests.COMMANDS
    orders = requests.ORDERS
    session = Session(
        url="wss://{host}:{ws_port}",
        http="https://{host}",
        http_auth=Header("Authorization", "{token}"),
        ready="signal",
        heartbeat=Heartbeat(every=20, frame=False),
        silent_after=60,
        refusals={**dict.fromkeys((400, 401, 402, 403, 404), CloseMeaning.REFUSED), 429: CloseMeaning.RATE_LIMITED},
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.channels = wire.Channels(native for native, _ in self.symbols)
        self.placed = context.kept.setdefault("placed", BoundedDict(wire.REMEMBERED))
        self.trades = Trades(self.account_symbol, self.placed, context.known)
        self.amended: BoundedDict[str, Position] = BoundedDict(wire.REMEMBERED)  # as they were known before
        self.login: int | None = None
        self.currency: str | None = None
        self.is_newer = False  # the server is of the newer version, which leaves a level alone that it is not told

    def prepare(self) -> Iterable[Fetch]:
        login, password = (self.context.credentials[name] for name in self.credentials)
        asked = {"login": int(login) if login.isdecimal() else login, "password": password}
        yield Fetch(tag="login", method="POST", url="/sign/in", json=asked, authenticated=False)

    def encode(self, outgoing: Outgoing) -> Iterable[str | Fetch]:
        match outgoing:
            case Hello():
                yield from (dumps({"authorization": self.context.learned["token"]}), "ping")
            case Ping():
                yield "ping"
            case Subscribe(topics) | Unsubscribe(topics):  # an account's events are pushed without being asked for
                natives = [self.native(topic.symbol) for topic in topics if topic.symbol]
                yield from self.channels.change(natives, wanted=isinstance(outgoing, Subscribe))
            case Reconcile(since):
                yield Fetch(tag="account", url=requests.ACCOUNT, of="call")
                for kind in requests.OPEN if since is None else (*requests.OPEN, requests.CLOSED_TRADES):
                    yield requests.trades(("trades", kind), kind, since)
            case Command():
                command = self.with_levels(outgoing) if isinstance(outgoing, AmendPosition) else outgoing
                if isinstance(command, PlaceOrder) and command.client_order_id is not None:
                    self.placed[command.client_order_id] = None
                native = None if (symbol := getattr(command, "symbol", None)) is None else self.native(symbol)
                yield requests.request(command, self.login, native, self.option("pending_path"))

    def with_levels(self, command: AmendPosition) -> AmendPosition:
        """Return the command with both levels as last known: older servers need both.

        Behind an amendment they are known again with the position's next record.
        https://scaletrade.com/client-api/rest/trade/ModifyTrade
        """
        held = self.context.known.position(command.position_id)
        if self.is_newer or held is None or is_zero(held.quantity) or self.amended.get(held.id) is held:
            return command
        self.amended[held.id] = held
        stop_loss, take_profit = (command.stop_loss or held.stop_loss, command.take_profit or held.take_profit)
        return evolve(command, stop_loss=stop_loss or "0", take_profit=take_profit or "0")

    def fetched(self, tag: Hashable, answer: Answer) -> Iterable[Event | Signal]:
        match tag:
            case "login":
                profile = loads(answer.text)
                token, self.login, currency = text(profile, "__token"), whole(profile["login"]), profile.get("currency")
                self.currency = currency if isinstance(currency, str) and currency else None
                yield Learned({"token": token}, jwt_expiry(token))
            case Command() as command:
                yield self.in_words(command, requests.reply(command, answer))
            case "account":
                yield wire.balance(loads(answer.text), None, self.currency)
            case ("trades", int() as kind):
                yield from each(requests.rows(answer), self.trade)
                if kind != requests.CLOSED_TRADES:
                    yield Complete("position" if kind == requests.OPEN_TRADES else "order")

    def in_words(self, command: Command, reply: CommandReply) -> CommandReply:
        """Return the reply with what a list or the account says."""
        match command, reply.result:
            case ListAccounts(), dict() as given:
                return evolve(reply, events=tuple(each([given], lambda raw: wire.balance(raw, None, self.currency))))
            case _, {"rows": rows} if isinstance(command, requests.LISTS):
                return evolve(reply, events=tuple(each(rows, self.trade)))
        return reply

    def decode(self, message: str) -> Iterable[Event | Signal]:
        match message if message in ("ping", "pong") else loads(message):
            case "pong":
                yield Ready()  # which the first one says, and the others only that the connection is alive
            case "ping":
                yield Send("pong")
            case ["t", str() as name, bid, ask, ctm, *_]:
                yield Quote(symbol=self.symbol(name), native_symbol=name, bid=bid, ask=ask, time=unix_time(ctm))
            case ["b", *values]:
                given = named(wire.BALANCE, values)
                account = self.other(given)
                yield wire.balance(given, account, None if account else self.currency)
            case ["o", *values]:
                yield from self.trade(named(TRADE, values))
            case ["n", *values]:
                yield wire.notice(values)
            case ["a", *values]:
                given = named(wire.ALERT, values)
                yield wire.alert(given, self.account_symbol, self.other(given))
            case {"event": "authorization", "success": True}:
                self.is_newer = True
                yield Send(dumps({"event": "account.switch", "active_login": self.login}))
                # where the pong was quicker, what was subscribed before this answer may not have counted
                yield from map(Send, self.channels.change(list(self.channels.subscribed.values()), wanted=True))
                yield Ready()
            case {"event": "authorization", "success": False, **rest}:
                error = rest.get("error")  # a token that is no good any more is come back from with a new one
                meaning = CloseMeaning.REFUSED if error == "UNSUPPORTED_SESSION" else CloseMeaning.RETRY
                yield Redial(f"authorization refused: {error}", meaning)
            case {"event": "account.switch", "success": False, **rest}:
                yield Error(code="account.switch", message=str(rest.get("error", "refused")), details=rest)
            case {"event": "account.switch", "success": True}:
                yield Ack((Topic(kind="account", account=self.context.account),))
            case {"error": str() as code, **rest}:
                yield Error(code=code, message=str(rest.get("message", "")), details=rest or None)
            case other:
                yield Unknown(other)

    def trade(self, given: Members) -> Iterator[Event | Signal]:
        return self.trades.read(given, self.other(given))

    def other(self, given: Members) -> str | None:
        """Return the account a message names; None for the session's own."""
        login = whole(given["login"])
        return None if login == self.login else str(login)

    def symbol(self, native: str) -> str:
        return super().symbol(self.channels.spelled(native))

    def account_symbol(self, native: str) -> str:
        return self.symbol(self.channels.hold(native))

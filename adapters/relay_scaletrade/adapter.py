"""ScaleTrade, Client API: https://scaletrade.com/client-api/.

Sign-in over REST gives a token for the first frame of the WebSocket. Newer servers answer that frame and want an account
chosen before they push anything of it, older ones say nothing. All answer "ping": the first answer opens the session.
"""

from collections.abc import Hashable, Iterable

from relay.adapter import (
    Ack,
    Adapter,
    Alive,
    Answer,
    CloseMeaning,
    Context,
    Fetch,
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
from relay.model.channels import Topic
from relay.model.commands import Command
from relay.model.events import Error, Event, Quote
from relay_scaletrade import answers, requests
from relay_scaletrade.account import AccountReader
from relay_scaletrade.channels import Channels
from relay_scaletrade.wire import moment


class ScaleTrade(Adapter):
    name = "scaletrade"
    credentials = ("login", "password")
    options = (
        Option("host", "localhost", about="the broker's domain"),
        Option("ws_port", "443", about="the broker's port of the WebSocket stream"),
        Option("pending_path", requests.PENDING_PATH,
               about="where pending orders go; older servers take them at /trade/open"),
    )  # fmt: skip
    offers = (Offer(kind="quote", example={"symbol": "EURUSD"}), Offer(kind="account", visibility="presence"))
    commands = requests.COMMANDS
    orders = requests.ORDERS
    session = Session(
        url="wss://{host}:{ws_port}",
        http="https://{host}",
        ready="signal",
        heartbeat=Heartbeat(every=20, frame=False),
        silent_after=60,
        refusals={**dict.fromkeys((400, 401, 402, 403, 404), CloseMeaning.REFUSED), 429: CloseMeaning.RATE_LIMITED},
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.channels = Channels.of(native for native, _ in self.symbols)
        placed = context.kept.setdefault("placed", {})
        self.account = AccountReader(lambda native: self.symbol(self.channels.hold(native)), placed)
        self.ready = False

    def prepare(self) -> Iterable[Fetch]:
        yield Fetch(tag="login", method="POST", url="/sign/in", json=requests.sign_in(self.context.credentials))

    def encode(self, outgoing: Outgoing) -> Iterable[str | Fetch]:
        match outgoing:
            case Hello():
                yield from (dumps({"authorization": self.context.learned["token"]}), "ping")
            case Ping():
                yield "ping"
            case Subscribe(topics):  # an account's events are pushed without being asked for
                yield from self.channels.subscribe(self.native(topic.symbol) for topic in topics if topic.symbol)
            case Unsubscribe(topics):
                yield from self.channels.unsubscribe(self.native(topic.symbol) for topic in topics if topic.symbol)
            case Reconcile(since):
                yield self.fetch("account", requests.ACCOUNT)
                yield self.fetch(first := requests.Page(since), first.request())
            case Command():
                command = self.account.asked(outgoing)
                native = None if (symbol := getattr(command, "symbol", None)) is None else self.native(symbol)
                asked = requests.request(command, self.account.login, native, self.option("pending_path"))
                yield self.fetch(("command", command.id, answers.kind(command, asked)), asked)

    def fetch(self, tag: Hashable, asked: requests.Request) -> Fetch:
        headers = {"Authorization": self.context.learned["token"]}
        return Fetch(tag=tag, method=asked.method, url=asked.path, headers=headers, json=asked.body, of="call")

    def fetched(self, tag: Hashable, answer: Answer) -> Iterable[Event | Signal]:
        match tag:
            case "login":
                self.account.signed_in(profile := answers.profile(answer))
                yield Learned({"token": profile["__token"]}, answers.expiry(profile["__token"]))
            case ("command", str(id), str(kind)):
                yield answers.reply(id, kind, answer)
            case "account":
                yield from self.account.profile(answer)
            case requests.Page():
                yield from self.account.listed(tag, answer, self.fetch)

    def decode(self, text: str) -> Iterable[Event | Signal]:
        match text if text in ("ping", "pong") else loads(text):
            case "pong":
                yield Alive() if self.ready else self.opened()
            case "ping":
                yield Send("pong")
            case ["t", str(name), bid, ask, ctm, *_]:
                yield Quote(symbol=self.symbol(name), native_symbol=name, bid=bid, ask=ask, time=moment(ctm))
            case ["b", *values]:
                yield self.account.balance(values)
            case ["o", *values]:
                yield from self.account.trade(values)
            case ["n", *values]:
                yield self.account.notice(values)
            case ["a", *values]:
                yield self.account.alert(values)
            case {"event": "authorization", "success": True}:
                self.account.newer = True
                yield Send(dumps({"event": "account.switch", "active_login": self.account.login}))
                # where the pong was quicker, what was subscribed before this answer may not have counted
                yield from map(Send, self.channels.again())
                yield self.opened()
            case {"event": "authorization", "success": False, **rest}:
                error = rest.get("error")  # a token that is no good any more is come back from with a new one
                meaning = CloseMeaning.REFUSED if error == "UNSUPPORTED_SESSION" else CloseMeaning.RETRY
                yield Redial(f"authorization refused: {error}", meaning)
            case {"event": "account.switch", "success": False, **rest}:
                yield Error(code="account.switch", message=str(rest.get("error", "refused")), details=rest)
            case {"event": "account.switch", "success": True}:
                yield Ack((Topic(kind="account", account=self.context.account),))
            case {"error": str(code), **rest}:
                yield Error(code=code, message=str(rest.get("message", "")), details=rest or None)
            case other:
                yield Unknown(other)

    def opened(self) -> Ready:
        self.ready = True
        return Ready()

    def symbol(self, native: str) -> str:
        return super().symbol(self.channels.spelled(native))

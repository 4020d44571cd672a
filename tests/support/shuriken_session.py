"""A session with the simulated Shuriken without sockets: a relay's whole way in, and everything the simulator can say."""

from collections.abc import Iterable, Iterator
from urllib.parse import urlencode, urlsplit

from relay.adapter import Answer, Context, Fetch, Learned, Ping, Send, Subscribe, Unsubscribe, dumps
from relay.model.channels import Topic
from relay.provider.templates import authenticated
from relay.testing.port import HttpRequest
from relay.testing.recording import Record, Recording
from relay_shuriken.adapter import Shuriken
from relay_shuriken.chain import BASE, BONK, EVM_WALLET, FEED, PROFILE, WALLET, WETH
from relay_shuriken.simulator import KEY, ShurikenSimulator
from support.on_a_line import BEGAN_NS, SECOND, Line, OnALine

OPTIONS = {"profiles": PROFILE, "feeds": FEED}
EVM = f"{BASE}:{WETH}"
ACCOUNT = Topic(kind="account", account="main")
GLOBAL = Topic(kind="signal", symbol="global")
#: Between them, all 21 streams.
TOPICS = (
    GLOBAL, Topic(kind="signal", symbol="creations"), Topic(kind="signal", symbol="graduations"),
    *(Topic(kind=kind, symbol=symbol) for symbol in (BONK, EVM) for kind in ("public_trade", "reference", "signal")),
    Topic(kind="signal", symbol=f"wallet:{WALLET}"), Topic(kind="signal", symbol=f"wallet:{EVM_WALLET}"), ACCOUNT,
)  # fmt: skip
#: Frames of the Pusher protocol as Shuriken's server writes them, and payloads that only one of the two SDKs knows.
PAGE = (
    '{"event":"pusher:connection_established","data":"{\\"socket_id\\":\\"123.456\\",\\"activity_timeout\\":30}"}',
    '{"event":"pusher_internal:subscription_succeeded","channel":"alpha.signalFeedGlobal"}',
    '{"event":"pusher_internal:subscription_succeeded","channel":"presence-notification_u1","data":"{\\"presence\\":{\\"ids\\":[\\"u1\\"],'
    '\\"hash\\":{\\"u1\\":{}},\\"count\\":1}}"}',
    '{"event":"pusher:subscription_error","channel":"presence-alpha-u2","data":{"type":"AuthError","error":"The connection is '
    'unauthorized.","status":401}}',
    '{"event":"pusher_internal:member_added","channel":"presence-notification_u1","data":"{\\"user_id\\":\\"u2\\",\\"user_info\\":{}}"}',
    '{"event":"pusher_internal:member_removed","channel":"presence-notification_u1","data":"{\\"user_id\\":\\"u2\\"}"}',
    '{"event":"pusher:ping","data":{}}',
    '{"event":"pusher:pong","data":{}}',
    '{"event":"update","channel":"presence-automation_u1","data":"{\\"type\\":\\"taskUpdate\\",\\"task_id\\":\\"t1\\",'
    '\\"user_id\\":\\"u1\\"}"}',
    '{"event":"update","channel":"presence-automation_u1","data":{"type":"regionalStats","region":"eu","latency_ms":1.50}}',
    '{"event":"update","channel":"svm.token.swaps.' + BONK + '","data":"{\\"tokenMint\\":\\"' + BONK + '\\",\\"signature\\":\\"s1\\",'
    '\\"slot\\":1,\\"blockTime\\":1700000000,\\"isBuy\\":true,\\"sizeSol\\":\\"1.5\\",\\"sizeUsd\\":\\"200\\",\\"priceUsd\\":\\"0.1\\",'
    '\\"priceSol\\":\\"0.001\\",\\"network\\":\\"sol\\"}"}',
    '{"event":"pusher:error","data":{"code":4001,"message":"App key X does not exist."}}',
)  # fmt: skip


def new_adapter(**options: str) -> Shuriken:
    context = Context(provider="shuriken", account="main", options={**Shuriken.defaults(), **OPTIONS, **options},
                      credentials={"key": KEY})  # fmt: skip
    return Shuriken(context)


class Session(OnALine):
    """An adapter on its line; it does with signals what a relay does."""

    def __init__(self, **settings) -> None:
        super().__init__()
        self.simulator = ShurikenSimulator(interval=0, clock=self.clock, **settings)
        self.adapter = new_adapter()
        self.asked: list[Fetch] = []

    async def open(self) -> "Session":
        for fetch in self.adapter.prepare():
            for item in await self.fetch(fetch):
                if isinstance(item, Learned):
                    self.adapter.context.learned.update(item.values)
        learned = self.adapter.context.learned
        path = f"/app/{learned['app_key']}?protocol=7&client=tickrelay&version=1.0&flash=false"
        self.connect(Line(path), f"{learned['server']}{path}")
        await self.hear()
        return self

    async def fetch(self, fetch: Fetch) -> list:
        self.asked.append(fetch)
        fetch = authenticated(fetch, Shuriken.session, self.adapter.context)
        kind, body = (
            ("application/x-www-form-urlencoded", urlencode(fetch.form))
            if fetch.form
            else ("application/json", dumps(fetch.json))
        )
        request = HttpRequest(method=fetch.method, target=urlsplit(fetch.url).path, body=body.encode(),
                              headers={"host": "127.0.0.1:6010", "content-type": kind, **fetch.headers})  # fmt: skip
        answer = await self.simulator.handle_request(request)
        url = fetch.url if "://" in fetch.url else f"http://127.0.0.1:6010{fetch.url}"
        self.record("http", answer.body, url=url, method="POST", status=answer.status)
        return list(self.adapter.fetched(fetch.tag, Answer(status=answer.status, text=answer.body)))

    async def say(self, outgoing) -> list:
        """Let the adapter write ``outgoing``, and whatever follows from the answers; return all signals and events."""
        items = []
        for writing in self.adapter.encode(outgoing):
            if isinstance(writing, Fetch):
                items += await self.follow(await self.fetch(writing))
            else:
                items += await self.send(writing)
        return items

    async def follow(self, items: Iterable) -> list:
        """Do what signals ask for."""
        done = []
        for item in items:
            done.append(item)
            match item:
                case Send(text):
                    done += await self.send(text)
                case Fetch():
                    done += await self.follow(await self.fetch(item))
        return done

    async def send(self, text: str) -> list:
        self.record("out", text)
        self.simulator.received(self.line, text)
        return await self.hear()

    async def tick(self, steps: int = 1, seconds: float = 0.25) -> list:
        items = []
        for _ in range(steps):
            self.now_ns += int(seconds * SECOND)
            self.simulator.tick()
            items += await self.hear()
        return items

    async def hear(self) -> list:
        items = []
        for text in self.taken():
            items += self.adapter.decode(text)
        return await self.follow(items)


def page_records() -> Iterator[Record]:
    for text in PAGE:
        yield Record(t=BEGAN_NS / SECOND, dir="in", data=text)


async def record() -> list[Record]:
    """The session of the fixture: the frames of the protocol, then all the simulator has to say."""
    session = await Session().open()
    await session.say(Subscribe(TOPICS))
    await session.say(Ping())
    await session.tick(20)
    await session.send('{"event":"client-hello","channel":"presence-alpha-u1","data":{}}')
    await session.say(Unsubscribe(TOPICS[3:]))
    await session.tick()
    until_open = next(n for n, record in enumerate(session.records) if record.dir == "open") + 1
    return [*session.records[:until_open], *page_records(), *session.records[until_open:]]


def resolved(recording: Recording) -> Recording:
    """The recording as one of a connection whose first bootstrap named every channel.

    The conformance kit answers what `prepare` fetches, but not what a subscription does.
    """
    sessions = [record for record in recording.records if record.dir == "http" and record.url.endswith("/session")]
    whole = max(sessions, key=lambda record: len(record.data))
    return Recording((whole, *(record for record in recording.records if record.dir != "http")))

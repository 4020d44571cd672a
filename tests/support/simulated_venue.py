"""A toy venue that takes orders, its adapter, and a relay in front of it."""

from collections.abc import AsyncIterator, Hashable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pluggy
import trio

from relay.adapter import (
    Adapter,
    Answer,
    Backoff,
    CommandReply,
    Fetch,
    Header,
    Heartbeat,
    Offer,
    Outgoing,
    Session,
    Unknown,
    dumps,
    loads,
)
from relay.app import Relay
from relay.model.commands import Call, CancelOrder, ListOrders, PlaceOrder
from relay.model.events import Error, Order
from relay.plugins import hookspecs as hooks
from relay.plugins.hookspecs import hookimpl
from relay.plugins.manager import Plugins
from relay.provider.http import HttpClient
from relay.settings import settings_of
from relay.testing.simulator import Address, HttpRequest, HttpResponse, Link, Simulator
from support.deadlines import WITHIN
from support.running import APP

TOKEN = 'the "token" of the venue'
KEYS = {
    "desk": {"key": "desk-key-of-the-test", "accounts": ["*"], "trade": ["one.*", "two.a", "bare.*"]},
    "all": {"key": "all-key-of-the-test", "trade": ["*"]},
    "reader": {"key": "reader-key-of-the-test", "accounts": ["*"]},
}


class Toy(Adapter):
    """Orders over the WebSocket, cancels over HTTP."""

    name = "toy"
    session = Session(
        url="ws://127.0.0.1:1/",
        http="http://127.0.0.1:1/",
        auth=Header("X-Token", "{token}"),
        heartbeat=Heartbeat(every=None),
        backoff=Backoff(first=0.01, jitter=0, cap=0.01),
    )
    offers = (Offer(kind="account", visibility="presence"),)
    commands = (PlaceOrder, CancelOrder, ListOrders, Call)
    credentials = ("token",)

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self.written = 0

    def encode(self, outgoing: Outgoing) -> Iterable[str | Fetch]:
        match outgoing:
            case PlaceOrder(symbol="BAD"):
                raise ValueError(f"BAD is not traded with {self.context.credentials['token']}")
            case PlaceOrder(id=id):
                self.written += 1
                yield dumps({"place": id, "n": self.written, "symbol": outgoing.symbol, "quantity": outgoing.quantity,
                             "mine": outgoing.client_order_id, "account": outgoing.account, **outgoing.extra})  # fmt: skip
            case CancelOrder(id=id, order_id=order_id):
                token = self.context.credentials["token"]
                yield Fetch(tag=id, method="DELETE", url=f"orders/{order_id}", headers={"X-Token": token},
                            secret_query={"sig": token}, json={"why": token, "size": 1}, of="call")  # fmt: skip
            case ListOrders(id=id):
                yield dumps({"list": id})
            case Call(id=id, function=function, arguments=arguments):
                yield dumps({"call": id, "function": function, "arguments": arguments})

    def decode(self, message: str) -> Iterable[Any]:
        match loads(message):
            case {"ok": str() as id, "result": result}:
                yield CommandReply(id, result=result)
            case {"no": str() as id, "why": why}:
                yield CommandReply(id, error={"code": why})
            case {"order": order}:
                yield Order(**order)
            case {"failed": str() as code, "text": text}:
                yield Error(code=code, message=text, details={"text": text})
            case other:
                yield Unknown(other)

    def fetched(self, tag: Hashable, answer: Answer) -> Iterable[Any]:
        yield CommandReply(str(tag), result=answer.text) if answer.ok else CommandReply(str(tag), error=answer.text)


class Venue(Simulator):
    """A venue whose treatment of an order is written in the order's symbol."""

    def __init__(self) -> None:
        super().__init__()
        self.placed: list[dict[str, Any]] = []
        self.owed: list[str] = []
        self.came = trio.Event()

    def opened(self, link: Link) -> None:
        for mine in self.owed:
            self.tell(link, mine)
        self.owed.clear()

    def tell(self, link: Link, mine: str, status: str = "OPEN") -> None:
        order = {
            "event": "ORDER_CREATED",
            "status": status,
            "id": f"o-{mine}",
            "client_order_id": mine,
            "symbol": "S",
            "side": "BUY",
        }
        link.send(dumps({"order": order}))

    def received(self, link: Link, message: str | bytes) -> None:
        match loads(message):
            case {"place": id, "symbol": symbol, "mine": mine} as order:
                self.placed.append(order)
                self.came.set()
                match symbol:
                    case "FINE":
                        link.send(dumps({"ok": id, "result": {"order_id": f"o{len(self.placed)}"}}))
                    case "POOR":
                        link.send(dumps({"no": id, "why": "margin"}))
                    case "DROP":
                        self.owed.append(mine)
                        link.drop()
                    case "SHOWN":
                        self.tell(link, mine)
            case {"list": id}:
                link.send(
                    dumps({"ok": id, "result": [{"order_id": "o1", "size": "1.50"}, {"order_id": "o2", "side": "BUY"}]})
                )
            case {"call": id, "arguments": arguments}:
                link.send(dumps({"ok": id, "result": arguments}))

    async def answer(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse(status=int(request.target.partition("/orders/")[2][:3]), body="{}")


class ToyPlugin:
    @hookimpl
    def relay_adapters(self) -> Iterable[type[Adapter]]:
        return [Toy]


def toy_plugins() -> Plugins:
    manager = pluggy.PluginManager(hooks.PROJECT)
    manager.add_hookspecs(hooks)
    manager.register(ToyPlugin(), "toy")
    return Plugins(manager)


def document(address: Address, **tables: Any) -> dict[str, Any]:
    """Providers `one` (one account), `two` (two) and `bare` (none named)."""
    toy = {"adapter": "toy", "url": address.ws, "http_url": address.http}
    account = {"credentials": {"token": TOKEN}}
    return {
        "allow_inline_secrets": True,
        "server": {"listen": "127.0.0.1:0", "status_public": True},
        "apps": {"main": {**APP, "client_events": True}},
        "api_keys": KEYS,
        "providers": {
            "one": {**toy, "accounts": {"main": account}},
            "two": {**toy, "accounts": {"a": account, "b": account}},
            "bare": {**toy, **account},
        },
        **tables,
    }


class Desk:
    """A relay, its venue, and a client of its HTTP interface."""

    def __init__(self, relay: Relay, venue: Venue, http: httpx.AsyncClient) -> None:
        self.relay, self.venue, self.http = relay, venue, http

    async def post(self, key: str | None = None, /, *, by: str = "desk", **members: Any) -> httpx.Response:
        """A command, by default an order, by an API key; ``key`` is the idempotency key."""
        order = {
            "provider": "one",
            "command": "place_order",
            "symbol": "FINE",
            "side": "BUY",
            "order_type": "MARKET",
            "quantity": "1",
        }
        wire = order if "command" not in members else {"provider": "one"}
        headers = bearer(by) | ({} if key is None else {"Idempotency-Key": key})
        wire = {name: value for name, value in {**wire, **members}.items() if value is not ...}
        return await self.http.post("/api/v2/commands", json=wire, headers=headers)

    async def connected(self) -> None:
        """Wait until every session is up."""
        with trio.fail_after(WITHIN):
            while any(status["state"] != "up" for status in self.relay.providers.statuses()):
                await trio.sleep(0.005)


def bearer(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {KEYS[name]['key']}"}


@asynccontextmanager
async def trading(**tables: Any) -> AsyncIterator[Desk]:
    """A relay whose sessions with the venue are up, for the length of the block."""
    venue = Venue()
    async with venue.serve() as address, HttpClient() as http, trio.open_nursery() as nursery:
        plugins = toy_plugins()
        settings = settings_of(document(address, **tables), Path("test"), {}, plugins.adapters(), Path.read_text)
        relay = Relay(settings, plugins, http)
        await nursery.start(relay.run)
        host, port = relay.addresses[0]
        async with httpx.AsyncClient(base_url=f"http://{host}:{port}", timeout=WITHIN) as client:
            desk = Desk(relay, venue, client)
            await desk.connected()
            yield desk
        relay.stop()

"""The client against a running relay, on trio and on asyncio."""

import errno
import runpy
import ssl
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest
from trio.testing import MockClock

from relay.client import (
    AccountView,
    Client,
    ClosedByRelay,
    Notice,
    OrderBook,
    RefusedByRelay,
    RelayUnreachable,
    SubscriptionRefused,
    Update,
    Updates,
    ViewUpdates,
)
from relay.client.api import unreachable
from relay.client.feed import Feed
from relay.client.websocket import ConnectionLost
from relay.model.enums import AccountEvent, OrderEvent, OrderStatus, Outcome, Side
from relay.model.events import Account, Depth, Event, Order, Quote, Staleness
from relay.pusher.client import ChannelMessage, ClientConnection, PositionReached, Subscribed
from relay.pusher.messages import ResumePosition
from relay.testing.faults import Corrupt, FaultProxy, Stall
from support.deadlines import WITHIN
from support.shared_relay import KEYS, SharedRelay, shared_relay

QUOTE = "quote.synthetic.BTC-USD"


@pytest.fixture(scope="module")
def relay() -> Iterator[SharedRelay]:
    with shared_relay() as relay:
        yield relay


@pytest.fixture(params=["trio", "asyncio"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def run(backend: str, scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        with anyio.fail_after(WITHIN):
            await scenario()

    anyio.run(bounded, backend=backend)


def client(relay: SharedRelay, key: str = "main", **more: object) -> Client:
    return Client(relay.url, api_key=KEYS[key]["key"], **more)  # type: ignore[arg-type]


async def take(updates: object, count: int) -> list[Update]:
    return [await anext(updates) for _ in range(count)]  # type: ignore[call-overload]


def test_events_are_typed_and_in_order(relay: SharedRelay, backend: str) -> None:
    async def scenario() -> None:
        async with client(relay) as it, it.subscribe(QUOTE) as updates:
            found = await take(updates, 5)
        assert all(isinstance(each.event, Quote) and each.event.symbol == "BTC/USD" for each in found)
        first = found[0].seq
        assert first is not None
        assert [each.seq for each in found] == list(range(first, first + 5))
        assert {each.stamp.provider for each in found if each.stamp} == {"synthetic"}

    run(backend, scenario)


def test_a_lost_connection_is_resumed_without_a_hole(relay: SharedRelay, backend: str) -> None:
    notices: list[Notice] = []

    async def scenario() -> None:
        async with client(relay, on_notice=notices.append) as it, it.subscribe(QUOTE) as updates:
            before = await take(updates, 3)
            await anyio.to_thread.run_sync(relay.close_connections)
            after = await take(updates, 1)
            while "resumed" not in [each.what for each in notices] or len(after) < 3:
                after += await take(updates, 1)
        numbers = [each.seq for each in before + after]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))  # type: ignore[operator, arg-type]
        assert {each.missed for each in after} == {None}

    run(backend, scenario)
    assert [each.what for each in notices].count("resumed") == 1


def test_an_event_that_was_damaged_on_the_way_is_resumed(relay: SharedRelay) -> None:
    notices: list[Notice] = []

    async def scenario() -> None:
        async with (
            FaultProxy(relay.port).serve() as line,
            Client(f"http://127.0.0.1:{line.port}", api_key=KEYS["main"]["key"], on_notice=notices.append) as it,
            it.subscribe(QUOTE) as updates,
        ):
            found = await take(updates, 3)
            line.inject(Corrupt("text"))
            while "resumed" not in [each.what for each in notices]:
                found += await take(updates, 1)
            found += await take(updates, 3)
        numbers = [each.seq for each in found]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))  # type: ignore[operator, arg-type]
        assert {each.missed for each in found} == {None}

    run("trio", scenario)


class CutOff(Client):
    """A client whose connection is lost behind the third update of its first one."""

    async def _deliver(self, signal: object) -> None:
        is_update = isinstance(signal, ChannelMessage)
        self.delivered = getattr(self, "delivered", 0) + is_update
        if is_update and self.delivered == 4:
            raise ConnectionLost(None, "cut off")
        await super()._deliver(signal)


def test_a_rewind_that_is_cut_off_is_asked_for_again(relay: SharedRelay, backend: str) -> None:
    notices: list[Notice] = []

    async def scenario() -> None:
        async with client(relay) as first, first.subscribe(QUOTE) as updates:
            await take(updates, 4)  # there is something to rewind
        it = CutOff(relay.url, api_key=KEYS["main"]["key"], on_notice=notices.append)
        async with it, it.subscribe(QUOTE, rewind=1000) as updates:
            found = await take(updates, 3)
            while it._feed._channels[QUOTE].position is None or len(found) < 4:
                found += await take(updates, 1)
        numbers = [each.seq for each in found]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))  # type: ignore[operator, arg-type]
        assert {each.missed for each in found} == {None}

    run(backend, scenario)
    assert [each.what for each in notices].count("subscribed") == 2


def test_what_a_rewind_asked_for_again_no_longer_has_is_told() -> None:
    feed, machine = Feed(), ClientConnection("k", 0.0)
    feed.add("room", 2)

    def take(*ids: str) -> list[tuple[str | None, str | None]]:
        told = feed.take(Subscribed("room", None, None))
        assert told == Notice("subscribed", "room")
        found = [feed.take(ChannelMessage("room", "said", '""', id=id, seq=int(id))) for id in ids]
        return [(each.id, each.missed) for each in found if isinstance(each, Update)]

    assert '"rewind":2' in feed.subscribe(machine, "room", None, None)
    assert take("1", "2") == [("1", None), ("2", None)]
    assert '"rewind":2' in feed.subscribe(machine, "room", None, None)
    assert take("2", "3") == [("3", None)]
    assert '"rewind":2' in feed.subscribe(machine, "room", None, None)
    assert take("8", "9") == [("8", "position_unknown"), ("9", None)]
    assert feed.take(PositionReached("room", ResumePosition("e", 9))) is None
    again = feed.subscribe(machine, "room", None, None)
    assert "rewind" not in again
    assert '"after_seq":9' in again or '"seq":9' in again


def test_what_cannot_be_resumed_is_told_with_the_next_update(relay: SharedRelay) -> None:
    async def scenario() -> None:
        async with client(relay) as it, it.subscribe(QUOTE) as updates:
            await take(updates, 1)
            held = it._feed._channels[QUOTE]
            assert held.position is not None
            held.position = type(held.position)("another-epoch", held.position.seq)
            await anyio.to_thread.run_sync(relay.close_connections)
            while (update := await anext(updates)).missed is None:
                pass
            assert update.missed == "epoch_changed"

    run("trio", scenario)


def test_a_book_is_whole(relay: SharedRelay, backend: str) -> None:
    async def scenario() -> None:
        async with client(relay) as it, it.book("depth.synthetic.BTC-USD") as books:
            for _ in range(5):
                book = await anext(books)
                assert book.is_valid
                bids, asks = book.bids(), book.asks()
                assert float(bids[0][0]) < float(asks[0][0])
                assert [float(price) for price, _ in bids] == sorted((float(price) for price, _ in bids), reverse=True)

    run(backend, scenario)


def test_a_book_survives_silence_and_is_empty_after_a_loss() -> None:
    book = OrderBook()

    def take(event: Event, seq: int, missed: str | None = None) -> None:
        book.take(Update(channel="depth.a.B", name=event.kind, event=event, seq=seq, missed=missed))

    def depth(bid: str, *, snapshot: bool = False) -> Depth:
        return Depth(symbol="B", bids=[(bid, "1")], asks=[], snapshot=snapshot)

    take(depth("10", snapshot=True), 1)
    take(Staleness(event="STALE", symbols=["B"], reason="silent"), 2)
    assert (book.is_valid, book.stale) == (True, "silent")
    take(Staleness(event="FRESH", symbols=["B"]), 4)
    take(depth("11"), 5)
    assert (book.is_valid, book.stale, book.bids()) == (True, None, [("11", "1"), ("10", "1")])
    take(Staleness(event="STALE", symbols=["B"]), 9, missed="position_expired")
    take(depth("12"), 10)
    assert (book.is_valid, book.bids()) == (False, [])
    take(depth("9", snapshot=True), 11)
    assert book.bids() == [("9", "1")]


def test_a_view_says_from_the_loss_of_the_connection_to_its_end_that_it_is_stale(relay: SharedRelay) -> None:
    async def scenario() -> None:
        async with (
            FaultProxy(relay.port).serve() as line,
            Client(f"http://127.0.0.1:{line.port}", api_key=KEYS["main"]["key"]) as it,
            it.book("depth.synthetic.BTC-USD") as books,
            it.account("helio", "main") as accounts,
        ):
            await it.caught_up()
            book, account = await anext(books), await anext(accounts)
            assert (book.is_valid, book.stale, account.stale, account.stale_since) == (True, None, None, None)
            line.down()
            while it.is_connected:
                await anyio.lowlevel.checkpoint()
            # Before anything is read, and then once to whoever waits.
            assert "not connected to the relay" in str(book.stale)
            assert str(account.stale).startswith("not connected to the relay")
            assert datetime.fromisoformat(str(account.stale_since)) <= datetime.now(UTC)
            while accounts._updates.waiting:
                await anext(accounts)
            assert (await anext(books)).stale is not None
            assert book.bids() != []
            line.up()
            while (await anext(books)).stale is not None:
                pass
            while (await anext(accounts)).stale is not None:
                pass
            assert book.is_valid
            assert (book.stale_since, account.stale_since) == (None, None)

    run("trio", scenario)


def test_a_view_is_given_out_once_for_a_loss_although_no_update_comes(relay: SharedRelay) -> None:
    async def scenario() -> None:
        async with (
            FaultProxy(relay.port).serve() as line,
            Client(f"http://127.0.0.1:{line.port}", api_key=KEYS["main"]["key"]) as it,
            it.account("helio", "main") as accounts,
        ):
            await it.caught_up()
            account = await anext(accounts)
            while accounts._updates.waiting:
                await anext(accounts)
            orders = dict(account.orders)
            line.down()
            while (await anext(accounts)).stale is None:
                pass
            assert account.orders == orders
            while accounts._updates.waiting:
                await anext(accounts)
            assert not accounts._updates._loss_is_news
            line.up()
            while (await anext(accounts)).stale is not None:
                pass

    run("trio", scenario)


def test_a_view_says_that_a_line_has_gone_silent(relay: SharedRelay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.client.client._SILENCE", 0.3)
    monkeypatch.setattr("relay.client.client._ANSWER", 0.3)
    notices: list[Notice] = []

    async def scenario() -> None:
        async with (
            FaultProxy(relay.port).serve() as line,
            Client(f"http://127.0.0.1:{line.port}", api_key=KEYS["main"]["key"], on_notice=notices.append) as it,
            it.book("depth.synthetic.BTC-USD") as books,
        ):
            while (await anext(books)).stale is not None:
                pass
            line.inject(Stall())  # both sides believe that the connection is open
            while (await anext(books)).stale is None:
                pass
            while (await anext(books)).stale is not None:
                pass

    run("trio", scenario)
    assert "disconnected" in [each.what for each in notices]


def test_a_view_is_told_anew_where_the_relay_cannot_resume(relay: SharedRelay) -> None:
    async def scenario() -> None:
        async with client(relay) as it, it.account("helio", "main") as accounts:
            await it.caught_up()
            account = await anext(accounts)
            held = it._feed._channels["private-account.helio.main"]
            assert held.position is not None
            held.position = type(held.position)("another-epoch", held.position.seq)
            account.orders["gone"] = Order(
                event=OrderEvent.ORDER_CREATED, id="gone", symbol="A", side=Side.BUY, status=OrderStatus.OPEN
            )
            await anyio.to_thread.run_sync(relay.close_connections)
            while (await anext(accounts)).stale is None:
                pass
            while (await anext(accounts)).stale is not None:
                pass
            assert "gone" not in account.orders
            assert account.account is not None  # the whole state came before

    run("trio", scenario)


def test_a_loss_behind_a_resumption_that_was_not_read_yet_stands() -> None:
    async def scenario() -> None:
        updates = Updates(["depth.a.B"], partial=False)
        views = ViewUpdates(updates, {"depth.a.B": OrderBook()})
        updates._lose(updates.channels, "first", "2026-01-02T03:04:05Z")
        updates._regain("depth.a.B")
        updates._lose(updates.channels, "second", "2026-01-02T03:04:06Z")
        assert (await anext(views)).stale == "first"
        updates._regain("depth.a.B")
        assert (await anext(views)).stale is None
        assert updates.waiting == 0

    run("trio", scenario)


def test_a_view_stays_stale_where_the_relay_said_so_before_the_loss() -> None:
    book = OrderBook()
    stale = Staleness(event="STALE", symbols=["B"], reason="silent", stale_since="2026-01-02T03:04:05Z")
    book.take(Update(channel="depth.a.B", name="staleness", event=stale))
    book.lose("lost")
    assert (book.stale, book.stale_since) == ("lost", None)
    book.found()
    assert (book.stale, book.stale_since) == ("silent", "2026-01-02T03:04:05Z")
    book.forget()
    assert book.stale is None


def test_an_account_has_the_last_told_value_of_each_figure() -> None:
    view = AccountView("helio", "main")

    def told(event: str | None, missed: str | None = None, **figures: Any) -> Account:
        account = Account(event=event, **figures)
        view.take(Update(channel="private-account.helio.main", name=account.kind, event=account, missed=missed))
        assert view.account is not None
        return view.account

    told("MARGIN_CALL", balance="1000.50", currency="USD", margin_call=True, data={"of": "the first"})
    told("METRICS_UPDATED", equity="990", margin_call=False)
    known = told("BALANCE_UPDATED", balance="0", data={"of": "the third"})
    assert (known.balance, known.equity, known.currency, known.margin_call) == ("0", "990", "USD", False)
    assert known.event is AccountEvent.BALANCE_UPDATED
    nameless = told(None, timestamp="2026-01-02T03:04:05Z")
    assert (nameless.event, nameless.data, nameless.balance) == (None, None, "0")  # these are of a message
    anew = told("METRICS_UPDATED", missed="position_unknown", equity="991")
    assert anew.balance is None


def test_an_order_is_placed_and_seen_on_the_account(relay: SharedRelay, backend: str) -> None:
    async def scenario() -> None:
        async with client(relay) as it, it.account("helio", "main") as views:
            await it.caught_up()
            order = {"provider": "helio", "account": "main", "symbol": "EUR/USD", "side": "BUY", "quantity": "1000"}
            placed = await it.place_order(**order, limit_price="0.5", client_order_id=f"mine-{backend}")
            assert placed.reply is not None
            assert placed.reply.outcome is Outcome.ACCEPTED
            id = placed.reply.result["order_id"]
            view = views.view
            while id not in view.orders:
                view = await anext(views)
            assert Decimal(view.orders[id].limit_price or 0) == Decimal("0.5")
            assert view.account is not None
            again = await it.place_order(**order, limit_price="0.5", client_order_id=f"mine-{backend}")
            assert again.replayed
            await it.cancel_order(provider="helio", account="main", order_id=id)
            while id in view.orders:
                view = await anext(views)

    run(backend, scenario)


def test_a_refused_channel_raises_with_the_grant_that_is_missing(relay: SharedRelay, backend: str) -> None:
    async def scenario() -> None:
        async with client(relay, "reader") as it:
            with pytest.raises(SubscriptionRefused, match=r'accounts = \["helio.main"\]'):
                async with it.subscribe("account.helio.main"):
                    pass
            with pytest.raises(SubscriptionRefused, match="no provider is named nope") as refused:
                async with it.subscribe("quote.nope.X"):
                    pass
            assert str(refused.value).count("quote.nope.X") == 1
            with pytest.raises(SubscriptionRefused, match="written -: quote.synthetic.BTC-USD"):
                async with it.subscribe("quote.synthetic.BTC/USD"):
                    pass
            async with it.subscribe("account.helio.main", QUOTE, partial=True) as updates:
                assert list(updates.refused) == ["private-account.helio.main"]
                assert (await anext(updates)).channel == QUOTE
            with pytest.raises(RefusedByRelay, match="trade"):
                await it.cancel_order(provider="helio", order_id="x")

    run(backend, scenario)


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"url": "http://127.0.0.1:1"}, RelayUnreachable, "connection refused; is `tickrelay serve` running"),
        ({"api_key": "wrong"}, RefusedByRelay, "the API key is not valid"),
        ({"app_key": "nope"}, ClosedByRelay, "4001"),
    ],
)
def test_a_relay_that_cannot_be_used_raises_at_once(
    relay: SharedRelay, backend: str, changes: dict[str, str], error: type[Exception], text: str
) -> None:
    async def scenario() -> None:
        given = {"url": relay.url, "api_key": KEYS["main"]["key"], **changes}
        async with Client(**given) as it:  # type: ignore[arg-type]
            with pytest.raises(error, match=text):
                async with it.subscribe(QUOTE):
                    pass

    run(backend, scenario)


def test_the_blocks_own_exception_is_not_put_into_a_group(relay: SharedRelay, backend: str) -> None:
    async def scenario() -> None:
        with pytest.raises(KeyError):
            async with client(relay) as it, it.subscribe(QUOTE):
                raise KeyError("mine")

    run(backend, scenario)


def test_the_example_of_the_documentation_runs(
    relay: SharedRelay, backend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    example = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "clients" / "watch.py"))["main"]
    run(backend, lambda: example(relay.url, KEYS["main"]["key"]))
    out = capsys.readouterr().out
    assert "cache-quote.synthetic.BTC-USD 6" in out
    assert "accepted" in out
    assert "open orders, equity" in out
    assert "cancelled accepted" in out


class Flapping(Client):
    """A client whose connections last as long as a test says; on a clock that jumps."""

    def __init__(self, *lasts: float) -> None:
        super().__init__(wait_for_relay=True)
        self.lasts = list(lasts)
        self.waits: list[float] = []

    async def _connect(self) -> None:
        if not self.lasts:
            await anyio.sleep_forever()
        self.is_connected, self._connected_at = True, anyio.current_time()
        await anyio.sleep(self.lasts.pop(0))
        raise ConnectionLost(None, "cut off")

    async def _wait(self, seconds: float, *, wakes: bool) -> None:
        before = anyio.current_time()
        await super()._wait(seconds, wakes=wakes)
        self.waits.append(anyio.current_time() - before)


def on_a_clock_that_jumps(scenario: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await scenario()

    anyio.run(main, backend="trio", backend_options={"clock": MockClock(autojump_threshold=0)})


def test_the_waits_grow_to_a_cap_and_begin_anew_behind_a_connection_that_held() -> None:
    async def scenario() -> None:
        async with Flapping(0, 1, 1, 1, 1, 1, 6, 1) as it:
            it._start()
            await anyio.sleep(100)
            bounds = [(0.5, 1), (1, 2), (2, 4), (2.5, 5), (2.5, 5), (2.5, 5), (0.5, 1), (1, 2)]
            assert len(it.waits) == len(bounds)
            for wait, (least, most) in zip(it.waits, bounds, strict=True):
                assert least - 1e-6 <= wait <= most + 1e-6

    on_a_clock_that_jumps(scenario)


def test_an_answer_over_http_ends_the_wait() -> None:
    async def scenario() -> None:
        async with Flapping(0, 0, 0, 0) as it:
            it._start()
            with anyio.move_on_after(100):
                while True:
                    await anyio.sleep(0.1)
                    it.http._on_answer()
            assert len(it.waits) == 4
            assert all(0.5 - 1e-6 <= wait <= 0.6 + 1e-6 for wait in it.waits)

    on_a_clock_that_jumps(scenario)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ssl.SSLCertVerificationError(1, "certificate verify failed"), "the certificate is not trusted"),
        (ssl.SSLError(1, "WRONG_VERSION_NUMBER"), "TLS failed"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "x"), "connection refused"),
    ],
)
def test_an_error_of_tls_is_named_and_not_taken_for_one_of_the_system(error: OSError, said: str) -> None:
    if isinstance(error, ssl.SSLCertVerificationError):
        error.verify_message = "unable to get local issuer certificate"
    outer = httpx.ConnectError("failed")
    outer.__cause__ = error
    text = unreachable("https://relay.example.com", outer)
    assert said in text
    assert "not permitted" not in text

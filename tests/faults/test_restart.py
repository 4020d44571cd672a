"""The relay's process is killed with SIGKILL and started again: its subscribers come back by themselves, and end up right."""

import signal
from decimal import Decimal
from pathlib import Path

import pytest
import trio

from relay.model.enums import OrderType, Side
from relay.testing.account import Ticket
from relay_helio.simulator import EMAIL, PASSWORD, HelioSimulator
from relay_synthetic.simulator import SyntheticSimulator
from support.app_server import app_server
from support.deadlines import WITHIN
from support.process import serving
from support.pusherjs import pusher_js
from support.running import APP

pytestmark = pytest.mark.node

QUOTE, DEPTH, ACCOUNT = "quote.venue.BTC-USD", "depth.venue.BTC-USD", "private-account.broker.main"
CONFIGURATION = f"""
allow_inline_secrets = true
[server]
listen = "127.0.0.1:{{port}}"
[apps.main]
id = "{APP["id"]}"
key = "{APP["key"]}"
secret = "{APP["secret"]}"
accounts = ["broker.*"]
[providers.venue]
adapter = "synthetic"
url = "VENUE"
[providers.broker]
adapter = "helio"
url = "BROKER_WS"
http_url = "BROKER_HTTP"
symbols = {{ EURUSD = "EUR/USD", GBPUSD = "GBP/USD", XAUUSD = "XAU/USD" }}
options = {{ portfolio = "whole" }}
pinned = ["quote EUR/USD"]
accounts.main.credentials = {{ email = "{EMAIL}", password = "{PASSWORD}" }}
"""


def positions(client, since):
    """Positions a page holds that forgets, when it has to connect anew, what it held: ``since`` lines ago it did."""
    held = {}
    for line in client.lines[since:]:
        if line["on"] == "event" and line["channel"] == ACCOUNT and line["event"] == "position":
            event = line["data"]
            if event["event"] == "POSITION_CLOSED":
                held.pop(event["position"]["id"], None)
            else:
                held[event["position"]["id"]] = Decimal(event["position"]["quantity"])
    return held


def true_positions(broker):
    return {
        p.id: Decimal(broker.market.instrument(p.symbol).size_text(p.quantity))
        for p in broker.account.positions.values()
    }


def levels(side):
    return {Decimal(price): Decimal(size) for price, size in side}


def true_book(venue):
    book, instrument = venue.market.book("BTC/USD"), venue.market.instrument("BTC/USD")
    return tuple(
        {Decimal(instrument.price_text(price)): Decimal(instrument.size_text(size)) for price, size in side}
        for side in (book.bids, book.asks)
    )


async def agrees(client, venue, broker, since):
    """Wait until the page's book and positions are the simulators'."""
    book = account = None
    with trio.move_on_after(WITHIN):
        while True:
            books = (await client.ask("books"))["books"].get("venue BTC/USD")
            book = books and (levels(books["bids"]), levels(books["asks"]))
            account = positions(client, since)
            if book == true_book(venue) and account == true_positions(broker):
                return
            await trio.sleep(0.1)
    assert book == true_book(venue)
    assert account == true_positions(broker)


async def test_sigkill_and_restart(tmp_path: Path) -> None:
    venue, broker = SyntheticSimulator(rate=20), HelioSimulator(interval=0.1)
    buy = Ticket(symbol="EURUSD", side=Side.BUY, quantity=10_000, order_type=OrderType.MARKET)
    async with venue.serve() as at, broker.serve() as broker_at, app_server() as server, pusher_js() as client:
        text = (
            CONFIGURATION.replace("VENUE", at.ws)
            .replace("BROKER_WS", broker_at.ws)
            .replace("BROKER_HTTP", broker_at.http)
        )
        broker.account.place(buy, broker.market.now_ns)
        async with serving(tmp_path, text) as (process, port):
            await client.connect(port, APP["key"], **server.options("ada"))
            await client.subscribe(QUOTE, DEPTH, ACCOUNT)
            await client.event(DEPTH, "depth")
            await client.event(ACCOUNT, "position")
            process.send_signal(signal.SIGKILL)
            assert await process.wait() == -signal.SIGKILL
        since = len(client.lines)
        await client.wait(lambda line: line["on"] == "state" and line["current"] in ("connecting", "unavailable"))
        now_ns = broker.market.now_ns  # while nobody looks: one position closes, another one opens
        (held,) = broker.account.positions.values()
        broker.account.close(held.id, now_ns)
        broker.account.place(
            Ticket(symbol="XAUUSD", side=Side.SELL, quantity=100_000, order_type=OrderType.MARKET), now_ns
        )
        async with serving(tmp_path, text, port):
            await client.connected(times=2)
            await client.nth(
                lambda line: (
                    line.get("channel") == DEPTH and line.get("event") == "depth" and line["data"]["depth"]["snapshot"]
                ),
                2,
            )
            venue._rate = 0
            await agrees(client, venue, broker, since)
    snapshots = [event["depth"]["snapshot"] for event in client.events(DEPTH, "depth")]
    assert snapshots[0]
    assert snapshots.count(True) >= 2
    assert [line for line in client.lines if line["on"] == "error" and "before a snapshot" in str(line["error"])] == []

"""The typed client (`relay/web/tickrelay.js`): its example is compiled by TypeScript, and run in Node.js against a relay."""

import json
import os
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import tools
from support.deadlines import WITHIN
from support.matrix import ROOT
from support.shared_relay import KEYS, SharedRelay, shared_relay

TYPESCRIPT = tools.NODE_DIR / "node_modules" / "typescript" / "bin" / "tsc"
OPTIONS = {
    "strict": True, "target": "es2022", "lib": ["es2022", "dom"], "module": "esnext", "moduleResolution": "bundler",
    "types": [], "outDir": "compiled",
}  # fmt: skip
#: Mistakes: TypeScript fails where one of them is none.
MISTAKES = """
import { channels, connect, type OrderMessage } from "./tickrelay.js";
declare const Pusher: new (key: string, options: unknown) => { state: string };
const relay = await connect(Pusher, { url: "", apiKey: "" });
// @ts-expect-error: a quote's channel has no orders
relay.subscribe(channels.quote("a", "B"), { order: () => {} });
// @ts-expect-error: an order has no such member
relay.subscribe("private-account.a.b", { order: (message: OrderMessage) => message.order.sid });
// @ts-expect-error: there is no such side
relay.command({ command: "place_order", provider: "a", symbol: "B", side: "BUI", order_type: "MARKET", quantity: "1" });
// @ts-expect-error: prices and quantities are text
relay.command({ command: "place_order", provider: "a", symbol: "B", side: "BUY", order_type: "MARKET", quantity: 1 });
// @ts-expect-error: an order is needed
relay.command({ command: "cancel_order", provider: "a" });
// @ts-expect-error: a quote's channel has no book
relay.book("quote.a.B", () => {});
"""
#: Two books of one channel, the second begun later; and one that comes too late. A connection that is none is enough.
BOOKS = """
import { Relay } from "./tickrelay.js";
const bound = {};
const channel = { subscribed: true, bind: (name, f) => (bound[name] ??= new Set()).add(f), unbind: (name, f) => bound[name].delete(f) };
const known = new Map();
const log = [];
const pusher = {
  connection: { bind() {}, state: "connecting" },
  channel: (name) => known.get(name),
  subscribe: (name) => (log.push(`subscribe ${name}`), known.set(name, channel), channel),
  unsubscribe: (name) => (log.push(`unsubscribe ${name}`), known.delete(name)),
};
const relay = new Relay(pusher, { url: "", apiKey: "" });
const one = relay.book("depth.a.B", (book) => log.push(`one ${book.bids(1)}`));
bound.depth.forEach((f) => f({ type: "depth", depth: { symbol: "B", snapshot: true, bids: [["1", "2"]], asks: [] } }));
const two = relay.book("depth.a.B", (book) => log.push(`two ${book.bids(1)}`));
await null;
one.unsubscribe();
one.unsubscribe();
bound.depth.forEach((f) => f({ type: "depth", depth: { symbol: "B", snapshot: false, bids: [["3", "4"]], asks: [] } }));
two.unsubscribe();
relay.subscribe("depth.a.B", { depth() {} });
try { relay.book("depth.a.B", () => {}); } catch (error) { log.push(error.message); }
console.log(JSON.stringify(log));
"""
#: A line to the relay that is cut and mended, a book and an account on it, and what they are told; `argv[2]`: the relay's port.
CUT = """
import net from "node:net";
import Pusher from "pusher-js";
import { channels, connect } from "./tickrelay.js";
const sockets = new Set();
const line = net.createServer((near) => {
  const far = net.connect(Number(process.argv[2]), "127.0.0.1");
  for (const [one, other] of [[near, far], [far, near]]) {
    sockets.add(one);
    one.on("error", () => other.destroy()).on("close", () => { sockets.delete(one); other.destroy(); });
    one.pipe(other);
  }
});
const opened = (port) => new Promise((ready) => line.listen(port, "127.0.0.1", ready));
await opened(0);
const { port } = line.address();
const relay = await connect(Pusher, { url: `http://127.0.0.1:${port}`, apiKey: process.argv[3] });
const told = [];
const account = new Promise((back) => relay.subscribe(channels.account("helio", "main"), {
  lost: ({ reason, since }) => told.push(["lost", reason, since <= new Date().toISOString()]),
  regained: () => { told.push(["regained"]); back(); },
}));
let changed = () => {};
const { book } = relay.book(channels.depth("synthetic", "BTC/USD"), (book) => changed(book));
const until = (holds) => new Promise((found) => { changed = (book) => holds(book) && found(); });
await until((book) => book.isValid);
const fresh = [book.stale ?? null, book.staleSince ?? null];
const lost = until((book) => book.stale);
line.close();
for (const socket of sockets) socket.destroy();
await lost;
const during = [book.isValid, book.stale, book.bids().length > 0, book.staleSince <= new Date().toISOString()];
const back = until((book) => !book.stale);
await opened(port);
await Promise.all([back, account]);
console.log(JSON.stringify({ fresh, during, after: [book.isValid, book.staleSince ?? null], told, transports: relay.pusher.config.enabledTransports }));
process.exit(0);
"""
#: The client as a module of a page: a quote, and the state of an account, which needs authorization.
IN_A_PAGE = """async ({ url, apiKey }) => {
  const { channels, connect } = await import(`${url}/tickrelay.js`);
  const relay = await connect(Pusher, { url, apiKey });
  const symbol = new Promise((found) =>
    relay.subscribe(channels.quote("synthetic", "BTC/USD"), { quote: ({ quote }) => found(quote.symbol) }));
  const balance = new Promise((found, failed) =>
    relay.subscribe(channels.account("helio", "main"), { account: ({ account }) => found(account.balance), refused: failed }));
  const { reply } = await relay.command({ command: "list_orders", provider: "helio", account: "main" });
  return [await symbol, typeof await balance, reply.outcome];
}"""
#: Prints results of the functions that need no relay.
PURE = """
import { channels, compareDecimals, OrderBook, quoteSymbol } from "./tickrelay.js";
const sign = (a, b) => Math.sign(compareDecimals(a, b));
const book = new OrderBook();
const depth = (snapshot, bids, asks) => book.take({ type: "depth", depth: { symbol: "A", snapshot, bids, asks } });
const books = [];
const note = () => books.push([book.isValid, book.bids(), book.asks(), book.stale ?? null]);
depth(false, [["1", "1"]], []); note();
depth(true, [["9.50", "1"], ["10", "2"], ["9.123456789012345678", "1"]], [["10.1", "3"], ["10.05", "4"]]); note();
depth(false, [["9.5", "0.00"], ["09.123456789012345678", "7"]], [["10.10", "5"]]); note();
book.take({ type: "staleness", event: "STALE", reason: "lost" }); note();
book.take({ type: "staleness", event: "FRESH" });
book.take({ type: "gap" }); note();
console.log(JSON.stringify({
  symbols: ["BTC/USD", "ES 09-26", "é€"].map(quoteSymbol),
  channels: [channels.candle("a", "B/C", "1m", "cache-"), channels.account("a", "b-c"), channels.status("a"), channels.depth("a", "B")],
  signs: [sign("1.10", "1.1"), sign("2", "10"), sign("-2", "-10"), sign("-1", "1"), sign("0.05", "0.5"), sign("-0", "0")],
  books,
}));
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with the client, its example and the packages of npm."""
    tools.node()
    for name in ("tickrelay.js", "tickrelay.d.ts", "resume.js"):
        shutil.copy(ROOT / "relay" / "web" / name, tmp_path)
    shutil.copy(ROOT / "docs" / "clients" / "typed.ts", tmp_path)
    (tmp_path / "node_modules").symlink_to(tools.NODE_DIR / "node_modules")
    (tmp_path / "package.json").write_text('{"type": "module"}')
    return tmp_path


@pytest.fixture(scope="module")
def relay() -> Iterator[SharedRelay]:
    with shared_relay() as relay:
        yield relay


def run(folder: Path, *command: str, **environment: str) -> str:
    environment = {**os.environ, **environment}
    done = subprocess.run(
        [tools.node(), *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=WITHIN,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["tickrelay.js", "tickrelay.d.ts", "resume.js"])
def test_the_relay_serves_it(name: str, relay: SharedRelay) -> None:
    with urllib.request.urlopen(f"{relay.url}/{name}", timeout=WITHIN) as answer:
        assert answer.read() == (ROOT / "relay" / "web" / name).read_bytes()


@pytest.mark.node
def test_books_decimals_and_names(folder: Path) -> None:
    (folder / "pure.js").write_text(PURE)
    found = json.loads(run(folder, "pure.js"))
    assert found["symbols"] == ["BTC-USD", "ES=2009=2D26", "=C3=A9=E2=82=AC"]
    assert found["channels"] == ["cache-candle.a.B-C.1m", "private-account.a.b=2Dc", "status.a", "depth.a.B"]
    assert found["signs"] == [0, -1, 1, -1, -1, 0]
    first = [["10", "2"], ["9.50", "1"], ["9.123456789012345678", "1"]]
    second = [["10", "2"], ["09.123456789012345678", "7"]]
    assert found["books"] == [
        [False, [], [], None],
        [True, first, [["10.05", "4"], ["10.1", "3"]], None],
        [True, second, [["10.05", "4"], ["10.10", "5"]], None],
        [True, second, [["10.05", "4"], ["10.10", "5"]], "lost"],
        [False, [], [], None],
    ]


@pytest.mark.node
def test_books_of_one_channel_are_one(folder: Path) -> None:
    (folder / "books.js").write_text(BOOKS)
    assert json.loads(run(folder, "books.js")) == [
        "subscribe depth.a.B",
        "one 1,2",
        "two 1,2",
        "two 3,4",
        "unsubscribe depth.a.B",
        "subscribe depth.a.B",
        "depth.a.B: begin its book before other subscriptions of the channel",
    ]


@pytest.mark.node
def test_a_lost_connection_is_told_at_once_and_until_all_that_was_missed_has_come(
    folder: Path, relay: SharedRelay
) -> None:
    (folder / "cut.js").write_text(CUT)
    found = json.loads(run(folder, "cut.js", str(relay.port), KEYS["main"]["key"]))
    assert found == {
        "fresh": [None, None],
        "during": [True, "not connected to the relay", True, True],
        "after": [True, None],
        "told": [["lost", "not connected to the relay", True], ["regained"]],
        "transports": ["ws"],  # no attempt with TLS
    }


@pytest.mark.browser
def test_it_is_a_module_of_a_page(relay: SharedRelay) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=tools.chromium(), args=["--headless", "--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page()
        page.goto(f"{relay.url}/healthz")
        page.add_script_tag(url=f"{relay.url}/vendor/pusher.min.js")
        found = page.evaluate(IN_A_PAGE, {"url": relay.url, "apiKey": KEYS["main"]["key"]})
        browser.close()
    assert found == ["BTC/USD", "string", "accepted"]


@pytest.mark.node
def test_the_example_is_compiled_and_runs(folder: Path, relay: SharedRelay) -> None:
    """Takes as long as TypeScript needs for one program: some seconds."""
    if not TYPESCRIPT.is_file():
        tools.missing("npm package typescript of tests/node", "run `make node`")
    (folder / "mistakes.ts").write_text(MISTAKES)
    (folder / "tsconfig.json").write_text(
        json.dumps({"compilerOptions": OPTIONS, "files": ["typed.ts", "mistakes.ts"]})
    )
    run(folder, str(TYPESCRIPT), "-p", ".")
    shutil.copy(folder / "compiled" / "typed.js", folder)
    printed = run(folder, "typed.js", TICKRELAY_URL=relay.url, TICKRELAY_API_KEY=KEYS["main"]["key"])
    lines = printed.splitlines()
    assert [line.split()[0] for line in lines[:2]] == ["quote", "best"]
    assert "reply accepted" in lines
    assert "order ORDER_CREATED OPEN 0.50000" in lines
    assert "cancelled accepted" in lines
    assert lines[-1].startswith("refused 404 provider no provider is named nobody")

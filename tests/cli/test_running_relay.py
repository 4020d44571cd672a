"""The commands on a running relay, through real sockets: what a person sees, and what a script gets."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator

import pytest

from relay.cli import run
from relay.cli.status import not_usable
from relay.cli.tail import _meant
from relay.errors import OperatorError
from support.deadlines import WITHIN
from support.shared_relay import KEYS, SharedRelay, shared_relay

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def relay() -> Iterator[SharedRelay]:
    with shared_relay(down={"adapter": "synthetic", "url": "ws://127.0.0.1:1"}) as relay:
        yield relay


@pytest.fixture(autouse=True)
def _environment(relay: SharedRelay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TICKRELAY_URL", relay.url)
    monkeypatch.setenv("TICKRELAY_API_KEY", KEYS["main"]["key"])  # type: ignore[arg-type]


def use(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("TICKRELAY_API_KEY", KEYS[key]["key"])  # type: ignore[arg-type]


def lines(capsys: Captured) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]


# --- tail ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "channels"),
    [
        (["quote.synthetic.BTC-USD"], {"cache-quote.synthetic.BTC-USD"}),
        (["public_trade.synthetic.BTC-USD"], {"public_trade.synthetic.BTC-USD"}),
        (["synthetic.quote.BTC/USD"], {"cache-quote.synthetic.BTC-USD"}),
        (["status.*"], {f"cache-status.{name}" for name in ("down", "helio", "scaletrade", "synthetic")}),
        (["account.*"], {f"private-account.{name}" for name in ("helio.main", "helio.second", "scaletrade.main")}),
        (["account.helio.main"], {"private-account.helio.main"}),
        (["btcusd"], {"cache-quote.scaletrade.BTC-USD", "cache-quote.synthetic.BTC-USD"}),
        (["candle.synthetic.BTC-USD"], {f"cache-candle.synthetic.BTC-USD.{t}" for t in ("1m", "5m", "15m", "1h", "4h", "1d")}),
    ],
)  # fmt: skip
def test_tail_follows_channels_patterns_and_symbols(names: list[str], channels: set[str], capsys: Captured) -> None:
    assert run(["tail", *names, "--count", str(len(channels)), "--for", str(WITHIN)]) == 0
    captured = capsys.readouterr()
    found = [json.loads(line) for line in captured.out.splitlines() if line.startswith("{")]
    assert f"tickrelay: following {len(channels)} channels" in captured.err
    assert {each["channel"] for each in found} <= channels
    assert {each["data"]["type"] for each in found} == {each["event"] for each in found}


def test_tail_ends_after_its_time_though_nothing_comes(capsys: Captured) -> None:
    assert run(["tail", "an-own-channel", "--for", "0.2"]) == 0
    captured = capsys.readouterr()
    assert not [line for line in captured.out.splitlines() if line.startswith("{")]
    assert "following the application's own channel with this name" in captured.err


def test_tail_follows_several_apps(capsys: Captured) -> None:
    assert run(["tail", "quote.synthetic.BTC-USD", "--app", "1", "--app", "demo-key", "--count", "20"]) == 0
    assert {each["app"] for each in lines(capsys)} == {"1", "demo-key"}


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["quote.synthetic.NOPE/USD"], "no stream that this key may read is meant by it"),
        (["quote.sintetic.*"], "did you mean synthetic?"),
        (["qoute.*"], "did you mean quote?"),
        (["BTC/UDS"], "did you mean BTC/USD?"),
        (["quote.nope.X"], "no provider is named nope"),
        (["*", "--most", "3"], "a narrower pattern is better"),
        (["quote.*", "--count", "0"], "--count: must be 1 or more"),
        (["quote.*", "--app", "nope"], "app: must be the id or the key of an app"),
    ],
)
def test_tail_says_what_is_wrong_with_a_name(names: list[str], says: str, capsys: Captured) -> None:
    assert run(["tail", *names]) == 1
    assert says in capsys.readouterr().err


def test_a_key_sees_which_grant_it_lacks(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    use(monkeypatch, "reader")
    assert run(["tail", "account.helio.main"]) == 1
    assert '[api_keys.reader] accounts = ["helio.main"]' in capsys.readouterr().err
    assert run(["accounts"]) == 1
    assert "accounts = [...]" in capsys.readouterr().err
    order = ["order", "place", "--symbol", "EUR/USD", "--side", "buy", "--quantity", "1", "--provider", "helio"]
    assert run([*order, "--account", "main"]) == 1
    assert '[api_keys.reader] trade = ["helio.main"]' in capsys.readouterr().err


def test_tail_on_a_terminal_is_a_live_table(relay: SharedRelay) -> None:
    """In a process of its own, since a terminal is one's standard output."""
    shown = on_terminal(relay, "tail", "quote.synthetic.BTC-USD", "--count", "3")
    assert "cache-quote.synthetic.BTC-USD" in shown
    assert "1 channels, " in shown
    assert "bid 6" in shown


def on_terminal(relay: SharedRelay, *tokens: str) -> str:
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "160", "LINES": "40"}
    with subprocess.Popen(
        [sys.executable, "-m", "relay", *tokens], stdout=theirs, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while data := os.read(ours, 65536):
                shown += data
        except OSError:  # the other side was closed
            pass
        os.close(ours)
        assert process.wait(WITHIN) == 0, shown.decode()
    return shown.decode()


# --- status ----------------------------------------------------------------------------------------------------------


def test_status_shows_what_there_is_and_its_exit_code_what_is_not_usable(capsys: Captured) -> None:
    assert run(["status"]) == 5
    out = capsys.readouterr().out
    for text in (
        "1 not usable, ",
        "helio/main",
        "CONNECTED",
        "audit finds",
        "quote.synthetic.BTC-USD",
        "not usable: down: ",
    ):
        assert text in out
    assert run(["status", "--json"]) == 5
    (found,) = lines(capsys)
    (only,) = found["unusable"]  # type: ignore[misc]
    assert only.startswith("down: ")


SESSION = {"provider": "acme", "account": "main", "reason": None}
STREAM = {"provider": "acme", "kind": "quote", "symbol": "S", "timeframe": None, "account": None}


@pytest.mark.parametrize(
    ("session", "stream", "store", "expected"),
    [
        ("CONNECTED", (1, True), True, []),
        ("IDLE", (0, False), True, []),
        ("FAILED", (1, True), True, ["acme/main: FAILED"]),
        ("CONNECTED", (2, False), True, ["quote.acme.S: stale, 2 subscribers"]),
        ("CONNECTED", (1, True), False, ["the store cannot be written (disk full)"]),
    ],
)
def test_what_is_not_usable(session: str, stream: tuple[int, bool], store: bool, expected: list[str]) -> None:
    subscribers, usable = stream
    streams = [STREAM | {"subscribers": subscribers, "usable": usable}]
    of_store = {"available": store, "reason": None if store else "disk full"}
    assert (
        list(not_usable({"sessions": [SESSION | {"state": session}], "store": of_store, "hub": {"streams": streams}}))
        == expected
    )


# --- symbols, quote --------------------------------------------------------------------------------------------------


def test_symbols_are_found_by_a_part_of_them(capsys: Captured) -> None:
    assert run(["symbols", "eur"]) == 0
    out = capsys.readouterr().out
    assert ["helio", "EUR/USD", "EURUSD"] in [line.split()[:3] for line in out.splitlines()]
    assert run(["symbols", "eru/usd", "--json"]) == 0
    (found,) = lines(capsys)
    assert found["symbols"][0]["near"]  # type: ignore[index]
    assert run(["symbols", "zzzzzzzz"]) == 1
    assert "no symbol like 'zzzzzzzz'" in capsys.readouterr().err
    assert run(["symbols", "eur", "--provider", "heliox"]) == 1
    assert "did you mean helio?" in capsys.readouterr().err


def test_quote_asks_every_provider(capsys: Captured) -> None:
    assert run(["quote", "eurusd", "--json", "--within", "20"]) == 0
    assert {each["provider"] for each in lines(capsys)} == {"helio", "scaletrade"}
    assert run(["quote", "eurusd", "--provider", "synthetic"]) == 1
    assert "no quote of 'eurusd' at provider synthetic" in capsys.readouterr().err


# --- accounts, order -------------------------------------------------------------------------------------------------


def test_accounts_are_one_view(capsys: Captured) -> None:
    place = ["order", "place", "--provider", "helio", "--symbol", "EUR/USD", "--side", "buy", "--quantity", "1000"]
    assert run([*place, "--limit", "0.5"]) == 1
    assert "account: must be named: provider helio has main, second" in capsys.readouterr().err
    assert run([*place, "--account", "main", "--limit", "0.5", "--json"]) == 0
    capsys.readouterr()
    assert run(["accounts", "--json", "--within", "20"]) == 0
    (found,) = lines(capsys)
    by_name = {f"{each['provider']}.{each['account']}": each for each in found["accounts"]}  # type: ignore[attr-defined]
    for name in ("helio.main", "helio.second"):
        balances = by_name[name]["balances"]
        assert balances["equity"]
        assert balances["balance"]
        assert balances["currency"] == "USD"
    assert [each["order_type"] for each in by_name["helio.main"]["orders"]] == ["LIMIT"]
    assert by_name["helio.second"]["orders"] == []
    assert run(["accounts", "helio"]) == 0
    out = capsys.readouterr().out
    assert "helio.main" in out
    assert "0 open positions, 1 open orders" in out
    assert run(["accounts", "helio.nope"]) == 1


def test_an_order_finds_its_account(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    use(monkeypatch, "trader")
    assert run(["order", "positions"]) == 0
    assert "helio" in capsys.readouterr().out


# --- what every command says -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tokens", [["tail"], ["status"], ["symbols"], ["quote", "X"], ["accounts"], ["order", "orders"]]
)
def test_a_relay_that_is_not_running(tokens: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setenv("TICKRELAY_URL", "http://127.0.0.1:1")
    assert run(tokens) == 4
    assert capsys.readouterr().err == (
        "tickrelay: cannot reach http://127.0.0.1:1: connection refused; is `tickrelay serve` running?\n"
    )


@pytest.mark.parametrize("tokens", [["tail", "quote.*"], ["status"], ["symbols"], ["accounts"]])
def test_a_wrong_key(tokens: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setenv("TICKRELAY_API_KEY", "wrong")
    assert run(tokens) == 1
    assert capsys.readouterr().err == "tickrelay: refused with status 401: the API key is not valid\n"


@pytest.mark.parametrize(
    ("tokens", "says"),
    [
        (["statsu"], 'Did you mean "status"?'),
        (["tail", "--jsn"], "Did you mean --json?"),
        (["status", "--wtach"], "Did you mean --watch?"),
        (["completion", "bsh"], 'Did you mean "bash"?'),
    ],
)
def test_what_is_nearly_right_is_named(tokens: list[str], says: str, capsys: Captured) -> None:
    assert run(tokens) == 2
    assert says in capsys.readouterr().err


def test_completion_knows_commands_and_options(capsys: Captured) -> None:
    assert run(["completion", "bash"]) == 0
    out = capsys.readouterr().out
    assert "accounts" in out
    assert "--limit" in out


async def test_a_name_of_an_account_without_its_account_is_an_error_that_says_so() -> None:
    with pytest.raises(OperatorError, match=r"account\.desk: .*names no account.*account\.PROVIDER\.ACCOUNT"):
        await _meant(None, "account.desk", [])  # type: ignore[arg-type]

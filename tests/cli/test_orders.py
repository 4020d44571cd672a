"""``tickrelay order`` against a running relay, and against what may stand in its place."""

import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import trio

from relay.cli import order as order_command
from relay.cli import run
from relay.plugins.manager import Plugins
from support.simulated_venue import KEYS, Desk, toy_plugins, trading

REPLY = {"type": "reply", "command_id": "c", "ok": False, "provider": "one", "account": "main", "id": "1",
         "received_at": "2026-01-01T00:00:00Z"}  # fmt: skip
ORDER = ("place", "--symbol", "FINE", "--side", "buy", "--quantity", "1.10")


@pytest.fixture
async def desk(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    monkeypatch.setenv("TICKRELAY_API_KEY", KEYS["desk"]["key"])
    async with trading() as desk:
        monkeypatch.setenv("TICKRELAY_URL", f"http://127.0.0.1:{desk.relay.addresses[0][1]}/")
        yield desk


@pytest.fixture
def plugins() -> Plugins:
    return toy_plugins()


async def order(plugins: Plugins, *tokens: str, provider: str = "one") -> int:
    """The exit code of the command line, which has an event loop of its own."""
    name, *rest = tokens
    return await trio.to_thread.run_sync(run, ["order", name, "--provider", provider, *rest], plugins)


async def test_an_order_is_placed_and_the_reply_shown(desk: Desk, plugins: Plugins, capsys: Any) -> None:
    assert (
        await order(plugins, *ORDER, "--client-order-id", "mine", "--extra", 'tag={"a": 1.50}', "--extra", "note=hello")
        == 0
    )
    (placed,) = desk.venue.placed
    assert (placed["quantity"], placed["mine"], placed["tag"], placed["note"]) == (
        "1.10",
        "mine",
        {"a": "1.50"},
        "hello",
    )
    out = capsys.readouterr().out
    assert ["outcome", "command", "provider", "account"] in [line.split() for line in out.splitlines()]
    assert "accepted" in out
    assert "order_id" in out


@pytest.mark.parametrize(
    ("result", "lines"),
    [
        ([{"id": "1", "qty": 2}, {"id": "3", "more": True}], ["id  qty  more", "1   2        ", "3        true"]),
        ({"rows": [{"id": "1"}], "count": 1}, ["count  1", "id", "1 "]),
        (
            {"success": True, "order": {"id": "1", "legs": []}},
            ["success     true", "order.id    1   ", "order.legs  []  "],
        ),
        ([{"long": "x" * 200, "more": "y" * 60}], [f"long  {'x' * 200}", f"more  {'y' * 60}{' ' * 140}"]),
        ({"orders": [{"id": "1", "status": "OPEN"}], "data": {"rows": [1]}}, ["id  status", "1   OPEN  "]),
        ({"orders": [], "data": {"rows": []}}, ["orders  []"]),
        ({"data": {"rows": []}}, ["data.rows  []"]),
        ([], ["  []"]),
        ("OK", ["  OK"]),
    ],
)
def test_what_a_reply_says_is_shown_whole(result: Any, lines: list[str], capsys: Any) -> None:
    order_command.show({"outcome": "accepted", "command_id": "c", "provider": "p", "account": "a", "result": result})
    shown = capsys.readouterr().out.splitlines()[2:]
    assert shown == lines


@pytest.mark.parametrize(
    ("tokens", "code", "says"),
    [
        (("place", "--symbol", "POOR", "--side", "sell", "--quantity", "1"), 1, "margin"),
        (("place", "--symbol", "MUTE", "--side", "sell", "--quantity", "1", "--within", "0.1"), 3, "unknown"),
        (("cancel", "503"), 3, "unknown"),
        (("cancel", "200"), 0, "accepted"),
        (("orders",), 0, "o2"),
        (("call", "f", "--argument", "size=1.10", "--json"), 0, '"size": "1.10"'),
        ((*ORDER, "--dry-run"), 0, '"sends": ['),
    ],
)  # fmt: skip
async def test_the_exit_code_says_what_is_known(
    desk: Desk, plugins: Plugins, capsys: Any, tokens: tuple[str, ...], code: int, says: str
) -> None:
    assert await order(plugins, *tokens) == code
    captured = capsys.readouterr()
    assert says in captured.out
    assert ("the outcome is unknown" in captured.err) is (code == 3)
    assert not [each for each in desk.venue.placed if "--dry-run" in tokens]


@pytest.mark.parametrize(
    ("tokens", "says"),
    [
        (("amend", "o1", "--limit", "2"), "refused with status 400: provider one does not take amend_order"),
        (("positions",), "does not take list_positions"),
        (("accounts",), "does not take list_accounts"),
        (("close", "p1"), "does not take close_position"),
        (("protect", "p1", "--stop-loss", "1"), "does not take amend_position"),
        (("history", "--of", "trades"), "does not take trade_history"),
        ((*ORDER, "--type", "limit"), "limit_price: is missing; a LIMIT order needs it"),
        ((*ORDER, "--account", "other"), "has no account other"),
        ((*ORDER, "--api-key", "wrong"), "refused with status 401: the API key is not valid"),
        ((*ORDER, "--url", "nowhere"), "--url: not the address of a relay: 'nowhere'; write http://HOST:PORT"),
        ((*ORDER, "--extra", "novalue"), "--extra novalue: write NAME=VALUE"),
    ],
)
async def test_what_is_refused_is_one_line(
    desk: Desk, plugins: Plugins, capsys: Any, tokens: tuple[str, ...], says: str
) -> None:
    assert await order(plugins, *tokens) == 1
    captured = capsys.readouterr()
    assert says in captured.err
    assert captured.err.startswith("tickrelay: ")
    assert captured.err.count("\n") == 1
    assert desk.venue.placed == []


async def test_a_key_makes_repeating_safe(desk: Desk, plugins: Plugins, capsys: Any) -> None:
    key = str(uuid.uuid4())
    assert await order(plugins, *ORDER, "--key", key) == 0
    assert capsys.readouterr().err == ""
    assert await order(plugins, *ORDER, "--key", key) == 0
    assert "replayed: the reply of an earlier command" in capsys.readouterr().err
    assert len(desk.venue.placed) == 1
    assert await order(plugins, *ORDER) == 0
    assert len(desk.venue.placed) == 2


async def test_a_relay_that_is_not_running_is_told_with_its_own_exit_code(plugins: Plugins, capsys: Any) -> None:
    assert await order(plugins, *ORDER, "--url", "http://127.0.0.1:1") == 4
    assert capsys.readouterr().err == (
        "tickrelay: cannot reach http://127.0.0.1:1: connection refused; is `tickrelay serve` running?\n"
    )


@pytest.mark.parametrize(
    "answer",
    [
        httpx.ReadTimeout(""),
        httpx.RemoteProtocolError("gone"),
        httpx.Response(502, text="<html>"),
        httpx.Response(200, text="<html>"),
        httpx.Response(202, json=REPLY | {"outcome": "unknown"}),
        httpx.Response(200, json=REPLY | {"outcome": "maybe"}),
    ],
    ids=repr,
)
async def test_what_says_nothing_of_the_command_is_unknown(
    monkeypatch: pytest.MonkeyPatch, plugins: Plugins, capsys: Any, answer: httpx.Response | Exception
) -> None:
    async def post(self: httpx.AsyncClient, url: str, **content: Any) -> httpx.Response:
        assert content["headers"]["Idempotency-Key"] == "k1"
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(httpx.AsyncClient, "post", post)
    assert await order(plugins, "orders", "--key", "k1") == 3
    assert "--key k1 repeats it safely" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("prices", "type"),
    [
        ((), "MARKET"),
        (("--limit", "1"), "LIMIT"),
        (("--stop", "1"), "STOP"),
        (("--limit", "1", "--stop", "2"), "STOP_LIMIT"),
        (("--trailing", "1"), "TRAILING_STOP"),
        (("--type", "limit", "--limit", "1"), "LIMIT"),
    ],
)
async def test_the_prices_imply_the_type(
    desk: Desk, plugins: Plugins, capsys: Any, prices: tuple[str, ...], type: str
) -> None:
    """A dry run shows what the relay understood."""
    seen: list[str] = []
    validate = desk.relay._command_service.validate

    def noted(key: Any, wire: Any, name: Any) -> Any:
        seen.append(wire["order_type"])
        return validate(key, wire, name)

    desk.relay._command_service.validate = noted  # type: ignore[method-assign]
    assert await order(plugins, *ORDER, *prices, "--dry-run") == 0
    assert seen == [type]


async def test_the_account_may_be_left_out_where_the_key_trades_on_one_only(
    desk: Desk, plugins: Plugins, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def place(*more: str) -> tuple[int, str]:
        code = await trio.to_thread.run_sync(run, ["order", *ORDER, *more], plugins)
        return code, capsys.readouterr().err

    code, said = await place()
    assert (code, "--provider: which account? There are --provider one --account main, " in said) == (1, True)
    assert (await place("--account", "main"))[0] == 0
    assert (await place("--account", "nope")) == (1, "tickrelay: this API key may trade on no account nope\n")
    monkeypatch.setenv("TICKRELAY_API_KEY", KEYS["reader"]["key"])
    assert (await place()) == (1, "tickrelay: this API key may trade on no account\n")


def test_wrong_use_is_2(plugins: Plugins, capsys: Any) -> None:
    assert run(["order", "place", "--provider", "one"], plugins) == 2
    assert (
        run(["order", "place", "--provider", "one", "--symbol", "S", "--side", "up", "--quantity", "1"], plugins) == 2
    )
    assert run(["order", "sell"], plugins) == 2
    assert capsys.readouterr().err.startswith("tickrelay: ")

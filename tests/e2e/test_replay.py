"""A recording in a provider's place: it plays like the provider, and reaches nobody."""

from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from relay.adapter import Context
from relay.errors import OperatorError
from relay.model.channels import Stream, Topic
from relay.model.commands import PlaceOrder
from relay.model.enums import OrderType, Side
from relay.provider.session_events import Closed, Dial
from relay.replay import QUIET, Replay, replayed
from relay.settings import ReplayTable, SettingsError
from relay.testing.recording import Record, write_recording
from relay_helio.adapter import Helio
from support.deadlines import WITHIN
from support.running import running_relay

FIXTURES = Path(__file__).parents[1] / "fixtures"
DIAL = Dial("", {}, "")


async def test_a_recording_is_published_as_the_provider_would_be(monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_socket(*arguments: Any, **more: Any) -> None:
        raise AssertionError("a replay opened a socket")

    monkeypatch.setattr("relay.provider.connection.trio.open_tcp_stream", no_socket)
    replay = {"file": str(FIXTURES / "kraken.jsonl"), "speed": 0}
    async with running_relay({"kraken": {"replay": replay, "pinned": ["quote BTC/USD"]}}) as relay:
        with trio.fail_after(WITHIN):
            while not relay.hub.snapshot()["published"].get("quote"):
                await trio.sleep(0.01)
        ((_, session),) = relay.providers.connections()
        assert session.status()["state"] == "up"
        assert session.status()["counters"]["unknown"] == 0


async def test_a_replay_of_a_broker_takes_no_orders() -> None:
    replay = {"file": str(FIXTURES / "helio.jsonl"), "speed": 0}
    async with running_relay({"helio": {"replay": replay, "accounts": {"main": {}}}}) as relay:
        (provider,) = relay.providers
        assert provider.commands == ()
        assert provider.is_replay
    order = PlaceOrder(id="1", account="a", symbol="EUR/USD", side=Side.BUY, order_type=OrderType.MARKET, quantity="1")
    with pytest.raises(ValueError, match="a replay does not accept commands"):
        list(replayed(Helio)(Context(provider="x")).encode(order))


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ({"url": "wss://live.example"}, r"providers\.helio\.url: a replay connects to nobody"),
        ({"http_url": "https://live.example"}, r"providers\.helio\.http_url: a replay connects to nobody"),
        (
            {"credentials": {"email": "e", "password": "p"}},
            r"providers\.helio\.credentials: a replay never reaches an account",
        ),
        (
            {"accounts": {"main": {"credentials": {"email": "e"}}}},
            r"accounts\.main\.credentials: a replay never reaches",
        ),
    ],
)
async def test_a_replay_towards_a_live_account_is_refused(members: dict[str, Any], problem: str) -> None:
    replay = {"file": str(FIXTURES / "helio.jsonl")}
    with pytest.raises(SettingsError, match=problem):
        async with running_relay({"helio": {"replay": replay, **members}}):
            pass


async def test_recorded_prices_are_not_mixed_with_those_of_now() -> None:
    replay = {"file": str(FIXTURES / "kraken.jsonl"), "speed": 0}
    live = {"adapter": "bitstamp", "url": "ws://127.0.0.1:1", "http_url": "http://127.0.0.1:1"}
    async with running_relay({"kraken": {"replay": replay}, "live": live}) as relay:
        stream = Stream("all", Topic(kind="depth", symbol="BTC/USD"))
        assert [provider.name for provider, _ in relay.providers._behind(stream)] == ["live"]
    async with running_relay({"kraken": {"replay": replay}}) as relay:
        assert [provider.name for provider, _ in relay.providers._behind(stream)] == ["kraken"]


def test_a_file_that_is_no_recording_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad").write_text("{}\n")
    with pytest.raises(OperatorError, match="bad:1: dir: expected one of"):
        Replay(ReplayTable(file=str(tmp_path / "bad")))
    with pytest.raises(OperatorError, match="cannot read"):
        Replay(ReplayTable(file=str(tmp_path / "absent")))


class Played:
    """A connection of a replay, with the time at which each frame came."""

    def __init__(self, path: Path, records: list[Record], **settings: Any) -> None:
        write_recording(path, records)
        self.replay = Replay(ReplayTable(file=str(path), **settings))
        self.frames: list[tuple[str, float]] = []
        self.dial()

    def dial(self) -> None:
        self.line = self.replay.dial(
            None, None, on_open=lambda: None, on_text=lambda text, _: self.frames.append((text, trio.current_time())),
            on_bytes=lambda: None,
        )  # fmt: skip


def incoming(t: float, data: str) -> Record:
    return Record(t=t, dir="in", data=data)


def sent(t: float) -> Record:
    return Record(t=t, dir="out", data="sent")


async def test_frames_keep_their_pace_behind_the_subscription(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    records = [incoming(1, "hello"), sent(2), incoming(10, "a"), incoming(30, "b")]
    played = Played(tmp_path / "r", records, speed=10)
    nursery.start_soon(played.line.run, DIAL)
    await trio.sleep(100)
    assert [text for text, _ in played.frames] == ["hello"]
    asked_at = trio.current_time()
    assert played.line.send("subscribe")
    await trio.sleep(100)
    assert [(text, round(at - asked_at, 3)) for text, at in played.frames[1:]] == [("a", QUIET), ("b", QUIET + 2)]


async def test_the_session_sets_the_pace_by_its_acknowledgements(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    records = [incoming(1, "a"), sent(2), incoming(3, "b"), sent(4), incoming(5, "c")]
    played = Played(tmp_path / "r", records, acks=True)
    nursery.start_soon(played.line.run, DIAL)
    await trio.sleep(1)
    assert [text for text, _ in played.frames] == ["a"]
    played.line.send("ack")
    await trio.sleep(1)
    assert [text for text, _ in played.frames] == ["a", "b"]
    played.line.send("ack")
    await trio.sleep(1)
    assert [text for text, _ in played.frames] == ["a", "b", "c"]


async def test_a_recorded_end_of_a_connection_is_played_and_the_next_one_goes_on(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    records = [incoming(1, "a"), Record(t=2, dir="close", code=1012, data="restart"), incoming(3, "b")]
    played = Played(tmp_path / "r", records, speed=0)
    assert await played.line.run(DIAL) == Closed(1012, "restart")
    played.dial()
    with trio.move_on_after(WITHIN):  # the end of the recording is no end of the connection
        await played.line.run(DIAL)
    assert [text for text, _ in played.frames] == ["a", "b"]

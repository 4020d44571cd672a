import httpx
import pytest
import trio
from trio_websocket import ConnectionClosed, open_websocket_url

from relay.testing.player import play
from relay.testing.recording import Record, Recording
from support.deadlines import WITHIN

FRAMES = [f'{{"n":{n}}}' for n in range(200)]
TWO_CONNECTIONS = Recording(
    (
        Record(t=10.0, dir="http", url="https://venue.example/symbols", data='["X"]'),
        Record(t=10.0, dir="open", url="wss://venue.example/a"),
        Record(t=10.0, dir="open", url="wss://venue.example/b"),
        Record(t=10.1, dir="out", data="subscribe"),
        *(Record(t=11.0 + n, dir="in", data=text) for n, text in enumerate(FRAMES)),
        Record(t=300.0, dir="in", data=b"\x01\x02"),
        Record(t=300.0, dir="http", url="https://venue.example/book?symbol=X&limit=5", data='{"seq":1}'),
        Record(t=301.0, dir="http", url="https://venue.example/book?symbol=X&limit=5", data='{"seq":2}'),
        Record(t=302.0, dir="http", url="https://venue.example/login", method="POST", status=401, data="no"),
    )
)


async def received(socket, count):
    frames = []
    with trio.fail_after(WITHIN):
        for _ in range(count):
            frames.append(await socket.get_message())
    return frames


async def test_every_frame_comes_in_order_on_any_path():
    async with play(TWO_CONNECTIONS) as player:
        async with open_websocket_url(f"{player.ws_url}/any/path?x=1") as socket:
            assert await received(socket, 201) == [*FRAMES, b"\x01\x02"]
            with trio.fail_after(WITHIN):
                await player.finished.wait()
            assert player.connections == 1


async def test_each_connection_is_played_from_the_first_frame():
    async with play(TWO_CONNECTIONS) as player:
        for _ in range(2):
            async with open_websocket_url(player.ws_url) as socket:
                assert await received(socket, 3) == FRAMES[:3]
        assert player.connections == 2


async def test_the_connection_stays_open_after_the_last_frame():
    async with play(TWO_CONNECTIONS) as player, open_websocket_url(player.ws_url) as socket:
        await received(socket, 201)
        await socket.ping()
        await socket.send_message("still here")
        await socket.ping()
        assert list(player.received) == ["still here"]


async def test_the_connection_is_closed_when_asked():
    async with play(TWO_CONNECTIONS, close=True) as player, open_websocket_url(player.ws_url) as socket:
        await received(socket, 201)
        with trio.fail_after(WITHIN), pytest.raises(ConnectionClosed) as closed:
            await socket.get_message()
        assert closed.value.reason.code == 1000
        await trio.aclose_forcefully(socket._stream)  # trio-websocket leaves the TCP side open when the peer closed


async def test_frames_wait_for_release():
    async with play(TWO_CONNECTIONS, start="release") as player, open_websocket_url(player.ws_url) as socket:
        await socket.send_message("subscribe")
        await socket.ping()
        assert not player.finished.is_set()
        player.release()
        assert await received(socket, 2) == FRAMES[:2]


async def test_frames_wait_for_the_client_to_subscribe_and_fall_silent():
    async with play(TWO_CONNECTIONS, start="subscribe", quiet=0.05) as player:
        async with open_websocket_url(player.ws_url) as socket:
            await socket.ping()
            assert not player.finished.is_set()
            await socket.send_message("subscribe a")
            await socket.send_message("subscribe b")
            assert await received(socket, 1) == FRAMES[:1]
            assert list(player.received) == ["subscribe a", "subscribe b"]


async def test_a_reply_answers_what_the_recording_does_not():
    def acknowledge(text):
        yield f"ack {text}"

    async with play(TWO_CONNECTIONS, start="release", reply=acknowledge) as player:
        async with open_websocket_url(player.ws_url) as socket:
            await socket.send_message("1")
            assert await received(socket, 1) == ["ack 1"]


async def test_recorded_pace_is_kept_and_divided(autojump_clock):
    started = trio.current_time()
    async with play(TWO_CONNECTIONS, speed=10) as player, open_websocket_url(player.ws_url) as socket:
        for _ in range(201):
            await socket.get_message()
        assert trio.current_time() - started >= 28.9  # frames lie 289 s apart


async def test_http_answers_in_recorded_order_and_the_last_over_and_over():
    async with play(TWO_CONNECTIONS) as player, httpx.AsyncClient(base_url=player.http_url) as http:
        assert (await http.get("/symbols")).json() == ["X"]
        answers = [(await http.get("/book", params={"limit": 5, "symbol": "X"})).json() for _ in range(3)]
        assert answers == [{"seq": 1}, {"seq": 2}, {"seq": 2}]
        refused = await http.post("/login", json={"user": "x"})
        assert (refused.status_code, refused.text) == (401, "no")
        assert player.requests[0] == "GET /symbols"


async def test_an_unknown_request_is_told_what_is_recorded():
    async with play(TWO_CONNECTIONS) as player, httpx.AsyncClient(base_url=player.http_url) as http:
        unknown = await http.get("/book", params={"symbol": "Y"})
        assert unknown.status_code == 404
        assert "not recorded: GET /book?symbol=Y" in unknown.text
        assert "GET https://venue.example/book?symbol=X&limit=5" in unknown.text
        assert (await http.get("/login")).status_code == 404  # recorded for POST


async def test_head_has_no_body_and_a_large_body_is_refused():
    heads = Recording((Record(t=1, dir="http", url="/x", method="HEAD", data="12345"),))
    async with play(heads) as player, httpx.AsyncClient(base_url=player.http_url) as http:
        head = await http.head("/x")
        assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "5")
        assert (await http.post("/x", content=b"x" * 1_000_001)).status_code == 413


async def test_a_client_that_is_not_speaking_http_harms_nobody():
    async with play(TWO_CONNECTIONS) as player:
        port = int(player.http_url.rsplit(":", 1)[1])
        for garbage in (b"\x00\x01\r\n\r\n", b""):
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            async with stream:
                await stream.send_all(garbage)
                await stream.send_eof()
                with trio.fail_after(WITHIN):
                    while await stream.receive_some(1000):
                        pass
        bad = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(bad)
        async with open_websocket_url(player.ws_url) as socket:
            assert await received(socket, 1) == FRAMES[:1]


def test_a_negative_speed_is_refused():
    async def main():
        async with play(TWO_CONNECTIONS, speed=-1):
            raise AssertionError("not reached")

    with pytest.raises(ValueError, match="speed: expected 0"):
        trio.run(main)

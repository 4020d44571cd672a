"""No loss over a reconnect, with pusher-js as it is and `relay/web/resume.js` beside it."""

from typing import Any

import trio

from relay.model.events import Quote, Stamp
from relay.testing.faults import Corrupt, FaultProxy
from support.cable import Cable
from support.client import Client
from support.deadlines import WITHIN
from support.harness import Stage, stage
from support.http_api import ask
from support.matrix import judged_by
from support.running import port_of, running_relay

OTHERS = {
    "pysher": "resume.js is for what is built upon pusher-js",
    "asyncpusher": "resume.js is for what is built upon pusher-js",
}
CHANNELS = ("room", "cache-room", "private-room", "presence-room")


async def reconnected(client: Client, line: Cable, channel: str = "room", *, times: int = 1) -> None:
    """Mend the line, and wait until the client has its channel back."""
    line.mend()
    await client.event(channel, "pusher:subscription_succeeded", skip=times)


async def cut(s: Stage, line: Cable) -> None:
    """Cut the line, and wait until the relay has noticed."""
    line.cut()
    await s.until_empty()


def failures(client: Client) -> list[tuple[str, str]]:
    return [(line["channel"], line["reason"]) for line in client.lines if line["on"] == "resume_failed"]


@judged_by("no loss over a reconnect: what was missed, in order, once, before anything new", absent=OTHERS)
async def test_no_loss(library: str, browser_port: int) -> None:
    async with stage(browser_port) as s:
        line = await s.cable()
        client = await s.connected(library, port=line.port, resume={})
        await client.subscribe(*CHANNELS)
        numbers = iter(range(100))

        def publish(count: int) -> None:
            for _ in range(count):
                number = next(numbers)
                for channel in CHANNELS:
                    s.publish(channel, {"number": number})

        publish(3)
        for channel in CHANNELS:
            await client.event(channel, "greeting", skip=2)
        for cuts in (1, 2):
            await cut(s, line)
            publish(10)
            await reconnected(client, line, CHANNELS[-1], times=cuts)
            publish(2)
        for channel in CHANNELS:
            await client.event(channel, "greeting", skip=26)
            assert [data["number"] for data in client.events(channel, "greeting")] == list(range(27)), channel
        assert failures(client) == []


async def test_a_line_cut_between_any_two_events_loses_none() -> None:
    """What has left the relay is not what has arrived: the line is cut while events are under way."""
    async with stage() as s:
        line = await s.cable()
        client = await s.connected("pusher-js", port=line.port, resume={})
        await client.subscribe("room")
        for cuts in range(1, 4):
            for number in range(200):
                s.publish("room", {"number": (cuts - 1) * 200 + number, "filling": "x" * 900})
                if number == 150:
                    await client.event("room", "greeting", skip=(cuts - 1) * 200)
                    line.cut()
            await s.until_empty()
            await reconnected(client, line, times=cuts)
        await client.event("room", "greeting", skip=599)
        assert [data["number"] for data in client.events("room", "greeting")] == list(range(600))


async def test_an_event_that_was_damaged_on_the_way_is_resumed() -> None:
    async with trio.open_nursery() as nursery:
        async with stage() as s:
            line = FaultProxy(s.port)
            await nursery.start(line.run)
            client = await s.connected("pusher-js", port=line.port, resume={})
            await client.subscribe("room")
            for number in range(6):
                if number == 2:
                    line.inject(Corrupt("text"))
                s.publish("room", {"number": number})
            await client.event("room", "greeting", skip=5)
            assert [data["number"] for data in client.events("room", "greeting")] == list(range(6))
            assert failures(client) == []
        nursery.cancel_scope.cancel()


async def test_events_of_a_stream_have_their_number_inside() -> None:
    provider = {"adapter": "synthetic", "url": "ws://127.0.0.1:9", "http_url": "http://127.0.0.1:9"}
    async with running_relay({"venue": provider}) as relay, stage() as s:
        line = await s.cable()
        line.to = port_of(relay)
        client = await s.connected("pusher-js", port=line.port, resume={})
        await client.subscribe("quote.venue.BTC-USD")

        def publish(bid: int) -> None:
            stamp = Stamp(provider="venue", received_at="2026-01-02T03:04:05Z")
            relay.publish(Quote(symbol="BTC/USD", bid=str(bid), ask="9"), stamp)

        publish(1)
        await client.event("quote.venue.BTC-USD", "quote")
        line.cut()
        with trio.fail_after(WITHIN):
            while relay.hub.connections:
                await trio.sleep(0.01)
        for bid in (2, 3):
            publish(bid)
        await reconnected(client, line, "quote.venue.BTC-USD")
        publish(4)
        await client.event("quote.venue.BTC-USD", "quote", skip=3)
        heard = client.events("quote.venue.BTC-USD", "quote")
        assert [event["quote"]["bid"] for event in heard] == ["1", "2", "3", "4"]
        # The venue is not to be reached, which is an event of the channel too: together they have every number once.
        heard += client.events("quote.venue.BTC-USD", "staleness")
        assert sorted(event["seq"] for event in heard) == list(range(1, len(heard) + 1))


@judged_by("a relay that began anew says so: epoch_changed", absent=OTHERS)
async def test_epoch_changed(library: str, browser_port: int) -> None:
    async with stage() as second, stage(browser_port) as s:
        line = await s.cable()
        client = await s.connected(library, port=line.port, resume={})
        await client.subscribe("room")
        s.publish("room", 1)
        await client.event("room", "greeting")
        line.to = second.port
        await cut(s, line)
        second.publish("room", "nobody was there yet")
        await reconnected(client, line)
        second.publish("room", 2)
        await client.event("room", "greeting", skip=1)
        assert (client.events("room", "greeting"), failures(client)) == ([1, 2], [("room", "epoch_changed")])
        line.cut()  # from here on it resumes in the new epoch
        await second.until_empty()
        second.publish("room", 3)
        await reconnected(client, line, times=2)
        await client.event("room", "greeting", skip=2)
        assert (client.events("room", "greeting"), len(failures(client))) == ([1, 2, 3], 1)


@judged_by("more was missed than is kept: position_expired", absent=OTHERS)
async def test_position_expired(library: str, browser_port: int) -> None:
    async with stage(browser_port, tables={"history": {"events": 5}}) as s:
        line = await s.cable()
        client = await s.connected(library, port=line.port, resume={})
        await client.subscribe("room", "other")
        s.publish("room", 0)
        s.publish("other", 0)
        await client.event("other", "greeting")
        await cut(s, line)
        for number in range(1, 7):
            s.publish("room", number)
        s.publish("other", 1)
        await reconnected(client, line)
        s.publish("room", "new")
        await client.event("room", "greeting", skip=1)
        await client.event("other", "greeting", skip=1)
        assert failures(client) == [("room", "position_expired")]
        assert (client.events("room", "greeting"), client.events("other", "greeting")) == ([0, "new"], [0, 1])


@judged_by("rewind: the last events when a channel is joined", absent=OTHERS)
async def test_rewind(library: str, browser_port: int) -> None:
    async with stage(browser_port) as s:
        line = await s.cable()
        for number in range(10):
            s.publish("room", number)
        client = await s.connected(library, port=line.port, resume={"rewind": 3})
        await client.subscribe("room")
        await client.event("room", "greeting", skip=2)
        await cut(s, line)
        s.publish("room", 10)
        await reconnected(client, line)
        s.publish("room", 11)
        await client.event("room", "greeting", skip=4)
        assert client.events("room", "greeting") == [7, 8, 9, 10, 11]


async def test_a_channel_that_was_left_begins_anew() -> None:
    async with stage() as s:
        client = await s.connected("pusher-js", resume={})
        await client.subscribe("room")
        s.publish("room", 1)
        await client.event("room", "greeting")
        await client.do("unsubscribe", channel="room")
        with trio.fail_after(WITHIN):
            while s.relay.hub.channel_info("7", "room", 0).occupied:
                await trio.sleep(0.01)
        s.publish("room", 2)
        await client.do("subscribe", channel="room")
        await client.event("room", "pusher:subscription_succeeded", skip=1)
        s.publish("room", 3)
        await client.event("room", "greeting", skip=1)
        assert client.events("room", "greeting") == [1, 3]


async def test_a_users_own_channel_is_resumed_too() -> None:
    async with stage() as s:
        line = await s.cable()
        client = await s.connected("pusher-js", port=line.port, resume={})
        await client.ask("signin")

        async def until_joined() -> None:
            with trio.fail_after(WITHIN):
                while not s.relay.hub.channel_info("7", "#server-to-user-ada", 0).occupied:
                    await trio.sleep(0.01)

        def tell(number: int) -> None:
            s.relay.hub.send_to_user("7", "ada", "greeting", str(number), trio.current_time())

        await until_joined()
        tell(1)
        await client.wait(lambda line: line["on"] == "user" and line["data"] == 1)
        await cut(s, line)
        tell(2)
        line.mend()
        await until_joined()
        tell(3)
        await client.wait(lambda line: line["on"] == "user" and line["data"] == 3)
        heard = [line["data"] for line in client.lines if line["on"] == "user" and line["event"] == "greeting"]
        assert heard == [1, 2, 3]


async def test_history_by_http() -> None:
    async with stage(tables={"history": {"events": 5}}) as s:
        path = "/apps/7/channels/room/history"

        async def history(**params: str) -> tuple[int, Any]:
            answer = await ask(s.port, "GET", path, **params)
            return answer.status_code, answer.json()

        s.publish("room", {"number": 1})
        status, page = await history()
        assert (status, [event["data"] for event in page["events"]]) == (200, ['{"number": 1}'])
        position = {"epoch": page["epoch"], "after_seq": str(page["seq"])}
        for number in range(2, 6):
            s.publish("room", {"number": number})
        status, page = await history(**position, limit="3")
        assert ([event["seq"] for event in page["events"]], page["more"]) == ([2, 3, 4], True)
        status, page = await history(**position)
        assert ([event["seq"] for event in page["events"]], page["more"]) == ([2, 3, 4, 5], False)
        for number in range(6, 8):
            s.publish("room", {"number": number})
        status, gone = await history(**position)
        assert (status, gone["reason"], gone["seq"]) == (410, "position_expired", 7)
        status, gone = await history(epoch="another", after_seq="1")
        assert (status, gone["reason"]) == (410, "epoch_changed")

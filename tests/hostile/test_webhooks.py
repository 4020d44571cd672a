"""Webhooks: names that strangers make up do not push out what an application's server is told of its members."""

import json
import re
from collections import Counter
from functools import partial

import trio

from support.deadlines import WITHIN
from support.http_api import OURS
from support.raw import raw
from support.running import APP, port_of, running_relay

ROOM, NAMES, MEMBERS, QUEUE = "presence-room", 300, 5, 100


async def test_members_are_told_though_strangers_occupy_more_channels_than_may_wait() -> None:
    told, answering = Counter[str](), trio.Event()

    async def endpoint(stream: trio.SocketStream) -> None:
        """Take one webhook after another, once the strangers have come and gone."""
        await answering.wait()
        data = b""
        while more := await stream.receive_some(65536):
            data += more
            while (whole := re.match(rb"(?is).*?content-length: (\d+).*?\r\n\r\n", data)) is not None:
                end = whole.end() + int(whole[1])
                if len(data) < end:
                    break
                body, data = data[whole.end() : end], data[end:]
                told.update(event["name"] for event in json.loads(body)["events"])
                await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, endpoint, 0, host="127.0.0.1"))
        url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}/"
        table = {"app": APP["id"], "url": url, "queue_events": QUEUE, "timeout": WITHIN}
        async with running_relay(plugins={"webhooks": {"endpoints": {"main": table}}}) as relay:
            port = port_of(relay)
            async with raw(port) as stranger:

                async def occupy(first: int) -> None:
                    for number in range(first, first + NAMES):
                        await stranger.subscribe(f"made-up-{number}")

                await occupy(0)
                for number in range(MEMBERS):
                    async with raw(port) as member:
                        proof = member.member(OURS, ROOM, f"u{number}")
                        await member.say("pusher:subscribe", {"channel": ROOM, **proof})
                        await member.hear("pusher_internal:subscription_succeeded")
                await occupy(NAMES)
                answering.set()
                with trio.fail_after(WITHIN):
                    while told["member_added"] < MEMBERS:
                        await trio.sleep(0.01)
            assert told["channel_occupied"] < NAMES  # the queue was full
        nursery.cancel_scope.cancel()

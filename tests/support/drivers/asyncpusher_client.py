"""A real asyncpusher client, driven by lines of JSON on stdin, reporting lines of JSON on stdout as the others do."""

import asyncio
import json
import logging
import re
import sys
from functools import partial
from typing import Any

import aiohttp
from asyncpusher import Pusher

INTERNAL = {
    "pusher_internal:subscription_succeeded": "pusher:subscription_succeeded",
    "pusher_internal:member_added": "pusher:member_added",
    "pusher_internal:member_removed": "pusher:member_removed",
    "pusher_internal:subscription_count": "pusher:subscription_count",
    "pusher:cache_miss": "pusher:cache_miss",
}
#: asyncpusher hands out only events that something is bound to.
EVENTS = ("greeting", "client-typing")


def report(**line: Any) -> None:
    print(json.dumps(line), flush=True)


class Ends(logging.Handler):
    """asyncpusher tells only its log with which code it was closed, and that it has given up."""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if found := re.search(r"Exiting dispatch.*data=(\d+), extra='(.*)'\)", text):
            report(on="error", error={"code": int(found[1]), "message": found[2]})
        if text == "End of forever":
            report(on="state", current="disconnected")


class Client:
    async def connect(self, key: str, options: dict[str, Any], **_: Any) -> None:
        self.authorization = options.get("channelAuthorization")
        log = logging.getLogger("asyncpusher")
        log.setLevel(logging.INFO)
        log.propagate = False
        log.addHandler(Ends())
        self.pusher = Pusher(
            key,
            custom_host=options["wsHost"],
            custom_port=options["wsPort"],
            secure=False,
            auto_sub=True,
            channel_authenticator=self._authorize,
            log=log,
        )
        self.pusher.connection.bind("pusher:connection_established", self._connected)
        self.pusher.connection.bind("pusher:error", self._refused)
        self.connecting = asyncio.create_task(self.pusher.connect())

    async def _connected(self, data: dict[str, Any]) -> None:
        report(on="state", current="connected", socket_id=data["socket_id"])

    async def _refused(self, data: dict[str, Any]) -> None:
        report(on="error", error=data)

    async def _authorize(self, asked: dict[str, str]) -> dict[str, str]:
        assert self.authorization is not None
        async with aiohttp.ClientSession() as http:
            form = {**asked, **self.authorization["params"]}
            async with http.post(self.authorization["endpoint"], data=form) as response:
                response.raise_for_status()
                return dict(await response.json())

    async def subscribe(self, channel: str) -> None:
        subscribed = await self.pusher.subscribe(channel)
        for event, name in {**INTERNAL, **{event: event for event in EVENTS}}.items():
            subscribed.bind(event, partial(self._tell, channel, name))

    async def _tell(self, channel: str, event: str, data: Any) -> None:
        if isinstance(data, dict) and "presence" in data:
            data = {"members": data["presence"]["hash"]}
        elif event.startswith("pusher:member_"):
            data = {"id": data["user_id"], "info": data.get("user_info")}
        report(on="event", channel=channel, event=event, data=data)

    async def unsubscribe(self, channel: str) -> None:
        await self.pusher.unsubscribe(channel)

    async def trigger(self, channel: str, event: str, data: Any) -> None:
        await self.pusher.channels[channel].trigger({"event": event, "data": data})


async def main() -> None:
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    client = Client()
    async for line in lines:
        command = json.loads(line)
        await getattr(client, command.pop("op"))(**command)


asyncio.run(main())

"""A real pysher client, driven by lines of JSON on stdin, reporting lines of JSON on stdout as the others do."""

import json
import logging
import queue
import sys
from typing import Any

import pysher

INTERNAL = {
    "pusher_internal:subscription_succeeded": "pusher:subscription_succeeded",
    "pusher_internal:member_added": "pusher:member_added",
    "pusher_internal:member_removed": "pusher:member_removed",
    "pusher_internal:subscription_count": "pusher:subscription_count",
    "pusher:cache_miss": "pusher:cache_miss",
}
#: pysher hands out only events that something is bound to.
EVENTS = ("greeting", "client-typing")


def report(**line: Any) -> None:
    print(json.dumps(line), flush=True)


class Client:
    def __init__(self) -> None:
        self.wanted: queue.Queue[str] = queue.Queue()

    def connect(self, key: str, options: dict[str, Any], secret: str | None, **_: Any) -> None:
        member = options.get("channelAuthorization", {}).get("params", {})
        user = {"user_id": member.get("user_id", ""), "user_info": {"name": member.get("name", "")}}
        self.pusher = pysher.Pusher(
            key,
            custom_host=options["wsHost"],
            port=options["wsPort"],
            secure=False,
            secret=secret or "",
            user_data=user,
            auto_sub=True,
            reconnect_interval=1,
            log_level=logging.CRITICAL,
        )
        connection = self.pusher.connection
        connection.bind("pusher:connection_established", self._connected)
        connection.bind("pusher:error", lambda data: report(on="error", error=data))
        connection.bind("pusher:pong", self._ponged)
        self.pusher.connect()

    def _connected(self, data: str) -> None:
        report(on="state", current="connected", socket_id=json.loads(data)["socket_id"])

    def _ponged(self, _: object) -> None:
        report(on="heartbeat", event="pusher:pong")
        while not self.wanted.empty():
            self._subscribe(self.wanted.get())

    def subscribe(self, channel: str) -> None:
        """Subscribe in a handler, as pysher's own examples do: the answer cannot come before something is bound to it."""
        self.wanted.put(channel)
        self.pusher.connection.send_ping()

    def _subscribe(self, channel: str) -> None:
        subscribed = self.pusher.subscribe(channel)
        for event, name in {**INTERNAL, **{event: event for event in EVENTS}}.items():
            subscribed.bind(event, self._tell, channel, name)

    def _tell(self, text: str, channel: str, event: str) -> None:
        data = json.loads(text)
        if isinstance(data, dict) and "presence" in data:
            data = {"members": data["presence"]["hash"]}
        elif event.startswith("pusher:member_"):
            data = {"id": data["user_id"], "info": data.get("user_info")}
        report(on="event", channel=channel, event=event, data=data)

    def unsubscribe(self, channel: str) -> None:
        self.pusher.unsubscribe(channel)

    def trigger(self, channel: str, event: str, data: Any) -> None:
        self.pusher.channel(channel).trigger(event, data)


client = Client()
for line in sys.stdin:
    command = json.loads(line)
    getattr(client, command.pop("op"))(**command)

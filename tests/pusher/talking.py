"""Apps and small conversations for the tests of the Pusher room."""

import json
from typing import Any

from relay.pusher import App, SendMessage, ServerConnection, signatures

SOCKET_ID = "123.456"


def make_app(**changes: Any) -> App:
    fields: dict[str, Any] = {"id": "3", "key": "278d425bdf160c739803", "secrets": ("7ad3773142a6692b25b8",)}
    return App(**(fields | {"client_events": True} | changes))


class Conversation:
    """A client's side by hand: says a thing to a ServerConnection and returns what came of it."""

    def __init__(self, app: App, protocol: str = "7") -> None:
        self.app = app
        self.now = 1000.0
        self.server = ServerConnection(app, SOCKET_ID, self.now)
        self.opened = self.server.open({"protocol": protocol})

    def say(self, event: str, data: Any = None, **fields: Any) -> list[Any]:
        return self.server.receive(json.dumps({"event": event, "data": data, **fields}), self.now)

    def subscribe(self, channel: str, channel_data: Any = None, **fields: Any) -> list[Any]:
        data: dict[str, Any] = {"channel": channel, **fields}
        if channel_data is not None:
            data["channel_data"] = channel_data if isinstance(channel_data, str) else json.dumps(channel_data)
        if "auth" not in fields and channel.startswith(("private-", "presence-")):
            data["auth"] = signatures.channel_auth(self.app, SOCKET_ID, channel, data.get("channel_data"))
        return self.say("pusher:subscribe", data)

    def sign_in(self, **user: Any) -> list[Any]:
        user_data = json.dumps(user)
        auth = signatures.user_auth(self.app, SOCKET_ID, user_data)
        return self.say("pusher:signin", {"auth": auth, "user_data": user_data})


def sent(actions: list[Any]) -> dict[str, Any]:
    """The one message sent, its inner JSON decoded too."""
    (action,) = actions
    assert isinstance(action, SendMessage), action
    message: dict[str, Any] = json.loads(action.text)
    if isinstance(message.get("data"), str):
        message["data"] = json.loads(message["data"])
    return message

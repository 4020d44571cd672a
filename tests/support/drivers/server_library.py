"""The official server library for Python, driven as `server_library.mjs` is."""

import json
import sys
from typing import Any

import pusher
from pusher.errors import PusherError

host, port, app_id, key, secret, master_key = sys.argv[1:]
library = pusher.Pusher(
    app_id, key, secret, host=host, port=int(port), ssl=False, encryption_master_key_base64=master_key
)


def authorize(socket_id: str, channel: str, member: dict[str, Any] | None) -> dict[str, str]:
    answered = library.authenticate(channel, socket_id, member)
    # The library gives the key of an encrypted channel as bytes, which no JSON takes.
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in answered.items()}


def webhook(headers: dict[str, str], body: str) -> dict[str, Any] | None:
    found = library.validate_webhook(headers["x-pusher-key"], headers["x-pusher-signature"], body)
    return None if found is None else dict(found)


CALLS = {
    "trigger": lambda channels, name, data, socket_id=None: library.trigger(channels, name, data, socket_id),
    "batch": lambda events: library.trigger_batch(events),
    "channels": lambda prefix, info=(): library.channels_info(prefix, info),
    "channel": lambda channel, info=(): library.channel_info(channel, info),
    "users": lambda channel: library.users_info(channel),
    "send_to_user": lambda user_id, name, data: library.send_to_user(user_id, name, data),
    "terminate": lambda user_id: library.terminate_user_connections(user_id),
}
RESULTS = {
    "authorize": authorize,
    "authenticate": lambda socket_id, user: library.authenticate_user(socket_id, user),
    "webhook": webhook,
}


def answer(call: str, arguments: dict[str, Any]) -> dict[str, Any]:
    try:
        if call in RESULTS:
            return {"result": RESULTS[call](**arguments)}
        return {"status": 200, "body": json.dumps(CALLS[call](**arguments))}
    except PusherError as error:
        return {"status": {"PusherBadRequest": 400, "PusherBadAuth": 401, "PusherForbidden": 403}.get(type(error).__name__), "body": str(error)}  # fmt: skip
    except ValueError as error:
        return {"error": str(error)}


for line in sys.stdin:
    command = json.loads(line)
    print(json.dumps(answer(command["call"], command["arguments"])), flush=True)

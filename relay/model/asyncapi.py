"""The AsyncAPI 3 document of the relay: its channels, events and commands, from the model (https://www.asyncapi.com/docs/reference/specification/v3.0.0)."""

from functools import cache
from inspect import cleandoc, getdoc
from typing import Any

from relay.model.command_input import MEMBERS, Member
from relay.model.commands import COMMANDS
from relay.model.events import ACCOUNT_KINDS, KINDS, MARKET_KINDS, STATUS_KINDS
from relay.model.serialize import event_schema

_ABOUT = cleandoc("""
    Every provider as one normalized feed over the Pusher protocol, version 7. A client connects to `/app/{key}` and
    subscribes to channels with `pusher:subscribe`. The name of a Pusher event is the kind of the event, and its `data` is
    the payload described here, as JSON in text. Use a Pusher client library: it does the rest.
""")
_PARAMETERS = {
    "provider": "Configured name of the provider; `all` for market data of all providers.",
    "symbol": "Canonical symbol: `/` is written `-`, other characters outside A-Za-z0-9_ as `=XX` of their UTF-8 bytes.",
    "timeframe": "Length of a bar, such as 1m, 4h, 1d.",
    "account": "Configured name of the account.",
}
_TYPES: dict[str, dict[str, Any]] = {
    "text": {"type": "string"},
    "decimal": {"type": ["string", "number"], "description": "Decimal; as text it keeps its digits everywhere."},
    "time": {"type": "string", "format": "date-time"},
    "flag": {"type": "boolean"},
    "object": {"type": "object"},
}


@cache
def document(version: str) -> dict[str, Any]:
    """Return the document of a relay of this version, without `servers`. It is made once: do not change it."""
    messages = {kind: _event(kind) for kind in KINDS} | {"client-command": _command_message()}
    channels = {kind: _market(kind) for kind in KINDS if kind in MARKET_KINDS}
    account = [kind for kind in KINDS if kind in ACCOUNT_KINDS or kind in ("gap", "staleness", "error")]
    channels["account"] = _channel("private-account.{provider}.{account}", [*account, "client-command"])
    channels["status"] = _channel("status.{provider}", [kind for kind in KINDS if kind in STATUS_KINDS])
    operations = {f"send_{name}": _send(name, channel) for name, channel in channels.items()}
    operations["receive_command"] = _receive_command()
    schemas = {kind: _payload(kind) for kind in KINDS} | {name: _command(name) for name in COMMANDS}
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "tickrelay", "version": version, "description": _ABOUT, "license": {"name": "MIT"}},
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": schemas},
    }


def server(host: str, *, tls: bool) -> dict[str, Any]:
    """Return the entry of `servers` for a relay at ``host``, which is a name or address with a port."""
    return {
        "host": host,
        "pathname": "/app/{key}",
        "protocol": "wss" if tls else "ws",
        "protocolVersion": "7",
        "variables": {"key": {"description": "Key of the app, from POST /api/v2/ws/session or the configuration."}},
    }


def _market(kind: str) -> dict[str, Any]:
    tail = ".{timeframe}" if kind == "candle" else ""
    return _channel(f"{kind}.{{provider}}.{{symbol}}{tail}", [kind, "gap", "staleness"])


def _channel(address: str, kinds: list[str]) -> dict[str, Any]:
    parameters = {name: {"description": about} for name, about in _PARAMETERS.items() if f"{{{name}}}" in address}
    messages = {kind: {"$ref": f"#/components/messages/{kind}"} for kind in kinds}
    return {"address": address, "parameters": parameters, "messages": messages}


def _send(name: str, channel: dict[str, Any]) -> dict[str, Any]:
    sent = [kind for kind in channel["messages"] if kind != "client-command"]
    messages = [{"$ref": f"#/channels/{name}/messages/{kind}"} for kind in sent]
    return {"action": "send", "channel": {"$ref": f"#/channels/{name}"}, "messages": messages}


def _receive_command() -> dict[str, Any]:
    channel = {"$ref": "#/channels/account"}
    return {
        "action": "receive",
        "channel": channel,
        "summary": "A command to the account, as a client event. POST /api/v2/commands takes the same.",
        "messages": [{"$ref": "#/channels/account/messages/client-command"}],
        "reply": {"channel": channel, "messages": [{"$ref": "#/channels/account/messages/reply"}]},
    }


def _event(kind: str) -> dict[str, Any]:
    summary = (getdoc(KINDS[kind]) or "").split("\n\n", 1)[0]
    return {"name": kind, "summary": summary, "payload": {"$ref": f"#/components/schemas/{kind}"}}


def _payload(kind: str) -> dict[str, Any]:
    schema = event_schema(kind)
    del schema["$schema"]  # it uses only what the dialect of AsyncAPI has too
    return schema


def _command_message() -> dict[str, Any]:
    payload = {"oneOf": [{"$ref": f"#/components/schemas/{name}"} for name in COMMANDS]}
    return {"name": "client-command", "summary": "A trading command.", "payload": payload}


def _command(name: str) -> dict[str, Any]:
    members = {"command": {"const": name}}
    members |= {
        member.name: _member(member) for member in MEMBERS[name] if member.name != "account"
    }  # it is the channel's
    members |= {"within": _TYPES["decimal"], "dry_run": _TYPES["flag"]}
    required = [member.name for member in MEMBERS[name] if member.required and member.name != "id"]
    about = (getdoc(COMMANDS[name]) or "").split("\n\n", 1)[0]
    return {
        "title": name,
        "description": about,
        "type": "object",
        "properties": members,
        "required": ["command", *required],
        "additionalProperties": False,
    }


def _member(member: Member) -> dict[str, Any]:
    return {"enum": list(member.values)} if member.values else _TYPES[member.type]

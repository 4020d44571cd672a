"""``tickrelay status``: the state of a running relay, with an exit code for scripts."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import anyio

from relay.cli.output import Busy, age, console, print_json, table_of
from relay.cli.remote import RunningRelay, connected
from relay.model.channels import Stream, Topic, channel_name

if TYPE_CHECKING:
    from rich.console import Group

UNUSABLE = 5
#: Streams that are listed; the stale ones come first.
SHOWN = 30
_FINE = ("CONNECTED", "IDLE", "ELSEWHERE")


async def show_status(relay: RunningRelay, *, watch: bool, every: float, as_json: bool) -> int:
    """Carry out `tickrelay status`."""
    async with connected(relay) as client:
        with Busy(f"asking {relay.url}"):
            found = await client.status()
        if not watch:
            unusable = list(not_usable(found))
            if as_json:
                print_json({**found, "unusable": unusable})
            else:
                console().print(described(found, None, 0.0, utc_now()))
            return UNUSABLE if unusable else 0
        if as_json:
            while True:
                print_json({**found, "unusable": list(not_usable(found))})
                await anyio.sleep(every)
                found = await client.status()
        from rich.live import Live

        before, at = found, anyio.current_time()
        with Live(described(found, None, 0.0, utc_now()), console=console(), auto_refresh=False, screen=False) as live:
            while True:
                await anyio.sleep(every)
                found, now = await client.status(), anyio.current_time()
                live.update(described(found, before, now - at, utc_now()), refresh=True)
                before, at = found, now


async def show_cluster(relay: RunningRelay, *, as_json: bool) -> int:
    """Carry out `tickrelay cluster`."""
    async with connected(relay) as client:
        store = (await client.status())["store"]
    cluster = store.get("cluster")
    if cluster is None:
        console().print(f"{relay.url} is not part of a cluster (store.url is not a redis:// URL)")
        return 0
    if as_json:
        print_json(cluster)
    else:
        for line in cluster_lines(cluster):
            console().print(line, highlight=False)
    return 0 if cluster["available"] and all(each["owner"] for each in cluster["providers"]) else UNUSABLE


def cluster_lines(cluster: Mapping[str, Any]) -> Iterator[str]:
    """Yield the relays of a cluster, and each provider with its owner and how far behind it the relays are."""
    if not cluster["available"]:
        yield f"not usable: {cluster['reason']}"
    for name, node in sorted(cluster["nodes"].items()):
        here = " (asked)" if name == cluster["node"] else ""
        owns = ", ".join(node["owns"]) or "nothing"
        yield f"relay {name}{here}: {node['role']}, {node['connections']} connections, owns {owns}"
    for provider in cluster["providers"]:
        name, owner = provider["provider"], provider["owner"]
        suspected = f", {provider['suspected']}" if provider["suspected"] else ""
        yield f"provider {name}: owner {owner or 'none'}{suspected}"
        ahead = cluster["nodes"].get(owner, {}).get("read", {}).get(name)
        for other, node in sorted(cluster["nodes"].items()):
            at = node["read"].get(name)
            if other != owner and ahead is not None and at is not None:
                behind = f"{max(0, ahead[1] - at[1])} batches" if at[0] == ahead[0] else "an owner"
                yield f"  {other}: {behind} behind"


def utc_now() -> datetime:
    """Return the wall time."""
    return datetime.now(UTC)


def not_usable(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the failures in a relay's status, one line each."""
    for session in found["sessions"]:
        if session["state"] not in _FINE:
            yield f"{_name(session)}: {session['state']}{_because(session.get('reason'))}"
    if not found["store"]["available"]:
        yield f"the store cannot be written{_because(found['store'].get('reason'))}"
    for stream in found["hub"]["streams"]:
        if stream["subscribers"] and not stream["usable"]:
            yield f"{_channel(stream)}: stale, {stream['subscribers']} subscribers"


def _because(reason: Any) -> str:
    return f" ({reason})" if reason else ""


def _name(session: Mapping[str, Any]) -> str:
    return f"{session['provider']}/{session['account']}" if session.get("account") else str(session["provider"])


def _channel(stream: Mapping[str, Any]) -> str:
    topic = Topic(**{name: stream[name] for name in ("kind", "symbol", "timeframe", "account")})
    return channel_name(Stream(stream["provider"], topic))


def described(found: Mapping[str, Any], before: Mapping[str, Any] | None, seconds: float, now: datetime) -> "Group":
    """Return tables of a status; with rates if ``before``, the status ``seconds`` earlier, is given."""
    from rich.console import Group
    from rich.text import Text

    unusable, commands = list(not_usable(found)), found["commands"]
    head = Text(f"tickrelay {found['version']}: ")
    head.append(
        "ready" if not unusable else f"{len(unusable)} not usable", style="green" if not unusable else "bold red"
    )
    head.append(
        f", {found['hub']['connections']} connections, {commands.get('open', 0)} open commands, "
        f"store {'writable' if found['store']['available'] else 'NOT WRITABLE'}"
    )
    sessions = table_of(
        (
            "session",
            "state",
            "up",
            "last message",
            "messages",
            "reconnects",
            "unknown",
            "audit finds",
            "budget left",
            "reason",
        ),
        (_session_row(each, now) for each in found["sessions"]),
    )
    parts: list[Any] = [head, Text(), sessions]
    streams = sorted(found["hub"]["streams"], key=lambda each: (each["usable"], -each["subscribers"], _channel(each)))
    if streams:
        numbers = {_channel(each): each["seq"] for each in (before["hub"]["streams"] if before else ())}
        rows = (_stream_row(each, numbers, seconds, now) for each in streams[:SHOWN])
        parts += [Text(), table_of(("stream", "events/s", "last event", "subscribers", "usable"), rows)]
        if len(streams) > SHOWN:
            parts.append(Text(f"and {len(streams) - SHOWN} more; --json has all"))
    if unusable:
        parts += [Text(), *(Text(f"not usable: {line}", style="red") for line in unusable)]
    return Group(*parts)


def _session_row(session: Mapping[str, Any], now: datetime) -> tuple[str, ...]:
    notes, budget = session.get("notes", {}), session.get("budget", {})
    figures = [str(session.get(name, "")) for name in ("messages", "reconnects", "unknown")]
    left = " ".join(f"{of} {remaining:g}" for of, remaining in budget.items() if remaining is not None)
    finds = str(notes.get("found_by_audit", 0))
    up = _since(session.get("up_since"), now)
    last = _since(session.get("last_received_at"), now) or "never"
    return _name(session), session["state"], up, last, *figures, finds, left, str(session.get("reason") or "")


def _stream_row(
    stream: Mapping[str, Any], numbers: Mapping[str, int], seconds: float, now: datetime
) -> tuple[str, ...]:
    channel = _channel(stream)
    rate = f"{(stream['seq'] - numbers[channel]) / seconds:.1f}" if channel in numbers and seconds else ""
    last = _since(stream.get("last_received_at"), now) or "never"
    return channel, rate, last, str(stream["subscribers"]), "yes" if stream["usable"] else "NO"


def _since(at: str | None, now: datetime) -> str:
    """Return how long ago a time was, as people read it; empty where there is none."""
    return age((now - datetime.fromisoformat(at)).total_seconds()) if at else ""

"""Memory: clients never get the last of what the system allows, so that providers, commands and an administrator go on."""

import contextlib
import json
import resource
from collections.abc import Iterable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio

from relay.server.memory import SETTING, MemoryLimit, MemoryReserve, memory_limits
from support.deadlines import WITHIN
from support.http_api import send
from support.process import serving, started
from support.raw import Closed, Raw, raw
from support.running import APP

MEBIBYTE = 1 << 20
CONFIGURATION = f"""\
allow_inline_secrets = true

[server]
listen = "127.0.0.1:{{port}}"
status_public = true
subscribers = {{ message_bytes = {16 * MEBIBYTE}, pending_bytes = {4096 * MEBIBYTE} }}
limits = {{ reserved_memory = {64 * MEBIBYTE} }}

[apps.main]
id = "{APP["id"]}"
key = "{APP["key"]}"
secret = "{APP["secret"]}"
"""


def size_of(process: trio.Process) -> int:
    """Return the address space of a process, which RLIMIT_AS bounds."""
    return int(Path(f"/proc/{process.pid}/statm").read_text().split()[0]) * resource.getpagesize()


def allow(process: trio.Process, more: int | None) -> None:
    """Let the process take so many bytes more than it has; None for any number."""
    most = resource.RLIM_INFINITY if more is None else size_of(process) + more
    resource.prlimit(process.pid, resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))


async def test_where_the_reserve_is_touched_nobody_new_is_served_and_everything_else_goes_on(tmp_path: Path) -> None:
    async with serving(tmp_path, CONFIGURATION) as (process, port), raw(port) as member:
        await member.subscribe("room")
        allow(process, 48 * MEBIBYTE)
        await until_refused(port)
        await member.say("pusher:subscribe", {"channel": "other"})
        refused = await member.hear("pusher:subscription_error")
        assert (refused["status"], SETTING in refused["error"]) == (503, True)
        for path in ("/healthz", "/metrics", "/api/v2/status"):
            assert (await send(port, "GET", path)).status_code == 200
        status = (await send(port, "GET", "/api/v2/status")).json()
        assert status["hub"]["limits"][SETTING]["refused"] >= 2

        allow(process, None)
        with trio.fail_after(WITHIN):
            while True:
                with contextlib.suppress(Closed):
                    async with raw(port):
                        break
                await trio.sleep(0.01)
        await member.subscribe("other")


async def test_clients_that_fill_memory_are_closed_before_the_last_of_it_is_gone(tmp_path: Path) -> None:
    """The settings allow them more than the system does."""
    async with serving(tmp_path, CONFIGURATION) as (process, port), AsyncExitStack() as opened:
        honest = await opened.enter_async_context(raw(port))
        await honest.subscribe("room")
        hostile = [await opened.enter_async_context(raw(port)) for _ in range(30)]
        allow(process, 192 * MEBIBYTE)
        begun = b"\x01\xff" + (12 * MEBIBYTE).to_bytes(8, "big") + b"\0\0\0\0"
        codes: list[int | None] = []
        async with trio.open_nursery() as nursery:
            for client in hostile:
                nursery.start_soon(fill, client, begun + b"x" * (8 * MEBIBYTE), codes)
            with trio.fail_after(WITHIN):
                while 4100 not in codes:
                    assert process.poll() is None
                    await trio.sleep(0.01)
            assert (await send(port, "GET", "/healthz")).status_code == 200
            await honest.say("pusher:ping")
            await honest.hear("pusher:pong")
            nursery.cancel_scope.cancel()
        assert set(codes) <= {4100, None}


async def fill(client: Raw, begun: bytes, codes: list[int | None]) -> None:
    """Send the beginning of a message, and wait for the end of the connection."""
    with contextlib.suppress(trio.BrokenResourceError):
        await client.stream.send_all(begun)
    try:
        while True:
            await client.receive()
    except Closed as closed:
        codes.append(closed.code)
    except trio.BrokenResourceError:
        codes.append(None)


async def until_refused(port: int) -> None:
    """Come again and again until the relay says that it has no memory for one more."""
    request = (
        f"GET /app/{APP['key']}?protocol=7 HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    with trio.fail_after(WITHIN):
        while True:
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(request.encode())
                said = bytes(await stream.receive_some())
            if said.startswith(b"HTTP/1.1 503 "):
                assert SETTING.encode() in said
                return
            await trio.sleep(0.01)


async def test_the_start_says_what_the_system_allows(tmp_path: Path) -> None:
    """And warns where that is less than clients may fill within their limits."""
    path = tmp_path / "tickrelay.toml"
    path.write_text(CONFIGURATION.replace("{port}", "0") + '\n[log]\nformat = "json"\n')
    allowed = 3 * 1024 * MEBIBYTE
    async with started("serve", "-c", str(path), until='"limits"', memory=allowed) as (_, line):
        told = json.loads(line)
    assert (told["memory"], told["memory_of"], told["reserved_memory"]) == (allowed, "RLIMIT_AS", 64 * MEBIBYTE)


# --- the limits ------------------------------------------------------------------------------------------------------


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """The files of a system with 8 GiB, of which 6 are free."""
    own = tmp_path / "proc/self"
    own.mkdir(parents=True)
    (own / "statm").write_text("50000 20000 3000 1 0 9000 0\n")
    (own / "cgroup").write_text("")
    (tmp_path / "proc/meminfo").write_text("MemTotal: 8388608 kB\nMemFree: 1000 kB\nMemAvailable: 6291456 kB\n")
    return tmp_path


def group(folder: Path, files: dict[str, object]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(f"{text}\n")


def named(limits: Iterable[MemoryLimit], name: str) -> list[tuple[int, int]]:
    return [(limit.allowed, limit.taken) for limit in limits if limit.name == name]


def test_without_other_limits_the_machine_is_the_limit(system: Path) -> None:
    (limit,) = [limit for limit in memory_limits(system) if not limit.name.startswith("RLIMIT")]
    assert (limit.name, limit.allowed, limit.left) == ("the machine", 8 << 30, 6 << 30)


def test_a_control_group_and_those_around_it_are_limits_and_pages_of_files_are_free(system: Path) -> None:
    (system / "proc/self/cgroup").write_text("0::/outer/inner\n")
    files = {"memory.current": 900, "memory.stat": "anon 300\nfile 500\nshmem 100"}
    group(system / "sys/fs/cgroup", {})
    group(system / "sys/fs/cgroup/outer", {"memory.max": 1000, "memory.high": "max", **files})
    group(system / "sys/fs/cgroup/outer/inner", {"memory.max": "max", "memory.high": 800, **files})
    assert named(memory_limits(system), "the control group") == [(800, 500), (1000, 500)]


def test_within_a_container_the_mount_is_the_group(system: Path) -> None:
    (system / "proc/self/cgroup").write_text("0::/../../not/there\n")
    group(system / "sys/fs/cgroup", {"memory.max": 1000, "memory.current": 10, "memory.stat": "file 0"})
    assert named(memory_limits(system), "the control group") == [(1000, 10)]


def test_control_groups_of_version_1(system: Path) -> None:
    (system / "proc/self/cgroup").write_text("5:cpu,cpuacct:/a\n4:memory:/a\n0::/\n")
    files = {"memory.usage_in_bytes": 70, "memory.stat": "total_cache 30\ntotal_shmem 5"}
    group(system / "sys/fs/cgroup/memory", {"memory.limit_in_bytes": 9223372036854771712, **files})
    group(system / "sys/fs/cgroup/memory/a", {"memory.limit_in_bytes": 100, **files})
    assert named(memory_limits(system), "the control group") == [(100, 45)]


def test_a_system_that_does_not_say_has_no_limits(tmp_path: Path) -> None:
    assert list(memory_limits(tmp_path)) == []
    reserve = MemoryReserve(100, lambda: memory_limits(tmp_path))
    reserve.look()
    assert (reserve.reserve, reserve.refuses_subscribers, reserve.refuses_connections) == (0, None, None)


class Stage:
    """A reserve of 100 bytes of 1,000, and the times that the C library was asked for its own."""

    def __init__(self, wanted: int = 100) -> None:
        self.taken, self.trimmed, self.time = 0, 0, 0.0
        self.reserve = MemoryReserve(
            wanted, lambda: [MemoryLimit("test", 1000, self.taken)], self._trim, lambda: self.time
        )

    def _trim(self) -> None:
        self.trimmed += 1

    def at(self, taken: int) -> tuple[bool, bool, int]:
        self.taken = taken
        self.reserve.look()
        return (
            self.reserve.refuses_subscribers is not None,
            self.reserve.refuses_connections is not None,
            self.reserve.excess,
        )


def test_first_subscribers_are_refused_then_connections_and_all_are_let_in_again() -> None:
    stage = Stage()
    assert [stage.at(taken) for taken in (900, 901, 950, 951, 1200, 900)] == [
        (False, False, 0), (True, False, 0), (True, False, 0), (True, True, 1), (True, True, 50), (False, False, 0),
    ]  # fmt: skip


def test_the_c_library_is_asked_first_and_not_all_the_time() -> None:
    stage = Stage()
    stage.at(900)
    assert stage.trimmed == 0
    for stage.time in (1.0, 2.0, 10.5, 11.5):
        stage.at(950)
    assert stage.trimmed == 2


@pytest.mark.parametrize(("wanted", "kept"), [(100, 100), (2000, 500), (0, 0)])
def test_at_most_half_of_what_is_left_is_kept(wanted: int, kept: int) -> None:
    assert Stage(wanted).reserve.reserve == kept


def test_it_looks_more_often_where_the_reserve_is_near() -> None:
    stage = Stage()
    stage.at(600)
    assert stage.reserve.pause == 1
    stage.at(601)
    assert stage.reserve.pause == 0.1

"""Every store, by one suite; and the SQLite file where it cannot be used."""

import enum
import gc
import os
import resource
import shutil
import sqlite3
import stat
import tempfile
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from relay.cluster.app_node import AppNode
from relay.cluster.node import ClusterNode
from relay.cluster.redis import RedisCluster
from relay.cluster.store import ClusterStore
from relay.store import sqlite, sqlite_file
from relay.store.interface import GRANTED, LoggedTopic, Row, Rows, Store
from relay.store.memory import MemoryStore
from relay.store.sqlite import SqliteStore
from relay.store.sqlite_file import _ROWS, APPLICATION, VERSION, LogLimits
from support.deadlines import WITHIN
from support.redis_server import redis_server

Make = Callable[[], Store]
PROVIDER = "p"
NUMBERS = count(1)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_file, "PAUSE", 0.1)
    monkeypatch.setattr(sqlite, "BATCH", 0.05)


class Sort(enum.StrEnum):
    CONFLATE = "conflate"


class Event(msgspec.Struct, array_like=True):
    """An event to be logged."""

    seq: int
    id: str
    at: float
    head: bytes
    tail: bytes
    policy: Sort
    conflation_key: str


def event(seq: int, at: float = 0.0, tail: bytes = b"tail") -> Event:
    return Event(seq, "id", at, b"head", tail, Sort.CONFLATE, "key")


class Kept:
    """A store that runs, what it restored, and what it is told to be there."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.rows: list[Rows] = []
        self.restored: Mapping[str, LoggedTopic] = {}
        self.contents: list[Row] = []
        self.batches: dict[str, list[Event]] = {}
        self.rings: dict[str, tuple[str, int, list[Event]]] = {}

    def restore(self, rows: Rows, topics: Mapping[str, LoggedTopic]) -> None:
        self.rows.append({table: sorted(of_table) for table, of_table in rows.items()})
        self.restored = topics

    def topics(self, names: Collection[str] | None) -> Iterable[tuple[str, str, int, list[Event]]]:
        return [(name, *ring) for name, ring in self.rings.items() if names is None or name in names]

    def seqs(self) -> dict[str, list[int]]:
        return {name: [event.seq for event in topic.events] for name, topic in self.restored.items()}

    async def _asked(self, ask: Callable[[Callable[[str], object]], object]) -> str:
        said: list[str] = []
        done = trio.Event()

        def take(failure: str) -> None:
            said.append(failure)
            done.set()

        ask(take)
        with trio.fail_after(WITHIN):
            await done.wait()
        assert len(said) == 1
        return said[0]

    async def reserve(self, topic: str, up_to: int, epoch: str = "e") -> str:
        return await self._asked(lambda done: self.store.logs.reserve(topic, epoch, up_to, done))

    def log(self, topic: str, event: Event) -> None:
        """Log an event that was delivered, in one batch with those before it."""
        if topic not in self.batches:
            self.store.logs.log(topic, self.batches.setdefault(topic, []), lambda: self.batches.pop(topic))
        self.batches[topic].append(event)

    async def log_first(self, topic: str, event: Event) -> str:
        return await self._asked(lambda done: self.store.logs.log_first(topic, event, done))

    async def commit(self, key: str, value: bytes | None, table: str = "t") -> str:
        """Commit a row and return the failure."""
        return await self._asked(lambda done: self.store.commit(Row(table, key, value), done))

    async def sync(self) -> str:
        """Wait until all is written, and return the failure."""
        return await self._asked(self.store.sync)

    async def until(self, available: bool) -> None:
        with trio.fail_after(WITHIN):
            while self.store.status()["available"] is not available:
                await trio.sleep(0.01)


class Owned:
    """Stand for `Kept` before its store."""

    def __init__(self, kept: Kept) -> None:
        self.restore, self.topics = kept.restore, kept.topics
        self.rows = lambda: kept.contents


@asynccontextmanager
async def keeping(store: Any, contents: Iterable[Row] = ()) -> AsyncIterator[Kept]:
    kept = Kept(store)
    kept.contents = list(contents)
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run, Owned(kept))
        if isinstance(store, ClusterStore):  # each provider's rows are restored by the node that owns it
            part: Any = store.node.providers[PROVIDER].part
            with trio.fail_after(WITHIN):
                await part.leads.wait()
            kept.rows, part.restore = [], kept.restore
            kept.restore(part.rows, {})
        yield kept
        if isinstance(store, ClusterStore):
            await store.node.hand_over()
        nursery.cancel_scope.cancel()


class Part:
    """A provider without topics: what a node of the cluster needs of one."""

    def __init__(self) -> None:
        self.epoch = "e"
        self.rows: Rows = {}
        self.leads = trio.Event()

    def lead(self, rows: Rows) -> None:
        self.rows = rows
        self.leads.set()

    def take_over(self, *, new_epochs: bool) -> tuple[()]:
        return ()

    def checkpoint(self) -> Mapping[str, bytes]:
        return {}

    async def run_sessions(self, hand_over: trio.Event) -> None:
        await hand_over.wait()

    def nothing(self, *about: object) -> None:
        """Nothing is published, wanted or suspected."""

    publish = adopt = suspect = want = resign = nothing


def node_on(url: str) -> ClusterStore:
    """A node of its own on a Redis, with one provider."""
    store, name = ClusterStore(), f"node-{next(NUMBERS)}"
    store.node = ClusterNode(RedisCluster(url, name, ttl=1.0), {PROVIDER: Part()}, may_own=True)
    store.apps = AppNode(RedisCluster(url, name, ttl=1.0))
    return store


@pytest.fixture(params=["memory", "sqlite", "redis"])
async def make(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Make]:
    """Make the same store again and again, as restarts do."""
    if request.param == "redis":
        with tempfile.TemporaryDirectory() as short:  # the path of a socket may have some hundred bytes
            async with redis_server(tmp_path, "--unixsocket", f"{short}/redis"):
                yield lambda: node_on(f"unix://{short}/redis")
        with warnings.catch_warnings():  # coredis leaves buffers unclosed; see tests/cluster/conftest.py
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
    else:
        yield MemoryStore if request.param == "memory" else lambda: SqliteStore(tmp_path / "s.sqlite3")


# Every store; a key begins with its provider, since a cluster has an owner for each ------------------------------------


async def test_a_store_starts_empty_and_available(make: Make) -> None:
    async with keeping(make()) as kept:
        assert kept.rows == [{}]
        assert kept.store.failure == ""
        status = kept.store.status()
        assert (status["available"], status["reason"], status["waiting"]) == (True, "", 0)


async def test_commits_are_acknowledged_once_each_in_order(make: Make) -> None:
    async with keeping(make()) as kept:
        said: list[tuple[int, str]] = []
        for n in range(500):
            kept.store.commit(Row("t", f"p/{n}", b"v"), lambda failure, n=n: said.append((n, failure)))
            kept.store.write(Row("t", f"p/{n}", b"w"))
        assert await kept.commit("p/last", b"v") == ""
        assert said == [(n, "") for n in range(500)]


async def test_a_sync_is_told_when_all_before_it_is_written(make: Make) -> None:
    async with keeping(make()) as kept:
        said: list[str] = []
        kept.store.commit(Row("t", "p/k", b"v"), lambda failure: said.append(failure or "committed"))
        kept.store.write(Row("t", "p/l", b"v"))
        assert await kept.sync() == ""
        assert said == ["committed"]
        assert await kept.sync() == "", "with nothing to be written, too"


async def test_a_restart_restores_all_that_was_written_or_nothing(make: Make) -> None:
    """In memory nothing outlives the process; on disk and in Redis the last value of each key does, per table."""
    async with keeping(make()) as kept:
        kept.store.write(Row("t", "p/changed", b"1"))
        kept.store.write(Row("t", "p/changed", b"2"))
        kept.store.write(Row("t", "p/gone", b"1"))
        kept.store.write(Row("u", "p/changed", b"\x00\xff"))
        await kept.commit("p/committed", b"1")
        kept.store.write(Row("t", "p/gone", None))
        await kept.commit("p/gone too", b"1")
        kept.store.write(Row("t", "p/gone too", None))
        kept.store.write(Row("t", "p/late", b"1"))  # written when the store ends
    expected = {
        "t": [("p/changed", b"2"), ("p/committed", b"1"), ("p/late", b"1")],
        "u": [("p/changed", b"\x00\xff")],
    }
    async with keeping(make()) as again:
        assert again.rows == [expected if kept.store.keeps else {}]


async def test_a_row_given_to_a_key_again_is_the_last_one(make: Make) -> None:
    async with keeping(make()) as kept:
        await kept.commit("p/k", b"1")
        kept.store.write(Row("t", "p/k", None))
        assert await kept.commit("p/k", b"2") == ""
        kept.store.write(Row("t", "p/k", b"3"))
    async with keeping(make()) as again:
        assert again.rows == ([{"t": [("p/k", b"3")]}] if kept.store.keeps else [{}])


def test_only_a_file_has_the_logs_of_topics(tmp_path: Path) -> None:
    """In memory there is nothing to come back to, and in a cluster they are the logs of a provider."""
    assert MemoryStore().logs is None
    assert ClusterStore().logs is None
    assert SqliteStore(tmp_path / "s.sqlite3").logs is not None


# The logs of topics ---------------------------------------------------------------------------------------------------


async def test_acknowledgements_come_in_the_order_of_the_calls(tmp_path: Path) -> None:
    said: list[tuple[str, int, str]] = []
    async with keeping(SqliteStore(tmp_path / "s.sqlite3")) as kept:
        for n in range(1, 100):
            kept.store.logs.reserve("a", "e", n * 10, lambda failure, n=n: said.append(("numbers", n, failure)))
            kept.store.logs.log_first("a", event(n), lambda failure, n=n: said.append(("event", n, failure)))
        assert await kept.commit("last", b"v") == ""
    assert said == [(what, n, "") for n in range(1, 100) for what in ("numbers", "event")]


async def test_topics_come_back_with_their_numbers_and_events(tmp_path: Path) -> None:
    async with keeping(SqliteStore(tmp_path / "s.sqlite3")) as kept:
        await kept.reserve("a", 1000)
        await kept.reserve("b", 500, "f")
        for n in (1, 2, 3):
            kept.log("a", event(n, trio.current_time()))
        await kept.log_first("b", event(1, trio.current_time()))
        await kept.reserve("a", 2000)
        kept.log("a", event(4, trio.current_time()))
        await kept.reserve("gone", 10)
        kept.log("gone", event(1))
        kept.store.logs.forget("gone")
    async with keeping(SqliteStore(tmp_path / "s.sqlite3")) as again:
        assert again.seqs() == {"a": [1, 2, 3, 4], "b": [1]}
        a, b = again.restored["a"], again.restored["b"]
        assert (a.epoch, a.reserved, a.complete) == ("e", 2000, True)
        assert (b.epoch, b.reserved, b.complete) == ("f", 500, True)
        assert (a.granted, b.granted) == (2000 + GRANTED, 500 + GRANTED)
        first = a.events[0]
        assert (first.id, first.head, first.tail, first.policy) == ("id", b"head", b"tail", "conflate")
        assert first.conflation_key == "key"


# The file ------------------------------------------------------------------------------------------------------------


async def test_a_process_that_died_leaves_its_topics_incomplete(tmp_path: Path) -> None:
    """Return what is on disk when an event was acknowledged, as a killed process leaves it."""
    path, copy = tmp_path / "s.sqlite3", tmp_path / "copy.sqlite3"
    async with keeping(SqliteStore(path)) as kept:
        await kept.reserve("a", 1000)
        await kept.log_first("a", event(1, trio.current_time()))
        source, target = sqlite3.connect(path), sqlite3.connect(copy)
        source.backup(target)
        source.close()
        target.close()
    async with keeping(SqliteStore(copy)) as again:
        assert again.seqs() == {"a": [1]}
        assert not again.restored["a"].complete


async def test_a_new_epoch_ends_what_was_logged_before(tmp_path: Path) -> None:
    async with keeping(SqliteStore(tmp_path / "s.sqlite3")) as kept:
        await kept.reserve("a", 1000)
        await kept.log_first("a", event(900, trio.current_time()))
        await kept.reserve("a", 100, "new")
        await kept.log_first("a", event(1, trio.current_time()))
    async with keeping(SqliteStore(tmp_path / "s.sqlite3")) as again:
        assert again.seqs() == {"a": [1]}
        assert (again.restored["a"].epoch, again.restored["a"].reserved) == ("new", 100)


async def test_a_topic_keeps_the_newest_events_within_its_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_file, "_SWEEP", 0.0)
    limits = LogLimits(events=10, age=50.0, bytes=2000)
    async with keeping(SqliteStore(tmp_path / "s.sqlite3", limits=limits)) as kept:
        now = trio.current_time()
        for topic, size, age in (("many", 1, 0), ("large", 500, 0), ("old", 1, 60)):
            await kept.reserve(topic, 1000)
            for n in range(1, 31):
                await kept.log_first(topic, event(n, now - age, b"x" * size))
    async with keeping(SqliteStore(tmp_path / "s.sqlite3", limits=limits)) as again:
        seqs = again.seqs()
        assert seqs["many"] == list(range(21, 31))
        assert seqs["large"] == [27, 28, 29, 30]
        assert seqs["old"] == [30], "the newest one has the last number"


async def test_all_topics_together_keep_within_the_bound_of_the_file(tmp_path: Path) -> None:
    limits = LogLimits(total=1024 * 1024)
    async with keeping(SqliteStore(tmp_path / "s.sqlite3", limits=limits)) as kept:
        for n in range(1, 5):
            for topic in "abc":
                await kept.reserve(topic, 1000)
                await kept.log_first(topic, event(n, trio.current_time(), b"x" * 200_000))
        assert kept.store.status()["kept_bytes"] <= limits.total
    async with keeping(SqliteStore(tmp_path / "s.sqlite3", limits=limits)) as again:
        assert again.seqs() == {"a": [4], "b": [4], "c": [4]} or sum(map(len, again.seqs().values())) == 4
        assert all(topic.reserved == 1000 for topic in again.restored.values())


async def test_a_file_of_the_version_before_is_brought_up_to_date(tmp_path: Path) -> None:
    path, said = tmp_path / "s.sqlite3", []
    connection = sqlite3.connect(path)
    connection.executescript(f"{_ROWS} PRAGMA application_id = {APPLICATION}; PRAGMA user_version = 1")
    connection.execute("INSERT INTO rows VALUES ('t', 'k', 'v')")
    connection.execute("UPDATE rows SET value = CAST(value AS BLOB)")
    connection.commit()
    connection.close()
    store = SqliteStore(path, log=lambda event, **fields: said.append((event, fields)))
    async with keeping(store) as kept:
        assert kept.rows == [{"t": [("k", b"v")]}]
        assert said == [("store migrated", {"path": str(path), "version": 1, "to": VERSION})]
        assert await kept.reserve("a", 10) == ""


async def test_what_a_failing_store_missed_is_logged_anew_from_memory(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite3"
    async with keeping(SqliteStore(path)) as kept:
        await kept.reserve("a", 1000)
        await kept.reserve("b", 1000)
        await kept.log_first("a", event(1, trio.current_time()))
        await kept.log_first("b", event(1, trio.current_time()))
        stranger = sqlite3.connect(path, isolation_level=None)
        stranger.execute("BEGIN IMMEDIATE")
        assert "locked" in await kept.log_first("a", event(2, trio.current_time()))
        assert "locked" in await kept.reserve("a", 3000)
        kept.log("a", event(3, trio.current_time()))
        kept.rings = {"a": ("e", 3000, [event(n, trio.current_time()) for n in (1, 2, 3)])}
        stranger.execute("ROLLBACK")
        stranger.close()
        await kept.until(available=True)
        with trio.fail_after(WITHIN):
            while kept.store._torn:
                await trio.sleep(0.01)
        await kept.log_first("a", event(4, trio.current_time()))
    async with keeping(SqliteStore(path)) as again:
        assert again.seqs() == {"a": [1, 2, 3, 4], "b": [1]}
        assert again.restored["a"].reserved == 3000


async def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    async with keeping(SqliteStore(tmp_path / "s.sqlite3")) as kept:
        await kept.commit("k", b"v")
        modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in os.scandir(tmp_path)}
    assert modes["s.sqlite3"] == 0o600
    assert set(modes.values()) == {0o600}


async def test_what_was_acknowledged_is_in_the_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite3"
    async with keeping(SqliteStore(path)) as kept:
        await kept.commit("k", b"v")
        connection = sqlite3.connect(path)
        assert connection.execute("SELECT kind, key, value FROM rows").fetchall() == [("t", "k", b"v")]
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        connection.close()


async def test_a_second_process_is_kept_out_until_the_first_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite3"
    async with keeping(SqliteStore(path)) as first:
        await first.commit("k", b"v")
        async with keeping(SqliteStore(path)) as second:
            assert second.store.failure == f"{path} is used by another process"
            assert second.rows == []
            assert await second.commit("x", b"v") == second.store.failure
    async with keeping(SqliteStore(path)) as third:
        assert third.rows == [{"t": [("k", b"v")]}]


def foreign(path: Path) -> str:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (x)")
    connection.commit()
    connection.close()
    return f"{path} is not a store of tickrelay"


def newer(path: Path) -> str:
    connection = sqlite3.connect(path)
    connection.executescript(f"CREATE TABLE r (x); PRAGMA application_id = {APPLICATION}; PRAGMA user_version = 9")
    connection.close()
    return f"{path} is a store of version 9; this tickrelay has version {VERSION}"


def rubbish(path: Path) -> str:
    path.write_bytes(b"no database " * 1000)
    return f"{path}: file is not a database"


def directory(path: Path) -> str:
    path.mkdir()
    return f"{path}: Is a directory"


@pytest.mark.parametrize("spoil", [foreign, newer, rubbish, directory])
async def test_a_file_that_is_no_store_is_left_alone(tmp_path: Path, spoil: Callable[[Path], str]) -> None:
    path = tmp_path / "s.sqlite3"
    reason = spoil(path)
    before = path.read_bytes() if path.is_file() else b""
    async with keeping(SqliteStore(path)) as kept:
        assert kept.store.failure == reason
        assert await kept.commit("k", b"v") == reason
        kept.store.write(Row("t", "k", b"v"))
    assert (path.read_bytes() if path.is_file() else b"") == before


async def test_no_directory_no_store_until_there_is_one(tmp_path: Path) -> None:
    """A store that is opened late restores then, and writes what it was given meanwhile."""
    path = tmp_path / "deep" / "s.sqlite3"
    async with keeping(SqliteStore(path)) as kept:
        assert kept.store.failure.endswith("No such file or directory")
        assert kept.rows == []
        kept.store.write(Row("t", "meanwhile", b"v"))
        path.parent.mkdir()
        await kept.until(available=True)
        assert kept.rows == [{}]
        assert await kept.commit("k", b"v") == ""
    async with keeping(SqliteStore(path)) as again:
        assert again.rows == [{"t": [("k", b"v"), ("meanwhile", b"v")]}]


async def test_a_locked_file_fails_what_waits_and_comes_back_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite3"
    async with keeping(SqliteStore(path)) as kept:
        await kept.commit("before", b"v")
        stranger = sqlite3.connect(path, isolation_level=None)
        stranger.execute("BEGIN IMMEDIATE")
        assert await kept.commit("failed", b"v") == f"{path}: database is locked"
        assert kept.store.failure == f"{path}: database is locked"
        assert await kept.commit("refused", b"v") == kept.store.failure
        kept.store.write(Row("t", "before", b"w"))
        kept.store.write(Row("t", "meanwhile", b"v"))
        stranger.execute("ROLLBACK")
        stranger.close()
        await kept.until(available=True)
        assert await kept.commit("after", b"v") == ""
        assert kept.store.status()["failures"] == 1
    async with keeping(SqliteStore(path)) as again:
        assert again.rows == [{"t": [("after", b"v"), ("before", b"w"), ("meanwhile", b"v")]}]


async def test_a_full_disk_fails_what_waits_and_what_could_not_be_written_is_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file may not grow: SQLite's own error for a full disk."""
    path = tmp_path / "s.sqlite3"
    connect = sqlite3.connect
    pages = 8

    def small(*args: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*args, **options)
        connection.execute(f"PRAGMA max_page_count = {pages}")
        return connection

    monkeypatch.setattr(sqlite3, "connect", small)
    async with keeping(SqliteStore(path)) as kept:
        assert await kept.commit("small", b"v") == ""
        kept.store.write(Row("t", "small", b"w"))
        assert "full" in await kept.commit("large", b"v" * 100_000)
        await kept.until(available=True)  # what was held fits
        kept.store.write(Row("t", "larger", b"v" * 100_000))
        await kept.until(available=False)
        assert "full" in await kept.commit("small", b"x")
        pages = 1000
        await kept.until(available=True)
    monkeypatch.undo()
    async with keeping(SqliteStore(path)) as again:
        assert again.rows == [{"t": [("larger", b"v" * 100_000), ("small", b"w")]}]


async def test_a_limit_on_the_size_of_files_is_a_failure_until_it_is_lifted(tmp_path: Path) -> None:
    """The kernel refuses to write (EFBIG); a quota and a full disk are refused at the same places."""
    path = tmp_path / "s.sqlite3"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with keeping(SqliteStore(path)) as kept:
        await kept.reserve("a", 1000)
        await kept.log_first("a", event(1, trio.current_time()))
        large = event(2, trio.current_time(), b"x" * 200_000)
        kept.rings = {"a": ("e", 1000, [event(1, trio.current_time()), large])}
        resource.setrlimit(resource.RLIMIT_FSIZE, (128 * 1024, limits[1]))
        try:
            assert (await kept.log_first("a", large)).startswith(f"{path}: ")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        with trio.fail_after(WITHIN):
            while kept.store._torn or await kept.commit("after", b"v"):
                await trio.sleep(0.01)
    async with keeping(SqliteStore(path)) as again:
        assert again.rows == [{"t": [("after", b"v")]}]
        assert again.seqs() == {"a": [1, 2]}


async def test_a_file_that_can_only_be_read_is_a_failure_until_it_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite's own read-only mode: permissions do not keep root, who runs many tests, from writing."""
    path = tmp_path / "s.sqlite3"
    async with keeping(SqliteStore(path)) as kept:
        await kept.commit("before", b"v")
    connect = sqlite3.connect

    def read_only(path: Path, **options: Any) -> sqlite3.Connection:
        return connect(f"file:{path}?mode=ro", uri=True, **options)

    monkeypatch.setattr(sqlite3, "connect", read_only)
    async with keeping(SqliteStore(path)) as kept:
        assert kept.store.failure == f"{path}: attempt to write a readonly database"
        assert await kept.reserve("a", 1000) == kept.store.failure
        assert kept.rows == [], "nothing is restored before it can be written"
        monkeypatch.undo()
        await kept.until(available=True)
        assert kept.rows == [{"t": [("before", b"v")]}]
        assert await kept.commit("after", b"v") == ""


async def test_a_file_that_was_removed_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite3"
    rows = [Row("t", "a", b"1"), Row("t", "b", b"2")]
    async with keeping(SqliteStore(path), rows) as kept:
        for row in rows:
            await kept.commit(row.key, row.value)
        for each in list(os.scandir(tmp_path)):
            if not each.name.endswith(".lock"):
                os.unlink(each.path)
        await kept.until(available=False)
        assert kept.store.failure == f"{path} was removed or replaced while it was open"
        await kept.until(available=True)
        await kept.commit("c", b"3")
    async with keeping(SqliteStore(path)) as again:
        assert again.rows == [{"t": [("a", b"1"), ("b", b"2"), ("c", b"3")]}]


async def test_a_disk_that_does_not_answer_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.sqlite3"
    monkeypatch.setattr(sqlite, "SILENT", 0.3)
    async with keeping(SqliteStore(path)) as kept:
        await kept.commit("before", b"v")
        goes_on = threading.Event()
        apply = sqlite_file.FileWriter._apply

        def hang(self: Any, *changes: Any) -> int:
            goes_on.wait(WITHIN)
            return apply(self, *changes)

        monkeypatch.setattr(sqlite_file.FileWriter, "_apply", hang)
        assert await kept.commit("hung", b"v") == f"{path} has not answered for 0.3 s"
        assert kept.store.failure
        goes_on.set()
        await kept.until(available=True)
        assert await kept.commit("after", b"v") == ""
    async with keeping(SqliteStore(path)) as again:
        assert again.rows == [{"t": [("after", b"v"), ("before", b"v")]}]


async def test_a_directory_that_was_removed_is_written_anew_when_it_is_there_again(tmp_path: Path) -> None:
    """The lock is taken anew as well: a second process stays out."""
    path = tmp_path / "data" / "s.sqlite3"
    path.parent.mkdir()
    async with keeping(SqliteStore(path), [Row("t", "a", b"1")]) as kept:
        await kept.commit("a", b"1")
        await kept.reserve("quotes", 1000)
        kept.rings = {"quotes": ("e", 1000, [event(7, trio.current_time())])}
        shutil.rmtree(path.parent)
        await kept.until(available=False)
        assert await kept.commit("b", b"2") == kept.store.failure
        path.parent.mkdir()
        await kept.until(available=True)
        await kept.commit("c", b"3")
        async with keeping(SqliteStore(path)) as second:
            assert second.store.failure == f"{path} is used by another process"
    async with keeping(SqliteStore(path)) as again:
        assert again.rows == [{"t": [("a", b"1"), ("c", b"3")]}]
        assert again.seqs() == {"quotes": [7]}


async def test_a_disk_that_is_full_at_the_start_is_a_failure_until_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.sqlite3"
    connect = sqlite3.connect

    def small(*args: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*args, **options)
        connection.execute("PRAGMA max_page_count = 1")
        return connection

    monkeypatch.setattr(sqlite3, "connect", small)
    async with keeping(SqliteStore(path)) as kept:
        assert kept.store.failure == f"{path}: database or disk is full"
        assert kept.rows == [], "nothing is restored before it can be written"
        assert await kept.commit("k", b"v") == kept.store.failure
        monkeypatch.undo()
        await kept.until(available=True)
        assert kept.rows == [{}]
        assert await kept.commit("k", b"v") == ""


def unreadable_chunk(path: Path) -> str:
    connection = sqlite3.connect(path)
    connection.execute("UPDATE chunks SET events = x'93'")
    connection.commit()
    connection.close()
    return "a chunk of events cannot be read: "


def overwritten(path: Path) -> str:
    whole = path.read_bytes()
    path.write_bytes(whole[:8192] + b"\xff" * (len(whole) - 8192))
    return f"{path}: database disk image is malformed"


@pytest.mark.parametrize("damage", [unreadable_chunk, overwritten])
async def test_a_damaged_file_is_left_alone_until_it_is_taken_away(
    tmp_path: Path, damage: Callable[[Path], str]
) -> None:
    """Nothing is sent under a name that may be in there. With it gone, the store begins anew without a restart."""
    path = tmp_path / "s.sqlite3"
    async with keeping(SqliteStore(path)) as kept:
        await kept.commit("before", b"v")
        await kept.reserve("quotes", 1000)
        await kept.log_first("quotes", event(1, trio.current_time()))
    reason = damage(path)
    before = path.read_bytes()
    async with keeping(SqliteStore(path)) as kept:
        assert kept.store.failure.startswith(reason)
        assert kept.rows == []
        assert await kept.commit("k", b"v") == kept.store.failure
        assert path.read_bytes() == before
        path.rename(tmp_path / "damaged")
        await kept.until(available=True)
        assert kept.rows == [{}]
        assert await kept.commit("k", b"v") == ""

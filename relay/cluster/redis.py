"""The cluster's store: leases, logs and rows in Redis. Each change is one script, and so atomic.

One Redis holds everything (a replica may follow it; Redis Cluster is not supported). The keys of provider P:

| key | type | content |
|---|---|---|
| ``tickrelay:lease:P`` | string, expires | ``FENCE:NODE``, the owner's token |
| ``tickrelay:owner:P`` | hash | ``fence``, the ``token`` granted last, the ``epoch`` of new topics, and the lives of Redis |
| ``tickrelay:log:P:market``, ``...:durable`` | stream | batches, their ids are ``FENCE-N`` |
| ``tickrelay:topics:P`` | hash | by topic: its last number and value, at most a second old |
| ``tickrelay:rows:P:TABLE`` | hash | rows: commands, dials, states of accounts |
| ``tickrelay:node:NODE``, ``tickrelay:want:NODE`` | string, expires | a node's status, and the streams that it wants |
| ``tickrelay:control`` | stream | messages between nodes |

A fence is the time of Redis in milliseconds, or the last fence plus one, which is larger than any earlier one even after
Redis was emptied. ``owner`` records in which lives of Redis (its ``run_id``) an owner has led; in any other life Redis may
have lost data that nodes have read. After Redis was started or emptied, no lease is granted for the length of one.
"""

import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from math import inf
from operator import methodcaller
from typing import Any

import trio
from attrs import frozen

from relay.cluster.lease import TTL
from relay.cluster.log import START, LogBatch, LogPosition, encode
from relay.cluster.replica import LOGS, LeaseGrant, LogName
from relay.histogram import Histogram
from relay.store.interface import Row, StoreError

PREFIX = "tickrelay:"
#: Seconds that a request may take.
WITHIN = 1.0
#: Least seconds between two replacements of all connections after unanswered requests, since Redis may only be slow.
DROPS = 5.0
#: Approximate number of batches that are kept in each log.
KEPT: Mapping[LogName, int] = {"market": 10_000, "durable": 20_000}
#: Most batches in one read, and milliseconds that a read waits for a batch.
AT_ONCE, WAIT = 100, 500
#: The stream of messages between nodes.
CONTROL = f"{PREFIX}control"
MISSING = "store.url: redis:// needs the extra: pip install 'tickrelay[redis]'"

_RUN = """
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
local function ends()
  local found = {}
  for i, log in ipairs({KEYS[3], KEYS[4]}) do
    local info = redis.pcall('XINFO', 'STREAM', log)
    found[i] = '0-0'
    if not info.err then
      for j = 1, #info, 2 do if info[j] == 'last-generated-id' then found[i] = info[j + 1] end end
    end
  end
  return found
end
"""
#: KEYS: lease, owner, the logs. ARGV: node, milliseconds of the lease.
_ACQUIRE = (
    _RUN
    + """
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local owner, lease, ttl = KEYS[2], KEYS[1], tonumber(ARGV[2])
if redis.call('HGET', owner, 'life') ~= run then
  redis.call('HSET', owner, 'life', run, 'since', string.format('%d', now))
end
local quiet = tonumber(redis.call('HGET', owner, 'since')) + ttl - now
if quiet > 0 then return {'refused', '', tostring(quiet)} end
local held = redis.call('GET', lease)
if held and string.sub(held, string.find(held, ':', 1, true) + 1) ~= ARGV[1] then
  return {'refused', held, tostring(redis.call('PTTL', lease))}
end
local fence = math.max(tonumber(redis.call('HGET', owner, 'fence') or '0') + 1, now)
local token = string.format('%d', fence) .. ':' .. ARGV[1]
redis.call('HSET', owner, 'fence', string.format('%d', fence), 'token', token)
redis.call('SET', lease, token, 'PX', ttl)
local found = ends()
return {'granted', token, run, redis.call('HGET', owner, 'led') == run and '1' or '0', found[1], found[2]}
"""
)
#: KEYS: as above. ARGV: token, milliseconds of the lease, the life in which the owner leads or "".
_RENEW = (
    _RUN
    + """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'lost'} end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
if ARGV[3] ~= '' then redis.call('HSET', KEYS[2], 'led', ARGV[3]) end
local found = ends()
return {'renewed', run, found[1], found[2]}
"""
)
#: KEYS: lease. ARGV: token.
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end return 'released'"
#: KEYS: owner, log, topics. ARGV: token, id, batch or "", batches kept, number of topics, (topic, state)..., then rows as
#: (what, key, field, value)... Returns 'fenced', or the fields that could not be inserted.
_APPEND = """
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 'fenced' end
if ARGV[3] ~= '' then
  local added = redis.pcall('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], ARGV[2], 'b', ARGV[3])
  if type(added) == 'table' and added.err then
    if not string.find(added.err, 'equal or smaller', 1, true) then return redis.error_reply(added.err) end
  end
end
local at = 6
for _ = 1, tonumber(ARGV[5]) do
  redis.call('HSET', KEYS[3], ARGV[at], ARGV[at + 1])
  at = at + 2
end
local known = {}
while ARGV[at] do
  local what, key, field = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  if what == 'put' then redis.call('HSET', key, field, ARGV[at + 3])
  elseif what == 'remove' then redis.call('HDEL', key, field)
  elseif redis.call('HSETNX', key, field, ARGV[at + 3]) == 0 and redis.call('HGET', key, field) ~= ARGV[at + 3] then
    known[#known + 1] = field
  end
  at = at + 4
end
return known
"""
_SCRIPTS = {"acquire": _ACQUIRE, "renew": _RENEW, "release": _RELEASE, "append": _APPEND}


@frozen
class NotGranted:
    """Another node has the lease: its token, empty while Redis grants none, and the seconds until it may be free."""

    token: str
    free_in: float


@frozen
class Fenced:
    """The result of an append that wrote nothing, because another node has had the lease since."""


@frozen
class Loaded:
    """The stored state of a provider: its topics, the epoch of new ones, and the first and last batch of each log."""

    epoch: str
    topics: Mapping[str, bytes]
    begins: Mapping[LogName, LogPosition]
    ends: Mapping[LogName, LogPosition]


class RedisCluster:
    """The connection to Redis. Every request has a deadline; all raise StoreError with the reason.

    Args:
        url: ``redis://`` or ``rediss://``.
        node: identifies this node and its current process.
        ttl: seconds of a lease.
    """

    def __init__(self, url: str, node: str, ttl: float = TTL) -> None:
        try:
            import coredis  # an optional dependency, needed only by clusters
        except ImportError:
            raise StoreError(MISSING) from None
        self._coredis = coredis
        logging.getLogger("coredis").setLevel(logging.CRITICAL)  # it logs tracebacks of errors that are reported here
        self._client: Any = None
        self._url = url
        self.node = node
        self.ttl = ttl
        self._maxlen = coredis.tokens.PureToken.MAXLEN
        self._hashes: dict[str, str] = {}
        self._drop_at = -inf
        self.round_trips = Histogram()
        """Seconds from a request to its answer, without blocking reads."""
        self.failure = "not connected yet"
        """The reason why Redis cannot be used at present; empty while it works."""

    @property
    def no_script(self) -> type[Exception]:
        """The exception raised if Redis no longer knows a script, because it was restarted."""
        found: type[Exception] = self._coredis.exceptions.NoScriptError
        return found

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Hold connections inside the context. The next request replaces a lost one."""
        policy = self._coredis.retry.NoRetryPolicy()
        async with self._coredis.Redis.from_url(self._url, verify_version=False, retry_policy=policy) as self._client:
            yield

    async def ask(self, request: Callable[[Any], Any], within: float = WITHIN) -> Any:
        """Send a request and return the answer. ``request``: takes the client and returns an awaitable."""
        asked_at = trio.current_time()
        try:
            with trio.fail_after(within):
                answer = await request(self._client)
        except trio.TooSlowError:
            self.failure = f"Redis has not answered for {within:g} s"
            # Requests on a connection that was cut silently would hang until TCP gives up, after a quarter of an hour.
            if trio.current_time() >= self._drop_at:
                self._drop_at = trio.current_time() + DROPS
                self._client.connection_pool.disconnect()
        except Exception as error:  # noqa: BLE001 - coredis raises its own, anyio's, trio's and groups of them
            self.failure = f"Redis: {_reason(error)}"
        else:
            self.failure = ""
            if within == WITHIN:
                self.round_trips.observe(trio.current_time() - asked_at)
            return answer
        raise StoreError(self.failure)

    async def _script(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        async def run(client: Any) -> Any:
            if name not in self._hashes:
                self._hashes[name] = await client.script_load(_SCRIPTS[name])
            try:
                return await client.evalsha(self._hashes[name], keys=keys, args=args)
            except self._coredis.exceptions.NoScriptError:  # Redis was restarted
                return await client.eval(_SCRIPTS[name], keys=keys, args=args)

        return await self.ask(run)

    async def unsafe_settings(self) -> list[tuple[str, str, str]]:
        """Return the settings of Redis that may lose data: name and value, the needed value, and the reason.

        If Redis does not show its configuration, the list is empty.
        """
        found: dict[str, str] = {}
        try:
            answer = await self.ask(lambda client: client.config_get(["appendonly", "maxmemory-policy"]))
            for name, value in answer.items():
                found[_text(name)] = _text(value)
        except StoreError:
            return []
        unsafe = []
        if found.get("appendonly") == "no":
            unsafe.append(("appendonly no", "appendonly yes", "a restart of Redis forgets commands and fills"))
        if (policy := found.get("maxmemory-policy", "noeviction")) != "noeviction":
            unsafe.append((f"maxmemory-policy {policy}", "noeviction", "Redis may remove leases, commands and fills"))
        return unsafe

    # --- leases ------------------------------------------------------------------------------------------------------

    async def acquire(self, provider: str) -> LeaseGrant | NotGranted:
        """Try to acquire a provider's lease."""
        said, *rest = await self._script("acquire", _lease_keys(provider), [self.node, int(self.ttl * 1000)])
        if said == b"refused":
            return NotGranted(rest[0].decode(), int(rest[1]) / 1000)
        token, run, continuous, *ends = [each.decode() for each in rest]
        fence = int(token.partition(":")[0])
        return LeaseGrant(token=token, fence=fence, ends=_ends(ends), run=run, continuous=continuous == "1")

    async def renew(
        self, provider: str, token: str, leading_in: str
    ) -> tuple[str, Mapping[LogName, LogPosition]] | None:
        """Renew the lease of ``token``. Return the life of Redis and the ends of the logs; None if the lease is lost."""
        args = [token, int(self.ttl * 1000), leading_in]
        said, *rest = await self._script("renew", _lease_keys(provider), args)
        if said != b"renewed":
            return None
        run, *ends = [each.decode() for each in rest]
        return run, _ends(ends)

    async def release(self, provider: str, token: str) -> None:
        """Release the lease of ``token``."""
        await self._script("release", [f"{PREFIX}lease:{provider}"], [token])

    # --- logs and rows -----------------------------------------------------------------------------------------------

    async def append(
        self,
        provider: str,
        token: str,
        name: LogName,
        batch: LogBatch | None,
        topics: Mapping[str, bytes],
        rows: Iterable[tuple[Row, bool]],
    ) -> Fenced | set[str]:
        """Append a batch, once even if repeated, and write rows, atomically. Return the keys of new rows that existed.

        Args:
            topics: states of topics, for nodes that load them.
            rows: each row with True if it is new; a new row is not written if its key exists.
        """
        args: list[Any] = [token, "", "", KEPT[name], len(topics)]
        if batch is not None:
            args[1:3] = f"{batch.fence}-{batch.n}", encode(batch)
        for topic, state in topics.items():
            args += [topic, state]
        for row, new in rows:
            what = "remove" if row.value is None else "insert" if new else "put"
            args += [what, rows_key(provider, row.table), row.key, b"" if row.value is None else row.value]
        keys = [f"{PREFIX}owner:{provider}", log_key(provider, name), f"{PREFIX}topics:{provider}"]
        said = await self._script("append", keys, args)
        return Fenced() if said == b"fenced" else {each.decode() for each in said}

    async def read(self, after: Mapping[str, LogPosition]) -> dict[str, list[tuple[LogPosition, bytes]]]:
        """Return the entries after these positions, by the key of the stream. Wait for one if there are none yet."""
        ids = {key: f"{position.fence}-{position.n}" for key, position in after.items()}
        found = await self.ask(lambda client: client.xread(ids, count=AT_ONCE, block=WAIT), WITHIN + WAIT / 1000)
        return {
            key.decode(): [(_position(entry.identifier), entry.field_values[b"b"]) for entry in entries]
            for key, entries in (found or {}).items()
        }

    async def load(self, provider: str) -> Loaded:
        """Return the stored state of a provider, for a node that has missed batches."""
        begins = {}
        for name in LOGS:
            first = await self.ask(methodcaller("xrange", log_key(provider, name), count=1))
            begin = _position(first[0].identifier) if first else START
            begins[name] = begin if not first else LogPosition(begin.fence, begin.n - 1)
        ends = await self.ends(provider)
        topics = await self.ask(lambda client: client.hgetall(f"{PREFIX}topics:{provider}"))
        owner = f"{PREFIX}owner:{provider}"
        await self.ask(lambda client: client.hsetnx(owner, "epoch", f"{self.node}-e"))
        epoch = await self.ask(lambda client: client.hget(owner, "epoch"))
        return Loaded(epoch.decode(), {topic.decode(): state for topic, state in topics.items()}, begins, ends)

    async def ends(self, provider: str) -> dict[LogName, LogPosition]:
        """Return the position of the last batch of each of a provider's logs."""
        return {name: await self._end(log_key(provider, name)) for name in LOGS}

    async def _end(self, key: str) -> LogPosition:
        last = await self.ask(methodcaller("xrevrange", key, count=1))
        return _position(last[0].identifier) if last else START

    async def begin_epoch(self, provider: str, epoch: str) -> None:
        """Set the epoch of topics that have had no event yet."""
        await self.ask(lambda client: client.hset(f"{PREFIX}owner:{provider}", {"epoch": epoch}))

    async def rows(self, provider: str) -> dict[str, list[tuple[str, bytes]]]:
        """Return the rows of a provider, by table."""
        found: dict[str, list[tuple[str, bytes]]] = {}
        prefix = rows_key(provider, "")
        keys = await self.ask(lambda client: client.keys(f"{prefix}*"))
        for key in keys:
            rows = await self.ask(methodcaller("hgetall", key), 10 * WITHIN)
            found[key.decode().removeprefix(prefix)] = [(field.decode(), value) for field, value in rows.items()]
        return found

    # --- nodes -------------------------------------------------------------------------------------------------------

    async def announce(self, status: bytes, wanted: bytes | None) -> None:
        """Announce that this node is alive, and the streams that it wants, if ``wanted`` is given because they changed.

        Raises:
            StoreError: also if Redis has lost the wanted streams, which must then be sent again.
        """
        alive = int(self.ttl * 2000)
        await self.ask(lambda client: client.set(f"{PREFIX}node:{self.node}", status, px=alive))
        if wanted is not None:
            await self.ask(lambda client: client.set(f"{PREFIX}want:{self.node}", wanted, px=alive))
            await self.tell(encode([self.node, "", "want", b""]))
        else:
            if not await self.ask(lambda client: client.pexpire(f"{PREFIX}want:{self.node}", alive)):
                raise StoreError("Redis: what this relay wants of the providers was lost")

    async def leave(self) -> None:
        """Remove this node's status and wanted streams, because it has ended."""
        await self.ask(lambda client: client.delete([f"{PREFIX}node:{self.node}", f"{PREFIX}want:{self.node}"]))
        await self.tell(encode([self.node, "", "want", b""]))

    async def nodes(self) -> dict[str, tuple[bytes, bytes]]:
        """Return the status and the wanted streams of each live node, by its name, both encoded."""
        found = {}
        for key in await self.ask(lambda client: client.keys(f"{PREFIX}node:*")):
            name = key.decode().removeprefix(f"{PREFIX}node:")
            status, wanted = await self.ask(methodcaller("mget", [key, f"{PREFIX}want:{name}"]))
            if status is not None:
                found[name] = status, wanted or b""
        return found

    async def owners(self, providers: Iterable[str]) -> dict[str, str]:
        """Return the node that owns each provider. Providers without an owner are left out."""
        names = list(providers)
        if not names:
            return {}
        tokens = await self.ask(lambda client: client.mget([f"{PREFIX}lease:{name}" for name in names]))
        return {name: token.decode().partition(":")[2] for name, token in zip(names, tokens, strict=True) if token}

    async def tell(self, message: bytes) -> None:
        """Send a message to all nodes."""
        await self.ask(
            lambda client: client.xadd(CONTROL, {b"b": message}, trim_strategy=self._maxlen, threshold=10_000)
        )

    async def newest(self) -> LogPosition:
        """Return the position of the newest message between nodes."""
        return await self._end(CONTROL)


def log_key(provider: str, name: LogName) -> str:
    """Return the key of a provider's log."""
    return f"{PREFIX}log:{provider}:{name}"


def rows_key(provider: str, table: str) -> str:
    """Return the key of a provider's rows of one table."""
    return f"{PREFIX}rows:{provider}:{table}"


def _lease_keys(provider: str) -> list[str]:
    return [f"{PREFIX}lease:{provider}", f"{PREFIX}owner:{provider}", *(log_key(provider, name) for name in LOGS)]


def _position(id: bytes | str) -> LogPosition:
    fence, _, n = (id.decode() if isinstance(id, bytes) else id).partition("-")
    return LogPosition(int(fence), int(n))


def _ends(ids: Sequence[str]) -> dict[LogName, LogPosition]:
    return {name: _position(id) for name, id in zip(LOGS, ids, strict=True)}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _reason(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) or type(error).__name__

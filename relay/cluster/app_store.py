"""Applications in Redis: one log, to which scripts append, number and count atomically. See `relay.cluster.applications`.

| key | type | content |
|---|---|---|
| ``tickrelay:apps:meta`` | hash | the log's ``life`` and last number ``n``, ``run`` of Redis, ``floor`` of numbers |
| ``tickrelay:apps:log`` | stream | batches, their ids are ``LIFE-N``; a field for each entry |
| ``tickrelay:apps:node:NODE`` | hash | the values of a node; ``#`` the number of its last batch, ``#r`` its refused groups |
| ``tickrelay:apps:nodes`` | set | the nodes that have such a hash |
| ``tickrelay:apps:alive:NODE`` | string, expires | a node's lease |
| ``tickrelay:apps:sums`` | hash | the sums of all nodes' values, by key |
| ``tickrelay:apps:members`` | hash | the user_info of each member, by key |
| ``tickrelay:apps:topics``, ``...:cache`` | hash | by app and channel: last number, its time; a cache channel's last event |
| ``tickrelay:apps:missed`` | hash | cache channels whose server was notified of a miss since their last event |
| ``tickrelay:apps:rate`` | hash | tokens left of each app's ``events_per_second``, and the time of that count |
"""

from collections.abc import Iterator, Mapping, Sequence
from operator import methodcaller
from typing import Any

from attrs import frozen

from relay.cluster.applications import AppBatch, AppPosition, AppSnapshot
from relay.cluster.redis import AT_ONCE, PREFIX, WAIT, WITHIN, RedisCluster
from relay.store.interface import StoreError

#: Most batches in the log.
MOST_KEPT = 100_000
#: Values of a dead node that one call removes, and records of channels that one call of `sweep` examines.
PART = 500

META, LOG = f"{PREFIX}apps:meta", f"{PREFIX}apps:log"

_COMMON = """
local P = 'tickrelay:apps:'
local meta, sums, log = P .. 'meta', P .. 'sums', P .. 'log'
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local fields, count = {'t', string.format('%d', now)}, 0
local function say(head, key, payload)
  count = count + 1
  fields[#fields + 1] = count .. ' ' .. head .. '\\n' .. key
  fields[#fields + 1] = payload
end
local function publish()
  if count == 0 then return end
  local n = redis.call('HINCRBY', meta, 'n', 1)
  redis.call('XADD', log, 'MAXLEN', '~', MOST_KEPT, redis.call('HGET', meta, 'life') .. '-' .. n, unpack(fields))
end
local function change(node, key, value)
  local own, kind = P .. 'node:' .. node, string.sub(key, 1, 1)
  local old = redis.call('HGET', own, key)
  if value == '' then
    if not old then return end
    redis.call('HDEL', own, key)
  else
    if old == value or (old and (kind == 'm' or kind == 'u')) then return end
    redis.call('HSET', own, key, value)
  end
  if kind == 's' then
    local before = tonumber(redis.call('HGET', sums, key) or '0')
    local sum = before - tonumber(old or '0') + (tonumber(value) or 0)
    if sum > 0 then redis.call('HSET', sums, key, sum)
    else
      redis.call('HDEL', sums, key)
      redis.call('HDEL', P .. 'missed', string.sub(key, 2))
    end
    say('s ' .. sum .. ' ' .. before .. ' ' .. (tonumber(value) or 0) .. ' ' .. node, key, '')
  elseif kind == 'c' then
    local of = key .. '\\n' .. node
    if value == '' then redis.call('HDEL', sums, of) else redis.call('HSET', sums, of, value) end
    say('c ' .. (tonumber(value) or 0) .. ' ' .. node, key, '')
  else
    local sum = redis.call('HINCRBY', sums, key, value == '' and -1 or 1)
    if sum <= 0 then redis.call('HDEL', sums, key) end
    if kind == 'm' then
      if value ~= '' and sum == 1 then
        redis.call('HSET', P .. 'members', key, value)
        say('+', key, value)
      elseif sum <= 0 then
        redis.call('HDEL', P .. 'members', key)
        say('-', key, '')
      end
    elseif value ~= '' and sum == 1 then say('on', key, '')
    elseif sum <= 0 then say('off', key, '') end
  end
end
""".replace("MOST_KEPT", str(MOST_KEPT))

#: ARGV: node, milliseconds of its lease. Returns the life of the log, the number of the node's last batch, its values.
_ENTER = (
    _COMMON
    + """
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
local life = redis.call('HGET', meta, 'life')
if not life or redis.call('HGET', meta, 'run') ~= run then
  local last = redis.pcall('XINFO', 'STREAM', log)
  life = math.max(now, tonumber(life or '0') + 1)
  if not last.err then
    for i = 1, #last, 2 do
      if last[i] == 'last-generated-id' then life = math.max(life, tonumber(string.match(last[i + 1], '^%d+')) + 1) end
    end
  end
  life = string.format('%d', life)
  redis.call('HSET', meta, 'life', life, 'run', run, 'n', 0, 'floor', 0, 'quiet', string.format('%d', now + ARGV[2]))
  redis.call('DEL', P .. 'topics')
end
local own = P .. 'node:' .. ARGV[1]
redis.call('SET', P .. 'alive:' .. ARGV[1], '1', 'PX', ARGV[2])
redis.call('SADD', P .. 'nodes', ARGV[1])
redis.call('HSETNX', own, '#', 0)
return {life, redis.call('HGET', own, '#'), redis.call('HGETALL', own)}
"""
)
#: ARGV: node, life, milliseconds of the lease. Returns 'anew', or 'alive' and the nodes whose leases have expired. If the
#: asking node's own lease has expired, Redis was unreachable: the other nodes then get one lease's time to renew theirs.
_BEAT = """
local P, node = 'tickrelay:apps:', ARGV[1]
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local known = redis.call('HMGET', P .. 'meta', 'life', 'run')
if known[1] ~= ARGV[2] or known[2] ~= run or redis.call('HEXISTS', P .. 'node:' .. node, '#') == 0 then return {'anew'} end
if redis.call('EXISTS', P .. 'alive:' .. node) == 0 then
  redis.call('HSET', P .. 'meta', 'quiet', string.format('%d', now + ARGV[3]))
end
redis.call('SET', P .. 'alive:' .. node, '1', 'PX', ARGV[3])
local answer = {'alive'}
if tonumber(redis.call('HGET', P .. 'meta', 'quiet') or '0') > now then return answer end
for _, other in ipairs(redis.call('SMEMBERS', P .. 'nodes')) do
  if redis.call('EXISTS', P .. 'alive:' .. other) == 0 then answer[#answer + 1] = other end
end
return answer
"""
#: ARGV: node, whether it leaves by itself, values to remove per call. Returns 1 while more remain.
_BURY = (
    _COMMON
    + """
local node = ARGV[1]
local own = P .. 'node:' .. node
if ARGV[2] == '1' then redis.call('DEL', P .. 'alive:' .. node) end
if redis.call('EXISTS', P .. 'alive:' .. node) == 1 then return 0 end
redis.call('HDEL', own, '#', '#r')
local part = redis.call('HSCAN', own, 0, 'COUNT', ARGV[3])
for i = 1, math.min(#part[2], 2 * ARGV[3]), 2 do change(node, part[2][i], '') end
publish()
if redis.call('HLEN', own) > 0 then return 1 end
redis.call('SREM', P .. 'nodes', node)
return 0
"""
)
#: ARGV: node, life, number of the batch, then operations. Returns 'anew', or 'done' and the numbers of the refused groups.
_APPEND = (
    _COMMON
    + """
local node, own = ARGV[1], P .. 'node:' .. ARGV[1]
if redis.call('HGET', meta, 'life') ~= ARGV[2] then return {'anew'} end
local last = redis.call('HMGET', own, '#', '#r')
if not last[1] then return {'anew'} end
if tonumber(last[1]) >= tonumber(ARGV[3]) then return {'done', last[2] or ''} end
local floor = tonumber(redis.call('HGET', meta, 'floor') or '0')
local at, refused, groups, skipped = 4, '', 0, 0
redis.call('HSET', own, '#', ARGV[3])
while ARGV[at] do
  local what = ARGV[at]
  if what == 'v' then
    change(node, ARGV[at + 1], ARGV[at + 2])
    at = at + 3
  elseif what == 'g' then
    local app, rate, cost = ARGV[at + 1], tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
    groups = groups + 1
    local capacity = math.max(1, rate)
    local left, since = string.match(redis.call('HGET', P .. 'rate', app) or '', '^(%S+) (%S+)$')
    left = left and math.min(capacity, tonumber(left) + math.max(0, now - tonumber(since)) / 1000 * rate) or capacity
    if left >= math.min(cost, capacity) - 1e-9 then
      redis.call('HSET', P .. 'rate', app, string.format('%.6f %d', left - cost, now))
    else
      refused = refused .. groups .. ' '
      skipped = tonumber(ARGV[at + 4])
    end
    at = at + 5
  elseif what == 'e' then
    local channels, numbers = tonumber(ARGV[at + 1]), {}
    local payload = ARGV[at + 2 + channels]
    if skipped == 0 then
      for i = 1, channels do
        local cached, name = string.sub(ARGV[at + 1 + i], 1, 1), string.sub(ARGV[at + 1 + i], 2)
        local record = redis.call('HGET', P .. 'topics', name)
        local number = (record and tonumber(string.match(record, '^%d+')) or floor) + 1
        redis.call('HSET', P .. 'topics', name, string.format('%d %d', number, now))
        if cached == '1' then
          redis.call('HSET', P .. 'cache', name, string.format('%d %d ', number, now) .. payload)
          redis.call('HDEL', P .. 'missed', name)
        end
        numbers[i] = string.format('%d', number)
      end
      say('e ' .. table.concat(numbers, ' '), '', payload)
    end
    at = at + 3 + channels
    if skipped > 0 then skipped = skipped - 1 end
  else
    if skipped > 0 then skipped = skipped - 1
    elseif what ~= 'w' then say(what, '', ARGV[at + 1])
    elseif redis.call('HSETNX', P .. 'missed', ARGV[at + 1], 1) == 1 then say('w', ARGV[at + 1], '') end
    at = at + 2
  end
end
redis.call('HSET', own, '#r', refused)
publish()
return {'done', refused}
"""
)
#: Returns the state after the last batch.
_LOAD = """
local P = 'tickrelay:apps:'
local clock = redis.call('TIME')
local known = redis.call('HMGET', P .. 'meta', 'life', 'n', 'floor')
return {known[1] or '0', known[2] or '0', clock[1] * 1000 + math.floor(clock[2] / 1000) .. '', known[3] or '0',
  redis.call('HGETALL', P .. 'sums'), redis.call('HGETALL', P .. 'members'), redis.call('HGETALL', P .. 'topics'),
  redis.call('HGETALL', P .. 'cache'), redis.call('HGETALL', P .. 'node:' .. ARGV[1])}
"""
#: ARGV: cursor, milliseconds for which an unused channel's record is kept, records to examine, life, the oldest batch to
#: keep. Returns the next cursor.
_SWEEP = (
    _COMMON
    + """
if redis.call('HGET', meta, 'life') ~= ARGV[4] then return '0' end
if ARGV[5] ~= '0' then redis.call('XTRIM', log, 'MINID', '~', ARGV[4] .. '-' .. ARGV[5]) end
local part = redis.call('HSCAN', P .. 'topics', ARGV[1], 'COUNT', ARGV[3])
local floor = tonumber(redis.call('HGET', meta, 'floor') or '0')
for i = 1, #part[2], 2 do
  local name = part[2][i]
  local number, used = string.match(part[2][i + 1], '^(%d+) (%d+)')
  if tonumber(used) < now - tonumber(ARGV[2]) and redis.call('HEXISTS', sums, 's' .. name) == 0 then
    redis.call('HDEL', P .. 'topics', name)
    redis.call('HDEL', P .. 'cache', name)
    floor = math.max(floor, tonumber(number))
    redis.call('HSET', meta, 'floor', string.format('%d', floor))
    if #fields < 4000 then say('f ' .. string.format('%d', floor), name, '') end
  end
end
publish()
return part[1]
"""
)
_SCRIPTS = {"enter": _ENTER, "beat": _BEAT, "bury": _BURY, "append": _APPEND, "load": _LOAD, "sweep": _SWEEP}


@frozen
class Entered:
    """The state of a node in Redis: the life of the log, the number of the node's last batch, and its values by key."""

    life: int
    last: int
    values: Mapping[str, bytes]


class Anew(Exception):
    """Raised if Redis was restarted or emptied, or no longer knows the node, so that the node must enter again."""


class AppStore:
    """Requests about applications. All raise StoreError with the reason.

    If Redis does not know a script, it was restarted. This is noticed before anything is changed.
    """

    def __init__(self, redis: RedisCluster) -> None:
        self._redis = redis
        self._hashes: dict[str, Any] = {}

    async def enter(self) -> Entered:
        """Join the current life of the log as a node, or rejoin it."""
        for name, text in _SCRIPTS.items():
            self._hashes[name] = await self._redis.ask(methodcaller("script_load", text))
        life, last, flat = await self._run("enter", [self._redis.node, self._lease])
        return Entered(int(life), int(last), _values(flat))

    async def beat(self, life: int) -> Sequence[str]:
        """Renew the node's lease. Return the nodes whose leases have expired. Raises Anew."""
        said, *dead = await self._run("beat", [self._redis.node, life, self._lease])
        if said != b"alive":
            raise Anew
        return [each.decode() for each in dead]

    async def bury(self, node: str, *, leaves: bool = False) -> None:
        """Remove the values of a node from the sums, if its lease has expired or it `leaves`."""
        while await self._run("bury", [node, int(leaves), PART]):
            pass

    async def append(self, life: int, batch: AppBatch) -> Sequence[int]:
        """Append a batch, once even if repeated. Return the numbers of its groups that were refused. Raises Anew."""
        said, *rest = await self._run("append", [self._redis.node, life, batch.number, *batch.operations])
        if said != b"done":
            raise Anew
        return [int(each) for each in rest[0].split()]

    async def load(self) -> tuple[AppSnapshot, Mapping[str, bytes]]:
        """Return the state after the last batch, and this node's values in it."""
        life, n, at, floor, sums, members, topics, cache, own = await self._run("load", [self._redis.node], 10 * WITHIN)
        cached: dict[str, tuple[int, int, bytes]] = {}
        for name, value in _pairs(cache):
            number, used, payload = value.split(b" ", 2)
            cached[name.decode()] = int(number), int(used), payload
        snapshot = AppSnapshot(
            position=AppPosition(int(life), int(n)),
            at=int(at),
            floor=int(floor),
            sums={key.decode(): int(value) for key, value in _pairs(sums)},
            members={key.decode(): value for key, value in _pairs(members)},
            numbers={name.decode(): int(value.split(b" ")[0]) for name, value in _pairs(topics)},
            cached=cached,
        )
        return snapshot, _values(own)

    async def end(self) -> AppPosition:
        """Return the position of the last batch of the log."""
        life, n = await self._redis.ask(methodcaller("hmget", META, ["life", "n"]))
        return AppPosition(int(life or 0), int(n or 0))

    async def sweep(self, cursor: int, unused: float, life: int, oldest: int) -> int:
        """Delete batches before `oldest` and some channels unused for `unused` seconds. Return the next cursor."""
        return int(await self._run("sweep", [cursor, int(unused * 1000), PART, life, oldest]))

    async def read(self, after: AppPosition, *, wait: bool = True) -> list[tuple[AppPosition, Mapping[bytes, bytes]]]:
        """Return the next batches after a position. With `wait`, wait for one if there are none yet."""
        block = WAIT if wait else None
        streams = {LOG: f"{after.life}-{after.n}"}
        found = await self._redis.ask(
            lambda client: client.xread(streams, count=AT_ONCE, block=block), WITHIN + WAIT / 1000
        )
        return [
            (AppPosition(*map(int, entry.identifier.split(b"-"))), entry.field_values)
            for entries in (found or {}).values()
            for entry in entries
        ]

    @property
    def _lease(self) -> int:
        return int(self._redis.ttl * 1000)

    async def _run(self, name: str, args: Sequence[Any], within: float = WITHIN) -> Any:
        unknown = False

        async def run(client: Any) -> Any:
            nonlocal unknown
            try:
                return await client.evalsha(self._hashes[name], keys=[], args=args)
            except self._redis.no_script:
                unknown = True

        if not self._hashes:
            raise StoreError("Redis: not entered yet")
        answer = await self._redis.ask(run, within)
        if unknown:
            raise Anew
        return answer


def _pairs(flat: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    return zip(flat[::2], flat[1::2], strict=True)


def _values(flat: Sequence[bytes]) -> dict[str, bytes]:
    return {key.decode(): value for key, value in _pairs(flat) if not key.startswith(b"#")}

"""The relay as a node of a cluster: connects `relay.cluster` with the hub, the providers and the commands.

A provider's sessions run on the node that owns it; on other nodes its topics follow the owner's logs. The owner subscribes
to the topics that subscribers of all nodes need.
"""

import secrets
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any

import trio

from relay.cluster.app_node import AppNode
from relay.cluster.forwarding import (
    ForwardedAnswer,
    ForwardedCommand,
    Forwarding,
    answer_of,
    idempotency_key_of,
    measured,
    read_command,
    refusal_of,
)
from relay.cluster.node import ClusterNode, Wanted
from relay.cluster.redis import RedisCluster
from relay.cluster.shared_app import NumberedElsewhere, SharedApp
from relay.cluster.store import ClusterStore
from relay.cluster.topics import ProviderTopics, ReplicatedLog, provider_of
from relay.errors import OperatorError
from relay.hub.app import Shared
from relay.hub.hub import Hub
from relay.hub.log import TopicLog, parse_key
from relay.model import command_input
from relay.model.channels import Asker, Stream, Topic, channel_name, parse_channel
from relay.model.commands import Command
from relay.model.enums import Outcome
from relay.model.text import from_micros
from relay.provider.driver import ProviderSession
from relay.providers import ConfiguredProvider, Providers
from relay.pusher.apps import App
from relay.settings.tables import Cluster
from relay.store.interface import Row, Rows, StoreError
from relay.trading.pending import TABLE as COMMANDS
from relay.trading.pending import PendingCommand
from relay.trading.registry import CommandRegistry
from relay.trading.service import CommandRefused, CommandService, RefusalReason, Submission

#: Seconds for sessions to end when another node takes over the provider.
GOODBYE = 0.5
#: Seconds that a command has at least at its next owner.
LEAST = 2.0

Supervise = Callable[[str, ProviderSession], Any]


def wall_time() -> str:
    """Return the wall time as RFC 3339."""
    return from_micros(time.time_ns() // 1000)


class _Part(ProviderTopics):
    """One provider at this node: `relay.cluster.node.ProviderPart`."""

    def __init__(self, owner: "Clustered", provider: ConfiguredProvider) -> None:
        node = owner.node_of(provider.name)
        super().__init__(
            provider.name,
            append=lambda name, entry: node().append(name, entry),
            leading=lambda: node().replica.leading,
            is_loaded=lambda: node().loaded,
            read_on=lambda: owner.node.read_on(provider.name),
            clock=trio.current_time,
            at=wall_time,
            epochs=owner.epochs,
        )
        self._owner = owner
        self._configured = provider
        self._wanted: Wanted = {}
        self._kept: dict[str, Stream] = {}
        self._asked_by: dict[str, set[Asker]] = {}
        #: Accounts whose stream may show the outcome of a command of the last owner.
        self._looked_for: list[Stream] = []

    def lead(self, rows: Rows) -> None:
        """Restore the state that the last owner stored, and start to own the provider."""
        self._owner.restore(rows)
        if self.is_new:
            self._write_anew()
        self._looked_for = self._owner.unresolved(self.provider)
        for stream in self._looked_for:
            self._owner.providers.keep(stream)
        self.want(self._wanted, ())

    def _write_anew(self) -> None:
        """Write the account states of this node into a store that has lost them."""
        for account, pool in self._configured.sessions.items():
            fills = [fill for of, fill in self.fills if of == account]
            for session in pool.connections:
                session.learn(fills, self.states(account))
        for row in (*self._owner.providers.rows(), *self._owner.hub.stored()):
            if provider_of(row) == self.provider:
                self._owner.store.write(row)

    async def run_sessions(self, hand_over: trio.Event) -> None:
        """Run the sessions until cancelled; end them in order at ``hand_over``."""
        sessions = self._owner.sessions[self.provider]
        try:
            async with trio.open_nursery() as nursery:
                self._owner.nurseries[self.provider] = nursery
                for name, session in sessions.items():
                    nursery.start_soon(self._owner.supervise, name, session)
                await hand_over.wait()
                for session in sessions.values():
                    session.shutdown()
                nursery.cancel_scope.deadline = trio.current_time() + GOODBYE
        finally:
            del self._owner.nurseries[self.provider]

    def resign(self, unwritten: Sequence[Row]) -> None:
        """Leave the provider to another node."""
        self._owner.drop(self.provider)
        for session in self._owner.sessions[self.provider].values():
            session.reset()
        self._owner.providers.forget(unwritten)
        super().resign(unwritten)
        for stream in self._looked_for:
            self._owner.providers.release(stream)
        self._looked_for = []
        for name in list(self._kept):
            self._release(name)

    def want(self, streams: Wanted, new: Collection[str]) -> None:
        """Subscribe to these streams while this node owns the provider; ``new`` are those that a node has just requested.

        The subscribers' identities are passed on, so that subscribers of all nodes take turns as if they were on this node,
        and pinned streams, accounts and trading go first.
        """
        self._wanted = streams
        if not self._owner.owns(self.provider):
            return
        now = trio.current_time()
        for name, askers in streams.items():
            if name not in self._kept:
                stream = self._kept[name] = parse_channel(name)
                self._asked_by[name] = set(askers[:1])
                self._owner.hub.hold(stream, True, now)
                self._owner.providers.keep(stream, askers[0] if askers else None)
            for by in askers:
                if by not in self._asked_by[name]:
                    self._owner.providers.keep_too(self._kept[name], by)
            self._asked_by[name] = set(askers)
        for name in self._kept.keys() - streams.keys():
            self._release(name)
        for name in new:
            if name.partition("-")[2].startswith("depth."):
                self._owner.hub.republish_book(parse_channel(name), now)

    def _release(self, name: str) -> None:
        stream = self._kept.pop(name)
        del self._asked_by[name]
        self._owner.providers.release(stream)
        self._owner.hub.hold(stream, False, trio.current_time())


class Clustered:
    """This node's half of the cluster.

    Args:
        settings: the cluster's settings.
        store: the store; it is connected with this node.
        supervise: runs a session and restarts it after a crash.
        run_led: runs the services that only one node runs, until cancelled.
        kept: seconds for which applications' events are stored.
        log: called with an event name and fields.
    """

    def __init__(
        self,
        settings: Cluster,
        store: ClusterStore,
        *,
        providers: Providers,
        registry: CommandRegistry,
        service: CommandService,
        supervise: Supervise,
        run_led: Callable[[], Awaitable[None]],
        kept: float,
        log: Callable[..., None],
    ) -> None:
        self.settings = settings
        self.store = store
        self.providers = providers
        self.supervise = supervise
        self.name = f"{settings.node or socket.gethostname()}-{secrets.token_hex(3)}"
        self.sessions: dict[str, dict[str, ProviderSession]] = {provider.name: {} for provider in providers}
        self.nurseries: dict[str, trio.Nursery] = {}
        self.dropped: Counter[str] = Counter()
        """Events that were not published because this node does not own their provider, by provider."""
        self._registry = registry
        self._service = service
        self.forwarding = Forwarding(
            self._tell_owner, refs=self.epochs, clock=trio.current_time, unix_ns=time.time_ns, at=wall_time
        )
        self._log = log
        self._wanted: Counter[str] = Counter()
        self._count = 0
        self._parts = {provider.name: _Part(self, provider) for provider in self.providers}
        self.apps = AppNode(self._redis(), run_led=run_led, kept=kept, unused=self._cache_ttl, log=log)

    def _redis(self) -> RedisCluster:
        """Return a connection to Redis.

        Raises:
            OperatorError: the extra that it needs is not installed.
        """
        try:
            return RedisCluster(self.settings.url, self.name, self.settings.lease)
        except StoreError as error:
            raise OperatorError(str(error)) from None

    def _cache_ttl(self) -> float:
        return max((app.app.cache_ttl for app in self.apps.all.apps.values()), default=0.0)

    def attach(self, hub: Hub) -> None:
        """Make the node, now that there is a hub."""
        self.hub = hub
        redis = self._redis()
        for part in self._parts.values():
            part.attach(hub)
        self.node = self.store.node = ClusterNode(
            redis,
            self._parts,
            may_own=self.settings.role != "edge",
            on_message=self._heard,
            status=self._told,
            log=self._log,
        )
        self.store.apps = self.apps
        self.providers.run_each(self._add)

    def node_of(self, provider: str) -> Callable[[], Any]:
        """Return a function that gives the node's part in a provider."""
        return lambda: self.node.providers[provider]

    def _add(self, name: str, session: ProviderSession) -> None:
        provider = name.partition(" ")[0].partition("/")[0]
        self.sessions[provider][name] = session
        if provider in self.nurseries:
            self.nurseries[provider].start_soon(self.supervise, name, session)

    # --- for the hub -------------------------------------------------------------------------------------------------

    def epochs(self) -> str:
        """Name an epoch, or an event of this node."""
        self._count += 1
        return f"{self.name}-{self._count:x}"

    def new_log(self, key: str) -> TopicLog | None:
        """Begin the log of a topic."""
        stream = parse_key(key)
        if isinstance(stream, tuple):
            return NumberedElsewhere(self.store, key, self.apps.all.start_of(*stream), self.apps.read_on)
        if not isinstance(stream, Stream) or stream.provider not in self._parts:
            return None
        return ReplicatedLog(self.store, key, self._parts[stream.provider])

    def new_app(self, app: App, shared: Shared) -> SharedApp:
        """Begin an app of the hub."""
        return self.apps.all.new_app(app, shared)

    async def hand_over(self) -> None:
        """Give the providers to other nodes; subscribers here are served on, from their logs."""
        await self.node.hand_over()

    async def leave(self) -> None:
        """Notify the other nodes that this node ends. Its subscribers have been disconnected before."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.apps.leave)
            nursery.start_soon(self.node.leave)

    def want(self, stream: Stream, by: Asker) -> list[str]:
        """Subscribe to a stream for its first subscriber here. Return the names of its providers."""
        behind = self.providers.behind(stream)
        for own in behind:
            name = channel_name(own, "private-")
            self._wanted[name] += 1
            if self._wanted[name] == 1:
                self.node.want(name, by)
            else:
                self.node.want_too(name, by)
        return [own.provider for own in behind]

    def want_too(self, stream: Stream, by: Asker) -> None:
        """Announce another subscriber here."""
        for own in self.providers.behind(stream):
            self.node.want_too(channel_name(own, "private-"), by)

    def unwant(self, stream: Stream) -> None:
        """Unsubscribe from a stream whose last subscriber here has left."""
        for own in self.providers.behind(stream):
            name = channel_name(own, "private-")
            self._wanted[name] -= 1
            if self._wanted[name] <= 0:
                del self._wanted[name]
                self.node.unwant(name)

    def owns(self, provider: str) -> bool:
        """Return True while this node may publish the provider's events."""
        return provider in self.node.providers and self.node.providers[provider].owns

    # --- owning ------------------------------------------------------------------------------------------------------

    def restore(self, rows: Rows) -> None:
        """Restore the commands, dials, fills and states that the last owner of a provider stored."""
        restored = self._registry.restore(rows.get(COMMANDS, ()), trio.current_time(), time.time_ns())
        self.providers.restore(rows)
        self._service.end_restored(restored)

    def unresolved(self, provider: str) -> list[Stream]:
        """Return the accounts of a provider on which the outcome of a command is unknown."""
        return [
            Stream(provider, Topic(kind="account", account=scope.account))
            for scope in self._registry.unresolved()
            if scope.provider == provider and scope.account is not None
        ]

    def drop(self, provider: str) -> None:
        """Drop the commands of a provider; its next owner sends their replies."""
        now = trio.current_time()
        for pending in self._registry.drop(provider):

            def then(answer: ForwardedAnswer, pending: PendingCommand = pending) -> None:
                pending.tell(Outcome(answer.outcome or Outcome.UNKNOWN.value), answer.reply)

            self.forwarding.send(
                provider,
                pending.scope.account,
                command_input.encode(pending.command),
                max(pending.due_at - now, LEAST),
                then,
                idempotency_key=idempotency_key_of(pending),
                api_key=pending.api_key,
            )

    # --- commands ----------------------------------------------------------------------------------------------------

    def _tell_owner(self, provider: str, kind: str, body: bytes) -> None:
        self.node.tell(self.node.providers[provider].owner, kind, body)

    def counted(self, api_key: str) -> None:
        """Tell the other nodes of a command that counts for an API key's rate."""
        self.node.tell("", "counted", api_key.encode())

    def send_elsewhere(
        self, submission: Submission, then: Callable[[CommandRefused | Outcome | None, bytes, bool], object]
    ) -> None:
        """Have a command carried out by the owner of its provider: `relay.trading.service.Elsewhere`.

        Raises:
            CommandRefused: FULL, too many commands of the API key wait for their replies.
        """

        def answered(answer: ForwardedAnswer) -> None:
            if answer.refusal is None:
                then(None if answer.outcome is None else Outcome(answer.outcome), answer.reply, answer.new)
                return
            reason = RefusalReason[answer.refusal]
            then(CommandRefused(reason, answer.message, field=answer.field, retry_after=answer.retry_after), b"", True)

        waiting, size = self.forwarding.waiting(submission.api_key)
        limits = self._registry.limits
        command = command_input.encode(submission.command)
        if waiting >= limits.open_per_key or size + measured(command) > limits.bytes_per_key:
            limit = "open_per_key" if waiting >= limits.open_per_key else "bytes_per_key"
            message = f"{waiting} commands of API key {submission.api_key} are waiting for their replies"
            raise CommandRefused(RefusalReason.FULL, f"{message} (limit commands.{limit})")
        self.forwarding.send(
            submission.provider.name,
            submission.account,
            command,
            submission.within,
            answered,
            idempotency_key=submission.idempotency_key,
            api_key=submission.api_key,
        )

    def _heard(self, sender: str, kind: str, body: bytes) -> None:
        if kind == "answer":
            self.forwarding.answered(body)
        elif kind == "counted" and sender != self.name:
            self._service.count_elsewhere(body.decode())
        elif kind == "command" and (read := read_command(body, time.time_ns())) is not None:
            self._carry_out(sender, *read)

    def _carry_out(self, sender: str, forwarded: ForwardedCommand, command: Command, left: float) -> None:
        """Execute a command that another node received, if this node owns the provider."""
        ref = forwarded.ref
        if self.providers.find(forwarded.provider) is None or not self.owns(forwarded.provider):
            return  # the other node sends it again, to the owner
        try:
            submission = self._service.forwarded(
                forwarded.api_key, forwarded.provider, forwarded.account, command, left, forwarded.idempotency_key
            )
            pending, new = self._service.submit(submission)
        except CommandRefused as refused:
            told = refusal_of(ref, refused.refusal.name, refused.message, refused.field, refused.retry_after)
            self.node.tell(sender, "answer", told)
            return
        pending.when_answered(
            lambda outcome, data: self.node.tell(sender, "answer", answer_of(ref, outcome, data, new=new))
        )

    # --- status ------------------------------------------------------------------------------------------------------

    def _told(self) -> Mapping[str, Any]:
        owned = [name for name in self.node.providers if self.owns(name)]
        read = {name: each.replica.readers["market"].position for name, each in self.node.providers.items()}
        return {
            "role": self.settings.role,
            "owns": owned,
            "connections": self.hub.connections,
            "read": read,
            "seen_at": wall_time(),
        }

    def statuses(self) -> list[Mapping[str, Any]]:
        """Return one status per session; one of a provider that another node owns is ELSEWHERE, and not required."""
        return [
            status if self.owns(status["provider"]) else {**status, "required": False, "state": "ELSEWHERE"}
            for status in self.providers.statuses()
        ]

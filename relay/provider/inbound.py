"""What came in: an adapter's events are checked, kept in order, counted and published; its signals go to the session.

A message is decoded whole before any of it is used: what raises is one Unknown and publishes nothing. Each event then
takes the shortest way its kind allows. A market event costs two dictionary look-ups (its subscription, its clock) before
it is published; depth passes the book keeper, fills and account states their memories. Events go out through the
``publish`` callable, in order, instead of as output objects: this is the path every message takes.
"""

from collections.abc import Iterable

import attrs

from relay.adapter import Adapter, Answer, Complete, Fetch, Unknown
from relay.model.enums import StalenessEvent
from relay.model.events import KINDS, Account, AccountScoped, Depth, Error, Event, Order, Position, Trade
from relay.provider.accounts import still
from relay.provider.counters import SAMPLE_SIZE, Sample
from relay.provider.outbound import Job, Purpose
from relay.provider.session_events import Sampled
from relay.provider.session_state import Core
from relay.provider.signals import Handlers
from relay.provider.subscription_table import Key, SubscriptionState, event_key
from relay.provider.subscriptions import Subscriptions, staleness


class Inbound:
    """The reading half of a session."""

    def __init__(self, core: Core, subscriptions: Subscriptions) -> None:
        self._core = core
        self._subscriptions = subscriptions
        self._account = core.context.account
        self._tally = core.tally
        self._entry_of = core.ledger.find
        self._watch_of = core.topics.find
        self._reconciling = False
        #: The request whose answer is being read; None for a message of the stream, which comes in its place.
        self._answering: Job | None = None
        self._items: Iterable[object] = ()
        self._handlers: Handlers = dict.fromkeys(KINDS.values(), self._event)
        self._handlers |= {Depth: self._depth, Trade: self._fill, Unknown: self._unknown, Complete: self._complete,
                           Fetch: self._fetch, Error: self._error}  # fmt: skip
        self._handlers |= dict.fromkeys((Order, Position, Account), self._state)

    def handle(self, handlers: Handlers) -> None:
        """Have signals handled so."""
        self._handlers |= handlers

    def decode(self, adapter: Adapter, raw: str) -> None:
        """Take one message."""
        self._tally.messages += 1
        try:
            items = list(adapter.decode(raw))
        except Exception as error:  # noqa: BLE001 - whatever an adapter raises over a message concerns that message alone
            self.unknown(raw, f"{type(error).__name__}: {error}")
            return
        self._take(items)

    def answer(self, job: Job, answer: Answer, *, reconciling: bool = False) -> None:
        """Take one HTTP answer, read by the adapter that made the request.

        When ``reconciling``, only what differs from the last known state is published.
        """
        if not isinstance(job.writing, Fetch):
            return
        tag = job.writing.tag
        self._tally.messages += 1
        try:
            items = list(job.adapter.fetched(tag, answer))
        except Exception as error:  # noqa: BLE001 - as in decode
            self.unknown(answer.text, f"answer to {tag!r}: {type(error).__name__}: {error}")
            return
        self._reconciling, self._answering = reconciling, job
        try:
            self._take(items)
        finally:
            self._reconciling, self._answering = False, None

    def _take(self, items: Iterable[object]) -> None:
        self._items = items
        for item in items:
            handler = self._handlers.get(type(item))
            if handler is None:
                self.unknown(repr(item), f"the adapter yielded a {type(item).__name__}")
            else:
                handler(item)

    # --- events ------------------------------------------------------------------------------------------------------

    def _event(self, event: Event) -> None:
        self._tally.received += 1
        self._send(event, event_key(event, self._account))

    def _send(self, event: Event, key: Key) -> None:
        if self._is_news(event, key):
            self._core.provided(event)
        else:
            self._tally.deduped += 1

    def _is_news(self, event: Event, key: Key) -> bool:
        """Data of this topic came and is about to be published, unless a topic that fell silent only repeats itself."""
        entry = self._entry_of(key)
        if entry is not None:
            entry.flowed = True
            if entry.standing is not SubscriptionState.CONFIRMED and entry.standing is not SubscriptionState.WANTED:
                self._subscriptions.confirmed_by_data(entry)
        watch = self._watch_of(key)
        if watch is None:
            if (left := self._core.topics.left(key, self._core.at.now)) is not None:
                self._core.publish(staleness(left, StalenessEvent.FRESH))
            return True
        if watch.stale and watch.said == event:  # the answer to the new request; what comes again and again is alive
            watch.said = None
            return False
        watch.said = event
        if self._core.topics.event(watch, self._core.at.now, self._core.at.unix_ns):
            self._core.publish(staleness(watch, StalenessEvent.FRESH))
        return True

    def _error(self, error: Error) -> None:
        self._core.calls.heard(error.code, error.message)
        self._event(error)

    def _depth(self, depth: Depth) -> None:
        self._tally.received += 1
        symbol = depth.symbol
        kept = self._core.books.offer(depth)
        for event in kept.out:
            if isinstance(event, Depth):
                self._send(event, ("depth", symbol))
            else:
                self._core.publish(event)
        if kept.snapshot_of is not None or (kept.out and isinstance(kept.out[0], Depth) and kept.out[0].snapshot):
            self._subscriptions.kept(symbol, kept)

    def _fill(self, fill: Trade) -> None:
        self._tally.received += 1
        if self._core.fills.is_new(fill, self._account):
            self._send(self._marked(fill), ("account", fill.account or self._account))
        else:
            self._tally.deduped += 1

    def _state(self, event: Order | Position | Account) -> None:
        self._tally.received += 1
        states, account, asked_at = self._core.states, self._account, self._asked_at()
        item = states.not_overtaken(event, account, asked_at)
        compared = self._reconciling or event.reconciled
        was_open = compared and states.is_open(event, account)
        if item is not None and (states.changes(item, account, asked_at) or not compared):
            self._send(self._marked(still(item) if was_open else item), ("account", item.account or account))
        else:
            self._tally.deduped += 1

    def _asked_at(self) -> float:
        """As of when what is being read is: a message comes in its place, and so does what a command brought about."""
        job = self._answering
        return self._core.at.now if job is None or job.purpose is Purpose.CALL else job.chain.asked_at

    def _complete(self, complete: Complete) -> None:
        """Say what is missing from a complete list. With a part that was not understood it is none."""
        core = self._core
        if any(isinstance(item, Unknown) for item in self._items):
            core.tally.notes["incomplete_list"] += 1
            return
        account = complete.account or self._account
        listed = {
            item.id
            for item in self._items
            if isinstance(item, Order | Position)
            and item.kind == complete.kind
            and (item.account or self._account) == account
        }
        for event in core.states.vanished(complete.kind, account, listed, self._asked_at()):
            core.publish(event)

    def _fetch(self, fetch: Fetch) -> None:
        """A further request: at once where the connection waits for it, else when the budget allows."""
        core, job = self._core, self._answering
        if job is not None and job.purpose in (Purpose.PREPARE, Purpose.RENEW):
            core.at_once([fetch], job.purpose)
        elif (adapter := core.adapter if job is None else job.adapter) is not None:
            core.outbound.follow(fetch, adapter, job)
            core.rearm()

    def _marked(self, event: AccountScoped) -> AccountScoped:
        return attrs.evolve(event, reconciled=True) if self._reconciling else event

    # --- what was not understood -------------------------------------------------------------------------------------

    def _unknown(self, unknown: Unknown) -> None:
        self.unknown(unknown.raw if isinstance(unknown.raw, str) else repr(unknown.raw), unknown.why)

    def unknown(self, raw: str, why: str) -> None:
        """Count and keep one message, or a part of one, that was not understood."""
        sample = Sample(
            self._core.redact(raw[: 2 * SAMPLE_SIZE])[:SAMPLE_SIZE],
            self._core.redact(why)[:500],
            self._core.stamp.received_at,
        )
        share = self._tally.not_understood(sample, self._core.declared.unknown_share)
        self._core.put(Sampled(sample.raw, sample.why))
        if share is not None:
            message = (
                f"{share:.1%} of the last messages were not understood; the last: {sample.why or sample.raw[:200]}"
            )
            self._core.error("unknown_messages", message, unknown=self._tally.unknown)

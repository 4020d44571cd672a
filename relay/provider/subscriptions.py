"""Subscriptions of a session: subscribe, repeat requests, detect silence, repair gaps, and reconcile accounts.

This module connects three state machines and turns their results into requests and events: `SubscriptionTable` (states of
subscriptions), `Topics` (staleness timers) and `Books` (order books that need a snapshot).
"""

from collections.abc import Callable, Iterable, Sequence
from math import inf

from attrs import define, evolve

from relay.adapter import Ack, Answer, Book, Fetch, Reconcile, Snapshot, Subscribe, Unsubscribe
from relay.limits import TokenBucket, backoff
from relay.model.channels import Asker, Topic
from relay.model.enums import Refill, StalenessEvent
from relay.model.events import Gap, Staleness
from relay.model.symbols import SymbolError
from relay.model.text import from_micros
from relay.provider.books import Kept
from relay.provider.liveness import Outage, Watch
from relay.provider.outbound import Job, Purpose
from relay.provider.pacing import Lane
from relay.provider.session_events import Now
from relay.provider.session_state import SessionState
from relay.provider.subscription_table import Entry, Rank, topic_key

#: Seconds until another snapshot is requested after one that was too old, growing up to the second number.
SNAPSHOT_AGAIN, SNAPSHOT_RARELY = 0.5, 30.0
#: Seconds until a snapshot request without an answer is repeated, doubling up to the second number.
ANSWER_WITHIN, LONGEST_ANSWER = 15.0, 240.0
#: Seconds a book has to stay live to be called stable, and the number of breaks in a row after which it is called unstable.
STABLE, UNSTABLE = 60.0, 4
#: Seconds from a subscription's acknowledgement until its snapshot is requested. Normally it is fetched at the first delta,
#: because it must be newer than that; this is for a book without deltas.
_FIRST_SNAPSHOT = {Book.FETCHED: 2.0, Book.DELTAS: ANSWER_WITHIN}
#: Seconds until the lists of open orders and positions are requested again after a failure, doubling up to the second.
RECONCILE_AGAIN, RECONCILE_RARELY = 5.0, 300.0
#: Seconds until a second list is requested to confirm one that contradicts recent events of the stream.
SECOND_LOOK = 2.0
#: Most `error` events about refused topics per minute, as clients can request any number of names. Each topic becomes STALE.
REFUSALS = 10
#: Seconds by which the provider's clock may differ from the relay's. Missed events are requested from that much earlier.
CLOCKS_DIFFER = 60
AWAY = "the session was down"


@define(eq=False)
class _Plan:
    due_at: float
    attempts: int = 0
    under_way: bool = False


class Snapshots:
    """The books that need a snapshot, and when each is to be requested.

    One request per symbol is under way at a time. After a snapshot that was too old, or an error, the next request waits
    from `SNAPSHOT_AGAIN` seconds, growing to `SNAPSHOT_RARELY`. A request without any answer is repeated after
    `ANSWER_WITHIN` seconds, then after twice as long, and so on up to `LONGEST_ANSWER`. A book that breaks again and again
    soon after its snapshot (its checksum or its numbers never fit) waits in the same growing way, until it has stayed live
    for `STABLE` seconds.
    """

    def __init__(self) -> None:
        self._plans: dict[str, _Plan] = {}
        #: Books that broke: how often in a row, and when each was last live.
        self._breaks: dict[str, int] = {}
        self._live_at: dict[str, float] = {}

    def __contains__(self, symbol: str) -> bool:
        return symbol in self._plans

    def need(self, symbol: str, at: float) -> None:
        """Plan the request for a snapshot of ``symbol`` at ``at``, or at the time planned before if that is earlier."""
        plan = self._plans.setdefault(symbol, _Plan(at))
        if plan.attempts == 0:
            plan.due_at = min(plan.due_at, at)

    def take_due(self, now: float) -> list[str]:
        """Mark the symbols that are due as under way and return them."""
        symbols = [symbol for symbol, plan in self._plans.items() if plan.due_at <= now]
        for symbol in symbols:
            plan = self._plans[symbol]
            plan.due_at, plan.under_way = now + backoff(ANSWER_WITHIN, LONGEST_ANSWER, plan.attempts), True
            plan.attempts += 1
        return symbols

    def failed(self, symbol: str, now: float, at_least: float = 0.0) -> None:
        """Plan another request, because the snapshot was too old or the request failed."""
        plan = self._plans.get(symbol)
        if plan is not None and plan.under_way:
            plan.under_way = False
            plan.due_at = now + max(at_least, backoff(SNAPSHOT_AGAIN, SNAPSHOT_RARELY, plan.attempts - 1))

    def live(self, symbol: str, now: float) -> None:
        """Note that the book is live."""
        self._plans.pop(symbol, None)
        self._live_at[symbol] = now

    def broken(self, symbol: str, now: float) -> int:
        """Note that a live book broke and needs a snapshot. Return how often that happened since the book was last
        stable.
        """
        self._plans.pop(symbol, None)
        live_at = self._live_at.pop(symbol, now)
        breaks = self._breaks[symbol] = self._breaks.get(symbol, 0) + 1 if now - live_at < STABLE else 1
        self.need(symbol, now if breaks == 1 else now + backoff(SNAPSHOT_AGAIN, SNAPSHOT_RARELY, breaks - 2))
        return breaks

    def skip(self, symbol: str) -> None:
        """Cancel the planned snapshot of this book."""
        self._plans.pop(symbol, None)

    def done(self, symbol: str) -> None:
        """Remove the book: its topic is no longer subscribed, or was refused."""
        self._plans.pop(symbol, None)
        self._breaks.pop(symbol, None)
        self._live_at.pop(symbol, None)

    def clear(self) -> None:
        """Remove all planned requests: the connection is closed. Keep the counts of breaks for the next connection."""
        self._plans.clear()
        self._live_at.clear()

    def deadline(self) -> float:
        """Return the time at which `take_due` has something."""
        return min((plan.due_at for plan in self._plans.values()), default=inf)


class Subscriptions:
    """The subscriptions of one session: requests, acknowledgements, staleness, gaps, snapshots and reconciliation.

    Args:
        tell_instrument: publishes what is known of the instrument of a symbol; False where nothing is known.
    """

    def __init__(self, core: SessionState, tell_instrument: Callable[[str], bool] = lambda symbol: False) -> None:
        self._tell_instrument = tell_instrument
        self._core = core
        self._table = core.table
        self._books = core.books
        self._topics = core.topics
        self._declared = core.declared
        self._is_one_of_several = core.declared.most_connections > 1 or bool(core.declared.sockets) or core.is_further
        self._offers = {offer.kind: offer for offer in core.adapter_class.offers}
        self._snapshots = Snapshots()
        self._refusals = TokenBucket(REFUSALS / 60, REFUSALS)
        self._reconcile_at = inf
        self._reconcile_failures = 0
        #: Number of lists in a row that contradicted events published shortly before.
        self._looks = 0
        self._missed_since: str | None = None
        #: Start of an outage whose account events are still being fetched.
        self._absent_since: Now | None = None
        #: True if the adapter can request an account's missed events.
        self._replays = False
        #: Time of the next audit: a comparison of the account with the provider's lists, without any sign of a loss.
        self._audit_at = inf
        #: False once the adapter turned out to fetch no lists; True if the last audit failed.
        self._audits, self._audit_fails = True, False
        #: Frames per topic in the last request, if requests are limited. A batch must fit into the budget that is left now,
        #: so that subscribers take turns.
        limited = core.budget.is_limited("interest") or core.budget.is_limited("frame")
        self._frames_each = 1.0 if limited else 0.0

    # --- topics that subscribers need --------------------------------------------------------------------------------

    def want(self, topic: Topic, by: Asker | None = None) -> None:
        """Add ``topic``, see `SubscriptionTable.want`. While the session is down, a new topic is published as STALE."""
        entry = self._table.find(topic_key(topic))
        is_wanted = entry is not None and entry.leave_at is None
        for refused in self._table.want(topic, by):
            self._say_stale(refused.topic, refused.reason or "")
        outage = self._topics.outage
        if not is_wanted and outage is not None and (outage.is_published or outage.take_due(self._core.at.now)):
            self._topics.suspend(topic, self._core.at.now)
            self._core.publish(self._down(outage, topic.kind, topic))
        self._core.rearm()

    def _say_stale(self, topic: Topic, reason: str, *, refused: bool | None = None) -> None:
        """Publish that ``topic`` is STALE for this reason, unless that was published already."""
        watch = self._topics.refused(topic, reason, self._core.at.now)
        if watch is not None:
            self._core.publish(evolve(staleness(watch, StalenessEvent.STALE), refused=refused))

    def _not_offered(self, topic: Topic) -> str | None:
        if topic.symbol is not None:
            try:
                self._core.context.symbols.native(topic.symbol)
            except SymbolError as error:
                return str(error)
        if not self._offers or topic.kind == "status":
            return None
        offer = self._offers.get(topic.kind)
        if offer is None:
            offered = ", ".join(sorted(self._offers))
            return f"{self._core.context.provider} does not offer {topic.kind}; it offers {offered}"
        if offer.timeframes and topic.timeframe not in offer.timeframes:
            return f"timeframe {topic.timeframe} is not offered; the timeframes are {', '.join(offer.timeframes)}"
        return None

    def serve(self) -> None:
        """Publish the WANTED instruments from the provider's metadata, which the session has read.

        Without a connection, an instrument that the metadata do not have is STALE at once, because they are not read again
        soon. With a connection it may still arrive as a message.
        """
        for topic in self._table.take_to_serve():
            if (reason := self._not_offered(topic)) is not None:
                self.refused((topic,), reason)
                continue
            self.sent((topic,))
            self.confirmed((topic,))
            if not self._tell_instrument(topic.symbol or "") and not self._core.up:
                self._say_stale(topic, f"{self._core.context.provider} says nothing of this instrument")

    def write(self) -> bool:
        """Queue the next subscribe and unsubscribe requests unless earlier ones wait; return True if any is queued."""
        core = self._core
        if core.up:
            self.serve()
        if not core.up or core.adapter is None or not core.outbound.queue.idle(Lane.INTEREST) or not core.outbound.room:
            return False
        leaving = self._table.take_to_unsubscribe()
        if leaving:
            self._unsubscribe(leaving)
        wanted = self._table.take_to_subscribe(self._batch())
        if wanted:
            self._subscribe(wanted)
        else:
            self._refuse_crowded()
        return bool(leaving or wanted)

    def _refuse_crowded(self) -> None:
        """Publish STALE for topics beyond the connection's limit; they are requested when other topics are unsubscribed."""
        crowded = self._table.crowded()
        if not crowded:
            return
        first, reason = crowded[0].topic, crowded[0].reason or ""
        for entry in crowded:
            self._say_stale(entry.topic, reason)
        named = f"{first.kind} {first.symbol or first.account or ''}" if len(crowded) == 1 else f"{len(crowded)} topics"
        self._core.error("subscription_refused", f"{named}: {reason}", kind=first.kind, symbol=first.symbol or "")

    def _batch(self) -> int:
        """Return how many topics a request may contain so that all of its frames can be sent now."""
        core, room = self._core, float(self._core.outbound.room)
        for of in ("interest", "frame"):
            left = core.budget.remaining(of, core.at.now)
            room = room if left is None else min(room, left)
        return max(1, int(room / self._frames_each)) if self._frames_each else self._declared.topics_per_frame

    def _unsubscribe(self, topics: tuple[Topic, ...]) -> None:
        core = self._core
        assert core.adapter is not None
        try:
            core.outbound.write(core.adapter, Unsubscribe(topics), Lane.INTEREST, Purpose.INTEREST)
        except Exception as error:  # noqa: BLE001 - an adapter's fault over one request must not end the session
            if len(topics) == 1:
                core.encode_failed("Unsubscribe", error)
            else:
                for topic in topics:
                    self._unsubscribe((topic,))

    def _subscribe(self, batch: tuple[Topic, ...]) -> None:
        """Queue the request for these topics. Refuse those that the provider does not offer or the adapter cannot encode."""
        core = self._core
        assert core.adapter is not None
        reasons = {topic: self._not_offered(topic) for topic in batch}
        for topic, reason in reasons.items():
            if reason is not None:
                self.refused((topic,), reason)
        topics = tuple(topic for topic in batch if reasons[topic] is None)
        if not topics:
            return
        for topic in topics:
            if topic.kind == "depth" and topic.symbol is not None:
                self._books.open(topic.symbol)
        try:
            written = core.outbound.write(
                core.adapter, Subscribe(topics), Lane.INTEREST, Purpose.INTEREST, topics=topics
            )
        except Exception as error:  # noqa: BLE001 - as above; the topics at fault are refused with the reason
            if len(topics) == 1:
                self.refused(topics, core.reason_of(error, "writing Subscribe"))
            else:
                for topic in topics:
                    self._subscribe((topic,))
            return
        self._frames_each = written / len(topics)
        if not written:
            self.sent(topics)
            self.confirmed(topics)

    def sent(self, topics: Iterable[Topic]) -> None:
        """Note that the request for these topics was sent."""
        topics, at = tuple(topics), self._core.at
        self._table.sent(topics, at.now)
        for topic in topics:
            if self._declared.ack_within is None:
                self._topics.subscribed(topic, at.now, at.unix_ns)
            else:
                self._topics.requested(topic, at.now, at.unix_ns)

    # --- answers of the provider -------------------------------------------------------------------------------------

    def acknowledged(self, ack: Ack) -> None:
        """Handle the provider's acknowledgement of a subscribe or unsubscribe request."""
        if ack.done:
            self.confirmed(ack.topics)
        else:
            self._table.ended(ack.topics)
        self._core.rearm()

    def confirmed(self, topics: Iterable[Topic]) -> None:
        """Note that the provider acknowledged these topics."""
        for entry in self._table.confirmed(topics):
            self._topics.subscribed(entry.topic, self._core.at.now, self._core.at.unix_ns)
            if entry.topic.kind != "account" or not self._replays:
                self._fresh_when_quiet(entry.topic)
            symbol = entry.topic.symbol
            wait = _FIRST_SNAPSHOT.get(self._declared.book)
            if (
                entry.topic.kind == "depth"
                and symbol is not None
                and wait is not None
                and self._books.collecting(symbol)
            ):
                self._snapshots.need(symbol, self._core.at.now + wait)

    def _fresh_when_quiet(self, topic: Topic) -> None:
        watch = self._topics.fresh_when_quiet(topic)
        if watch is not None:
            self._core.publish(staleness(watch, StalenessEvent.FRESH))

    def reconciled(self) -> None:
        """Make the account FRESH: its known state was compared with the provider's lists."""
        self._looks = 0
        if self._audit_at == inf and self._audits and self._core.settings.audit:
            self._audit_at = self._core.at.now + self._core.settings.audit
        for entry in self._table:
            if entry.topic.kind == "account":
                self._fresh_when_quiet(entry.topic)

    def confirmed_by_data(self, entry: Entry) -> None:
        """Confirm a topic whose first event arrived before, or instead of, an acknowledgement."""
        self.confirmed((entry.topic,))
        self._core.rearm()

    def refused(self, topics: Sequence[Topic], reason: str) -> None:
        """Handle a refusal of these topics by the provider or the adapter, see `SubscriptionTable.refused`."""
        core = self._core
        shown = core.redact(reason)
        for entry in self._table.refused(topics, shown):
            topic = entry.topic
            self._close_book(topic)
            self._say_stale(topic, shown, refused=True)
            name = topic.symbol or topic.account or ""
            if entry.rank is not Rank.PINNED and not self._refusals.take(1, core.at.now):
                core.counters.notes["refusal_not_told"] += 1
                continue
            text, mine = f"{topic.kind} {name}: {shown}", topic.kind == "account"
            core.error("subscription_refused", text, kind=topic.kind, symbol=name, of_account=mine)

    def _remove(self, topic: Topic) -> None:
        self._topics.forget(topic)
        self._close_book(topic)

    def give_up_waiting(self, most: int) -> list[Entry]:
        """Remove and return up to ``most`` topics beyond the limit, see `SubscriptionTable.give_up_waiting`."""
        entries = self._table.give_up_waiting(most)
        for entry in entries:
            self._remove(entry.topic)
        return entries

    def _close_book(self, topic: Topic) -> None:
        if topic.kind == "depth" and topic.symbol is not None:
            self._books.close(topic.symbol)
            self._snapshots.done(topic.symbol)

    # --- connections come and go -------------------------------------------------------------------------------------

    def begin(self, lost: Now | None) -> None:
        """Start the subscriptions of a new connection. ``lost`` is the start of the outage, None if there was none."""
        core = self._core
        self._topics.opened()
        away_since, self._missed_since = None, None
        if lost is not None:
            away_since = from_micros(self._unix_ns(lost) // 1000)
            if self._absent_since is None or lost.now < self._absent_since.now:
                self._absent_since = lost
        if (absent := self._absent_since) is not None:
            since_ns = self._unix_ns(absent)
            if core.provider_ahead_ns is not None:
                since_ns = min(since_ns, int(absent.now * 1e9) + core.provider_ahead_ns)
            self._missed_since = from_micros(since_ns // 1000 - CLOCKS_DIFFER * 1_000_000)
        self._reconcile_failures = 0
        self._reconcile()  # only queued here: the gap events below are published before any of these requests is sent
        if not core.outbound.queue.has(lambda job: job.purpose is Purpose.RECONCILE and isinstance(job.writing, Fetch)):
            self._absent_since = None
        if away_since is not None:
            for entry in self._table:
                if entry.flowed:
                    core.publish(self._gap(entry.topic, AWAY, since=away_since))

    def _unix_ns(self, past: Now) -> int:
        """Return the wall time of ``past``. If the wall clock was set since, the earlier of both results is safe."""
        at = self._core.at
        return min(past.unix_ns, at.unix_ns - int((at.now - past.now) * 1e9))

    def caught_up_to(self, heard: float) -> float:
        """Return the time up to which all account events are known: ``heard``, or the start of an unfinished outage."""
        return heard if self._absent_since is None else min(heard, self._absent_since.now)

    def absence_answered(self) -> None:
        """Note that all requests about an outage were answered."""
        if self._reconcile_at == inf:  # otherwise a part failed and is requested again
            self._absent_since = None

    def lost(self, reason: str, lost_ns: int | None) -> None:
        """Handle the end of a connection or attempt. ``lost_ns``: start of the outage; None before the first connection."""
        self._table.disconnected()
        self._topics.closed(reason, lost_ns, self._core.at.now)
        self._books.close_all()
        self._snapshots.clear()
        self._reconcile_at = self._audit_at = inf

    def _gap(
        self,
        topic: Topic,
        reason: str,
        *,
        since: str | None = None,
        from_seq: int | None = None,
        to_seq: int | None = None,
    ) -> Gap:
        account = Refill.REPLAY if self._replays else Refill.NONE
        refills = {"depth": Refill.SNAPSHOT, "instrument": Refill.SNAPSHOT, "account": account}
        refill = refills.get(topic.kind, Refill.NONE)
        return Gap(
            of=topic.kind,
            symbol=topic.symbol,
            timeframe=topic.timeframe,
            from_seq=from_seq,
            to_seq=to_seq,
            since=since,
            until=None if since is None else self._core.at.text,
            refill=refill,
            reason=reason,
        )

    # --- accounts ----------------------------------------------------------------------------------------------------

    def _reconcile(self) -> None:
        """Request the lists of open orders and positions, if the adapter can."""
        self._reconcile_at = inf
        core = self._core
        if core.adapter is None or core.is_further:
            return
        try:
            written = core.outbound.write(core.adapter, Reconcile(self._missed_since), Lane.FETCH, Purpose.RECONCILE)
            self._replays = written > 0
        except Exception as error:  # noqa: BLE001 - an adapter's fault over one request must not end the session
            core.encode_failed("Reconcile", error)

    def _audit(self) -> None:
        """Compare the account with the provider's lists, because streams have been seen to lose fills silently."""
        core, every = self._core, self._core.settings.audit
        self._audit_at = core.at.now + every
        if core.adapter is None or not core.outbound.queue.idle(Lane.FETCH) or not core.outbound.queue.idle(Lane.CALL):
            return
        # Overlap with the previous audits, as the lists may have lagged behind the stream.
        now_ns = core.unix_ns_at(core.at.now, core.at)
        since = from_micros(now_ns // 1000 - int((2 * every + CLOCKS_DIFFER) * 1_000_000))
        try:
            if not core.outbound.audit(core.adapter, Reconcile(since)):
                self._audits, self._audit_at = False, inf
        except Exception as error:  # noqa: BLE001 - as above
            core.encode_failed("Reconcile", error)

    def audited(self, facts: int) -> None:
        """Handle the end of an audit; report the ``facts`` (a number) that it found and the stream had not sent."""
        self._audit_fails = False
        if facts:
            self._core.counters.notes["found_by_audit"] += facts
            text = f"the provider's lists have {facts} changes of the account that its stream did not send"
            self._core.error("stream_incomplete", text, facts=facts)

    def not_audited(self, answer: Answer) -> None:
        """Count a failed audit. The first failure in a row is reported to the readers of the account."""
        self._core.counters.notes["audit_failed"] += 1
        if not self._audit_fails:
            self._audit_fails = True
            text = f"the account could not be compared with the provider's lists: HTTP status {answer.status}"
            self._core.error("audit_failed", text, of_account=True)

    def reconcile_again(self) -> None:
        """Request another list to confirm one that contradicts events received shortly before its request.

        The interval grows with each such list in a row: on a busy account with lagging lists each may contradict something.
        """
        wait = backoff(SECOND_LOOK, RECONCILE_RARELY, self._looks)
        self._looks += 1
        self._reconcile_at = min(self._reconcile_at, self._core.at.now + wait)
        self._core.rearm()

    def not_reconciled(self, answer: Answer) -> None:
        """Handle the failure of a request for the list of open orders and positions."""
        text = f"the lists of open orders and positions could not be fetched: HTTP status {answer.status}"
        self._core.error("reconcile_failed", text, of_account=True)
        if self._reconcile_at == inf:  # of several lists one is enough
            self._reconcile_at = self._core.at.now + backoff(
                RECONCILE_AGAIN, RECONCILE_RARELY, self._reconcile_failures
            )
            self._reconcile_failures += 1

    # --- books -------------------------------------------------------------------------------------------------------

    def kept(self, symbol: str, kept: Kept) -> None:
        """Handle the result of a depth event: the book emitted a snapshot, or it needs one."""
        now = self._core.at.now
        self._core.rearm()
        if kept.snapshot_of is None:
            self._snapshots.live(symbol, now)
        elif kept.out:
            breaks = self._snapshots.broken(symbol, now)
            if breaks >= UNSTABLE:
                self._unstable(symbol, kept, is_news=breaks == UNSTABLE)
        else:
            urgent = self._declared.book is Book.FETCHED
            self._snapshots.need(symbol, now if urgent else now + ANSWER_WITHIN)

    def _unstable(self, symbol: str, kept: Kept, *, is_news: bool) -> None:
        """Make a book STALE that breaks again and again; its snapshots are requested at growing intervals."""
        reasons = [event.reason for event in kept.out if isinstance(event, Gap)]
        reason = f"the book breaks again and again: {reasons[-1] if reasons else 'no reason given'}"
        if is_news:
            self._core.error("book_unstable", f"depth {symbol}: {reason}", symbol=symbol)
        watch = self._topics.refused(Topic(kind="depth", symbol=symbol), reason, self._core.at.now)
        if watch is not None:
            self._core.publish(staleness(watch, StalenessEvent.STALE))

    def snapshot_answered(self, job: Job, answer: Answer, retry_after: float | None) -> None:
        """Handle the answer to a snapshot request after its events were decoded; retry if the book still needs one."""
        if not answer.ok:
            text = f"no snapshot of {job.subject}: HTTP status {answer.status} {answer.text[:200]}"
            self._core.error("snapshot_failed", text, symbol=job.subject)
        if self._books.collecting(job.subject):
            self._snapshots.failed(job.subject, self._core.at.now, retry_after or 0.0)

    def _ask_for_snapshot(self, symbol: str) -> None:
        """Request the snapshot of one book; resubscribe it if the provider has no such request."""
        core = self._core
        entry = self._table.find(("depth", symbol))
        if entry is None or core.adapter is None or not self._books.collecting(symbol):
            self._snapshots.skip(symbol)
            return
        try:
            written = core.outbound.write(core.adapter, Snapshot(entry.topic), Lane.FETCH, Purpose.SNAPSHOT, symbol)
        except Exception as error:  # noqa: BLE001 - as above
            core.encode_failed("Snapshot", error)
            return
        if not written:
            self._table.again(entry.topic)

    # --- timers ------------------------------------------------------------------------------------------------------

    def clocks(self, now: float) -> None:
        """Handle expired timers: unsubscribe, publish staleness, and repeat requests, snapshots and reconciliations."""
        for topic in self._table.expire(now):
            self._remove(topic)
        outage = self._topics.outage
        if outage is not None and len(self._table) and outage.take_due(now):
            self._suspend(outage)
        if not self._core.up:
            return
        _, given_up = self._table.overdue(now)
        for entry in given_up:
            name = entry.topic.symbol or entry.topic.account or ""
            self._core.error("subscription_unanswered", f"{entry.topic.kind} {name}: {entry.reason}")
            self._say_stale(entry.topic, entry.reason or "")
        waiting = self._table.waiting(now)
        for entry in waiting:
            watch = self._topics.find(topic_key(entry.topic))
            if watch is not None and watch.without_data:
                continue  # it is being resubscribed because it had no data, and was published as STALE for that reason
            self._say_stale(entry.topic, f"not requested yet: {len(waiting)} topics wait for the provider's rate limit")
        for watch in self._topics.check(now, self._core.at.unix_ns):
            self._core.publish(staleness(watch, StalenessEvent.STALE))
            # A topic without an acknowledgement is requested again for that reason, by `SubscriptionTable.overdue`.
            if self._topics.is_due(watch) and (
                self._declared.ack_within is None or self._table.is_confirmed(watch.topic)
            ):
                self._table.again(watch.topic)
        for symbol in self._snapshots.take_due(now):
            self._ask_for_snapshot(symbol)
        if now >= self._reconcile_at:
            self._reconcile()
        if now >= self._audit_at:
            self._audit()

    def _suspend(self, outage: Outage) -> None:
        """Make all topics STALE. Publish one event per kind, or per topic if other connections have topics of that kind."""
        for entry in self._table:
            self._topics.suspend(entry.topic, self._core.at.now)
            if self._is_one_of_several:
                self._core.publish(self._down(outage, entry.topic.kind, entry.topic))
        if not self._is_one_of_several:
            for kind in dict.fromkeys(entry.topic.kind for entry in self._table):
                self._core.publish(self._down(outage, kind))

    def _down(self, outage: Outage, kind: str, topic: Topic | None = None) -> Staleness:
        return Staleness(
            event=StalenessEvent.STALE,
            symbols=(topic.symbol,) if topic is not None and topic.symbol else (),
            of=kind,
            timeframe=None if topic is None else topic.timeframe,
            reason=f"no session with {self._core.context.provider}: {outage.reason}",
            stale_since=None if outage.since_ns is None else from_micros(outage.since_ns // 1000),
            session=True,
        )

    def deadline(self) -> float:
        """Return the time at which `clocks` has something to do besides the table's and the topics' own deadlines."""
        return min(self._snapshots.deadline(), self._reconcile_at, self._audit_at, self._table.waiting_deadline())

    def outage_deadline(self) -> float:
        """Return the time at which the topics become STALE because the session is down."""
        outage = self._topics.outage
        return inf if outage is None or outage.is_published or not len(self._table) else outage.due_at


def staleness(watch: Watch, event: StalenessEvent) -> Staleness:
    """Return the `Staleness` event of a topic."""
    topic = watch.topic
    since = None
    if event is StalenessEvent.STALE and watch.since_ns is not None:
        since = from_micros(watch.since_ns // 1000)
    return Staleness(
        event=event,
        symbols=(topic.symbol,) if topic.symbol else (),
        of=topic.kind,
        timeframe=topic.timeframe,
        reason=watch.reason,
        stale_since=since,
        session=True if watch.session else None,
    )

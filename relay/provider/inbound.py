"""Incoming data: decode a provider's messages, drop duplicates, and publish the events in order.

A message is decoded completely before any of its events is used. If the adapter raises, the message counts as one Unknown
and none of its events is published. `SessionMachine.handle_decoded` passes each event to the method for its kind. A market
event needs two dictionary look-ups (its subscription, its staleness timer) before it is published. Depth also passes through
the order book, and fills and account states through the caches that recognize duplicates. Events are published by a call and
not returned as objects, because every message takes this path.
"""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any

import attrs
from attrs import frozen

from relay.adapter import (
    Adapter,
    Answer,
    CommandReply,
    Complete,
    Fetch,
    Partial,
    Polled,
    Refresh,
    Seek,
    Send,
    Sought,
    Unknown,
)
from relay.limits import BoundedDict
from relay.model.enums import PositionEvent, StalenessEvent
from relay.model.events import KINDS, Account, AccountScoped, Depth, Error, Event, Instrument, Order, Position, Trade
from relay.model.text import to_ns
from relay.provider.accounts import State, States, shows_a_fill
from relay.provider.outbound import Job, Purpose
from relay.provider.session_events import Sampled
from relay.provider.session_state import SAMPLE_SIZE, Publish, Sample, SessionState, place
from relay.provider.subscription_table import Key, SubscriptionState
from relay.provider.subscriptions import Subscriptions, staleness

#: Events that need neither an order book nor a cache.
PLAIN = frozenset(KINDS.values()) - {Depth, Instrument, Trade, Order, Position, Account, Error}
#: Instruments whose last event is remembered, so that one that says the same is not published again.
_TOLD = 10_000


#: An account and an id of one of its orders.
_OrderName = tuple[str | None, str]
#: Orders behind fills that are remembered as asked for.
_MOST_SOUGHT = 10_000


class OrderSearch:
    """The orders that lists lack or name by another id, of a broker that can be asked for one order (`Orders.sought`).

    A list that lacks an open order may have it under an id that nobody knows yet. So the order is asked for alone, and no
    order that nobody knows is taken from a list before the answer. Then the list is requested once more. Likewise a fill of
    an unknown order waits, while orders are open, until the open ones were listed again and it has come again.

    Attributes:
        seeks: the orders to ask for because of the fills of the last message.
        again: the names of the polls to repeat because of it.
    """

    def __init__(self, states: States, account: str | None) -> None:
        self._states = states
        self._account = account
        self.begin()

    def begin(self) -> None:
        """Forget what was true of the last connection."""
        self.seeks: list[Seek] = []
        self.again: list[Hashable] = []
        #: The open orders that the last whole lists did not have; those of them that were found open all the same.
        self._missing: set[_OrderName] = set()
        self._found: set[_OrderName] = set()
        #: By the order of a fill that nobody knows: True where nothing more is to be asked of it.
        self._behind: BoundedDict[_OrderName, bool] = BoundedDict(_MOST_SOUGHT)
        #: The polls that were answered, and the last one whose answer was a whole list of orders.
        self._answered: set[Hashable] = set()
        self._list: Hashable = None

    def read(self, items: Sequence[object], poll: Hashable) -> list[object]:
        """Return the items of a message with every order under the id it was known by first.

        Left out is what nobody can tell yet whether it is news. ``poll`` is the name of the poll that the message answers,
        None if it answers none.
        """
        self.seeks, self.again = [], []
        read = [found for item in items if (found := self._known_as(item)) is not None]
        is_whole = self._judge_list(read)
        is_clear = is_whole and self._found >= self._missing
        is_first = poll not in self._answered
        if poll is not None:
            self._answered.add(poll)
            if is_whole:
                self._list = poll
                self.again += [] if is_clear else [poll]
        kept: list[object] = []
        for item in read:
            match item:
                case _Answered(state):
                    kept.append(state)
                case Order() if poll is not None and not self._is_news(item, is_clear=is_clear):
                    continue
                case Trade() if poll is not None and not self._admit_fill(item, poll, is_first=is_first):
                    continue
                case _:
                    kept.append(item)
        return kept

    def lack(self, account: str | None, listed: set[str]) -> list[Seek]:
        """Note the open orders of the account that a whole list does not have; return them as what is to be asked for."""
        lacking = [id for of, id in self._open() if of == account and id not in listed]
        others = {name for name in self._missing if name[0] != account}
        self._missing = others | {(account, id) for id in lacking}
        self._found &= self._missing
        return [Seek(id, None if account == self._account else account) for id in lacking]

    def _known_as(self, item: Any) -> Any:
        """Return an item with the first ids of its orders; None for the answer that there is no such order."""
        match item:
            case Order():
                return attrs.evolve(item, id=self._name(item.account, item.id)[1])
            case Partial(Order() as state):
                return Partial(attrs.evolve(state, id=self._name(state.account, state.id)[1]))
            case Trade():
                return attrs.evolve(item, order_id=self._name(item.account, item.order_id)[1])
            case CommandReply(events=tuple() as events):
                return attrs.evolve(item, events=tuple(map(self._known_as, events)))
            case Sought():
                return self._answer(item)
        return item

    def _name(self, account: str | None, id: str) -> _OrderName:
        account = account or self._account
        return account, self._states.first_id(account, id)

    def _answer(self, sought: Sought) -> "_Answered | Error | None":
        """Return the state in the answer to a request for one order, that it has vanished, or why there is none."""
        state = sought.state
        if state is None:
            name = self._name(sought.account, sought.order_id or "")
            order = self._states.find("order", *name)
            if name not in self._missing or not isinstance(order, Order) or not self._states.is_open(order, name[0]):
                return sought.failed
            self._missing.discard(name)
            return _Answered(
                attrs.evolve(order, event=None, vanished=True, reconciled=True, updated_at=None, timestamp=None)
            )
        name = self._name(state.account, state.id if sought.order_id is None else sought.order_id)
        self._states.learn_id(name[0], name[1], state.id)
        if name in self._missing:
            self._found.add(name)
        return _Answered(attrs.evolve(state, id=name[1]))

    def _judge_list(self, items: Sequence[object]) -> bool:
        """Note the open orders that a list lacks; return False if these items are no whole list of orders."""
        accounts = {
            item.account or self._account for item in items if isinstance(item, Complete) and item.kind == "order"
        }
        if not accounts or any(isinstance(item, Unknown) for item in items):
            return False
        for account in accounts:
            self.lack(account, {each.id for each in items if isinstance(each, Order) and self._is_of(account, each)})
        return True

    def _is_of(self, account: str | None, order: Order) -> bool:
        return (order.account or self._account) == account

    def _open(self) -> Iterator[_OrderName]:
        for order in self._states.open("order"):
            if isinstance(order, Order):
                yield order.account or self._account, order.id

    def _is_news(self, order: Order, *, is_clear: bool) -> bool:
        """Return whether an order of a list is known, or is open and cannot be a known one under another id."""
        if self._states.find("order", order.account or self._account, order.id) is not None:
            return is_clear or order.status.is_final or self._states.is_open(order, self._account)
        return is_clear and not order.status.is_final

    def _admit_fill(self, fill: Trade, poll: Hashable, *, is_first: bool) -> bool:
        """Return True for a fill that is to be published now; note what is to be asked about an order that nobody knows.

        It waits while its order may be a known one under another id.

        The orders behind the first fills of a connection, which were missed, are not asked for.
        """
        name = self._name(fill.account, fill.order_id)
        if self._states.find("order", *name) is not None or self._behind.get(name):
            return True
        is_new, self._behind[name] = name not in self._behind, True
        if is_first:
            return True
        if is_new and any(True for _ in self._open()):
            self._behind[name] = False
            self.again += [each for each in (self._list, poll) if each is not None and each not in self.again]
            return False
        self.seeks.append(Seek(fill.order_id, fill.account))
        return True


@frozen
class _Answered:
    """The state in the answer to a request for one order."""

    state: Order


class Inbound:
    """The reading half of a session."""

    def __init__(self, core: SessionState, subscriptions: Subscriptions, publish: Publish) -> None:
        self._core = core
        self._subscriptions = subscriptions
        self._publish = publish
        self._account = core.context.account
        self._trades = core.trades
        self._is_binary = core.declared.frames == "binary"
        self._counters = core.counters
        self._search = OrderSearch(core.states, self._account) if core.adapter_class.orders.sought else None
        self._entry_of = core.table.find
        self._watch_of = core.topics.find
        #: The message being handled answers a reconciliation: only states that differ from the known ones are published.
        self.reconciling = False
        #: The request whose answer is being handled; None for a message of the stream.
        self._answering: Job | None = None
        #: The time for which the message being handled is valid: that of its request, if it answers one. None: now.
        self._valid_at: float | None = None
        self._items: Sequence[object] = ()
        self._told: BoundedDict[str, Instrument] = BoundedDict(_TOLD)

    def decode(self, adapter: Adapter, raw: str) -> Sequence[object]:
        """Return the events and signals of one message; none if the adapter raises."""
        self._counters.messages += 1
        try:
            items = list(adapter.decode_recorded(raw) if self._is_binary else adapter.decode(raw))
        except Exception as error:  # noqa: BLE001 - whatever an adapter raises over a message concerns that message alone
            self.unknown(raw, f"{type(error).__name__}: {error} (at {place(error)})")
            return ()
        self._items = items
        self._valid_at, self.reconciling = None, False
        if self._search is not None:
            return self._sought(self._search, items, self._note_list(items))
        if len(items) > 1 and self._trades:
            self._note_list(items)
        return items

    def _note_list(self, items: Sequence[object]) -> Hashable:
        """Note when the polled list in this message was requested, and if the request was a reconciliation.

        Return the name of the poll, None where there is none.
        """
        polls = self._core.outbound.polls
        for item in items:
            if type(item) is Polled and item.failed is None:
                self._valid_at, self.reconciling = polls.valid_at(item.name), polls.is_missed(item.name)
                return item.name
        return None

    def _sought(self, search: OrderSearch, items: Sequence[object], poll: Hashable) -> Sequence[object]:
        self._items = items = search.read(items, poll)
        for name in search.again:
            self._core.outbound.polls.again(name)
        self._seek(search.seeks)
        return items

    def _seek(self, seeks: Iterable[Seek]) -> None:
        core = self._core
        for seek in seeks:
            if core.adapter is not None:
                core.outbound.look(core.adapter, core.encode(seek, missed=self.reconciling))
        core.rearm()

    def disconnected(self) -> None:
        """Forget what was true of the connection only."""
        if self._search is not None:
            self._search.begin()

    def answers_list(self, asked_at: float) -> None:
        """Treat the rest of the message as a list that an application requested at this time."""
        self._valid_at = asked_at

    def begin_answer(self, job: Job, answer: Answer, *, reconciling: bool = False) -> Sequence[object]:
        """Return the events and signals of one HTTP answer, decoded by the adapter that made the request.

        Everything handled until `end_answer` counts as part of this answer. When ``reconciling``, only states that differ
        from the last known ones are published.
        """
        if not isinstance(job.writing, Fetch):
            return ()
        tag = job.writing.tag
        self._counters.messages += 1
        try:
            items = list(job.adapter.fetched(tag, answer))
        except Exception as error:  # noqa: BLE001 - as in decode
            self.unknown(answer.text, f"answer to {tag!r:.100}: {type(error).__name__}: {error} (at {place(error)})")
            job.chain.broken = True
            return ()
        self._items, self.reconciling, self._answering, self._valid_at = items, reconciling, job, None
        return items if self._search is None else self._sought(self._search, items, job.poll)

    def end_answer(self) -> None:
        """Evaluate the lists that are complete now. Messages after this call belong to the stream again."""
        job, asked_at = self._answering, self._asked_at()
        if job is not None:
            chain = job.chain
            chain.listed |= self._listed()
            is_list = any(isinstance(item, Complete) for item in self._items)
            chain.broken |= not is_list and any(isinstance(item, Unknown) for item in self._items)
            if chain.left <= 0 and job.purpose is Purpose.RECONCILE:
                self._subscriptions.absence_answered()
            if chain.left <= 0 and not chain.broken:
                completes, chain.completes = chain.completes, []
                self._evaluate(completes, chain.listed, asked_at)
                if job.purpose is Purpose.AUDIT:
                    self._subscriptions.audited(chain.facts)
                if job.purpose is not Purpose.POLL and self._core.states.take_doubt():
                    self._subscriptions.reconcile_again()
                elif self.reconciling:
                    self._subscriptions.reconciled()
        self.reconciling, self._answering = False, None

    # --- events ------------------------------------------------------------------------------------------------------

    def publish(self, event: Event, key: Key) -> None:
        """Publish an event of the provider, unless the topic is stale and the event equals the last one published.

        Every event also confirms the subscription of its topic, ``key``.
        """
        if self._note_data(event, key):
            core, counters = self._core, self._counters
            counters.published += 1
            counters.published_ns = core.at.unix_ns
            self._publish(event, core.stamp, core.at.now)
        else:
            self._counters.deduped += 1

    def _note_data(self, event: Event, key: Key) -> bool:
        """Note that an event of this topic came; return False if the topic is stale and the event equals its last one."""
        entry = self._entry_of(key)
        if entry is not None:
            entry.flowed = True
            if entry.state is not SubscriptionState.CONFIRMED and entry.state is not SubscriptionState.WANTED:
                self._subscriptions.confirmed_by_data(entry)
        watch = self._watch_of(key)
        if watch is None:
            if (left := self._core.topics.left(key)) is not None:
                self._core.publish(staleness(left, StalenessEvent.FRESH))
            return True
        # A provider resends its last value after a resubscribe. One duplicate is dropped; the next shows that data flow.
        if watch.stale and watch.last_event == event:
            watch.last_event = None
            return False
        watch.last_event = event
        if self._core.topics.event(watch, self._core.at.now, self._core.at.unix_ns):
            self._core.publish(staleness(watch, StalenessEvent.FRESH))
        return True

    def depth(self, depth: Depth) -> None:
        """Apply ``depth`` to its order book; publish the events that the book emits."""
        self._counters.received += 1
        symbol = depth.symbol
        kept = self._core.books.offer(depth)
        for event in kept.out:
            if isinstance(event, Depth):
                self.publish(event, ("depth", symbol))
            else:
                self._core.publish(event)
        if kept.snapshot_of is not None or (kept.out and isinstance(kept.out[0], Depth) and kept.out[0].snapshot):
            self._subscriptions.kept(symbol, kept)

    def instrument(self, instrument: Instrument) -> None:
        """Remember ``instrument``; publish it where somebody is subscribed to it and it is not as it was.

        A provider has thousands of them, and they are read anew on every connection: those that nobody wants are no events.
        """
        core, native = self._core, instrument.native_symbol
        if native is not None:
            symbols = core.context.symbols
            if (symbol := symbols.canonical(native)) != instrument.symbol:  # as configured, or as it stands for itself
                instrument = attrs.evolve(instrument, symbol=symbol)
            symbols.describe(native, name=instrument.name, aliases=instrument.aliases or ())
        core.context.instruments.learn(instrument, core.stamp.received_at, core.at.now)
        entry = self._entry_of(("instrument", instrument.symbol))
        if entry is not None and entry.state is SubscriptionState.CONFIRMED:  # else `Subscriptions.serve` publishes it
            if self._told.get(instrument.symbol) == instrument:
                self._counters.received += 1
                self._counters.deduped += 1
            else:
                self.tell_instrument(instrument.symbol)

    def tell_instrument(self, symbol: str) -> bool:
        """Publish what is known of the instrument of ``symbol``, with the time at which it was received; False: nothing."""
        core, instruments = self._core, self._core.context.instruments
        if (instrument := instruments.find(symbol)) is None:
            return False
        self._told[symbol] = instrument
        self._counters.received += 1
        if self._note_data(instrument, ("instrument", symbol)):
            self._counters.published += 1
            self._counters.published_ns = core.at.unix_ns
            stamp = attrs.evolve(core.stamp, received_at=instruments.received_at(symbol))
            self._publish(instrument, stamp, core.at.now)
        else:
            self._counters.deduped += 1
        return True

    def fill(self, fill: Trade) -> None:
        """Publish a fill that was not published before."""
        self._counters.received += 1
        self._core.notice_time(fill.timestamp)
        if self._core.fills.remember(fill, self._account):
            self._count_fact(fill)
            self.publish(self._marked(fill), ("account", fill.account or self._account))
            filled = self._core.fills.filled(fill, self._account)
            if (order := self._core.states.corrected(fill, self._account, filled)) is not None:
                self._core.publish(order)
        else:
            self._counters.deduped += 1

    def state(self, event: State, *, partial: bool = False) -> None:
        """Publish the state of an order, a position or an account, unless it adds nothing to the last known one."""
        self._counters.received += 1
        self._core.notice_time(event.timestamp, getattr(event, "updated_at", None))
        account = self._account
        compared = self.reconciling or bool(event.reconciled)
        polled = self._valid_at is not None or (self._answering is not None and self._answering.purpose is Purpose.POLL)
        may_lag = polled or (compared and self._answering is not None)
        before = self._core.states.find(event.kind, event.account or account, getattr(event, "id", ""))
        if self._is_past(event, before):
            self._counters.deduped += 1
            return
        news = self._core.states.news(
            event, account, self._asked_at(), compared=compared, partial=partial, may_lag=may_lag
        )
        if news is not None:
            self._count_fact(news)
            self.publish(self._marked(news), ("account", news.account or account))
            if isinstance(news, Order) and news.replaces is not None:
                ended = self._core.states.replaced(news, account, self._asked_at())
                if ended is not None:
                    self._core.publish(ended)
            if not self.reconciling and shows_a_fill(news, before):
                self._look(Refresh(news.account))
            return
        self._counters.deduped += 1
        if not compared:  # a duplicate from the stream proves that the account's stream delivers data
            self._note_data(event, ("account", event.account or account))

    def _is_past(self, event: State, before: State | None) -> bool:
        """Return whether a list of what was missed has an order that ended before the absence, and was not open for us."""
        since = None if self._answering is None else self._answering.chain.since
        if since is None or not isinstance(event, Order) or not event.status.is_final or event.updated_at is None:
            return False
        was_open = isinstance(before, Order) and not before.status.is_final
        return not was_open and to_ns(event.updated_at) < to_ns(since)

    def _look(self, outgoing: Refresh) -> None:
        core = self._core
        if core.adapter is not None:
            core.outbound.look(core.adapter, core.encode(outgoing))
            core.rearm()

    def _count_fact(self, event: AccountScoped) -> None:
        """Count a difference that an audit found. Figures that change with every price are not counted."""
        if self._answering is None or isinstance(event, Account):
            return
        if not isinstance(event, Position) or event.event is not PositionEvent.POSITION_MODIFIED:
            self._answering.chain.facts += 1

    def _asked_at(self) -> float:
        """Return the time the data being handled is valid for: that of the request for a list, otherwise now."""
        job = self._answering
        if job is not None and job.purpose is not Purpose.CALL:
            return job.chain.asked_at
        return self._core.at.now if self._valid_at is None else self._valid_at

    def complete(self, complete: Complete) -> None:
        """Publish a closing event for each order or position that was open and is missing from a complete list.

        A list with an element that could not be decoded is not complete. A fetched list is evaluated only after all requests
        of the same batch have completed, because its other pages and the orders that ended during an outage arrive in any
        order.
        """
        if any(isinstance(item, Unknown) for item in self._items):
            self._core.counters.notes["incomplete_list"] += 1
        elif self._answering is None:
            self._evaluate([complete], self._listed(), self._asked_at())
            self._subscriptions.reconciled()
        else:
            self._answering.chain.completes.append(complete)

    def _listed(self) -> set[tuple[str, str | None, str]]:
        states = (item.state if isinstance(item, Partial) else item for item in self._items)
        return {
            (item.kind, item.account or self._account, item.id) for item in states if isinstance(item, Order | Position)
        }

    def _evaluate(self, completes: list[Complete], listed: set[tuple[str, str | None, str]], asked_at: float) -> None:
        for complete in completes:
            account = complete.account or self._account
            ids = {id for kind, of, id in listed if (kind, of) == (complete.kind, account)}
            if self._search is not None and complete.kind == "order":
                self._seek(self._search.lack(account, ids))
                continue
            may_lag = self._answering is not None or self._valid_at is not None
            for event in self._core.states.end_missing(complete.kind, account, ids, asked_at, may_lag=may_lag):
                self._count_fact(event)
                self._core.publish(event)

    def fetch(self, fetch: Fetch) -> None:
        """Send a further request: at once if the connection's setup waits for it, else when the rate limit allows."""
        core, job = self._core, self._answering
        if job is not None and job.purpose in (Purpose.PREPARE, Purpose.RENEW):
            core.at_once([fetch], job.purpose)
        elif (adapter := core.adapter if job is None else job.adapter) is not None:
            core.outbound.follow(fetch, adapter, job)
            core.rearm()

    def send(self, send: Send) -> None:
        """Send a frame at once. A frame that follows from a subscription request is queued with the subscriptions."""
        core, job = self._core, self._answering
        if job is not None and job.purpose is Purpose.INTEREST:
            core.outbound.interest(job.adapter, self._sent(send))
        else:
            core.at_once([self._sent(send)])

    def _sent(self, send: Send) -> str:
        return send.text.decode("latin-1") if isinstance(send.text, bytes) and self._is_binary else send.text  # type: ignore[return-value]

    def _marked(self, event: AccountScoped) -> AccountScoped:
        return attrs.evolve(event, reconciled=True) if self.reconciling else event

    # --- messages that could not be decoded --------------------------------------------------------------------------

    def unknown(self, raw: str, why: str) -> None:
        """Count one message, or a part of one, that could not be decoded, and keep a sample of it."""
        sample = Sample(
            self._core.redact(raw[: 2 * SAMPLE_SIZE])[:SAMPLE_SIZE],
            self._core.redact(why)[:500],
            self._core.stamp.received_at,
        )
        share = self._counters.not_understood(sample)
        self._core.put(Sampled(sample.raw, sample.why))
        if share is not None:
            unknown, of = share
            message = (
                f"{unknown} of the last {of} messages ({unknown / of:.1%}) were not understood by the adapter "
                f"{self._core.adapter_class.name}; the log and the status page have samples"
            )
            self._core.error("unknown_messages", message, unknown=self._counters.unknown)

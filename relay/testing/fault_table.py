"""The table of faults that every adapter with a simulator is tested by.

    test_sessions = conformance.sessions(Acme, SIMULATED)

Each fault of `FAULTS` is one test of a session (`relay.testing.sessions`). A fault that the declarations rule out (a wrong
key where there is none) is skipped with the reason, and so is one that the author says the provider cannot show; nothing is
left out without a word.
"""

from collections.abc import Awaitable, Callable, Mapping
from decimal import Decimal
from functools import partial
from typing import Any

import attrs
import trio
from attrs import frozen

from relay.adapter import Adapter, Book, CloseMeaning
from relay.errors import leaves, suggestion
from relay.model.commands import PlaceOrder
from relay.model.enums import Outcome
from relay.model.events import Depth, Gap, Order, RateLimit, Reply, Staleness, Trade
from relay.plugins.hookspecs import Simulated
from relay.testing.faults import Corrupt, Cut, HalfOpen, Reset, Stall, Throttle
from relay.testing.sessions import QUICK, Case, Failed, WatchedSession, key_of, session_of
from relay.testing.simulator import Close, Garbage, Mute, Refuse, Simulator, Slow, Takeover, Withhold
from relay.testing.trial import topic_text

__all__ = ["FAULTS", "case_of", "play", "sessions"]

#: A symbol that no provider has, and credentials that none takes.
_NOWHERE, _WRONG = "NO/SUCH", "not-the-one-of-anyone"
#: Messages of all streams that get lost.
_MISSING = 10


@frozen
class Fault:
    """A row of the table.

    Attributes:
        play: makes the fault and checks what comes of it.
        lacks: returns why the adapter's declarations rule it out; None where they do not.
        declared: changes of the declaration, so that nothing takes long.
        about: the sentence that a reader of the table needs.
    """

    name: str
    play: Callable[[WatchedSession], Awaitable[None]]
    lacks: Callable[[Case], str | None]
    declared: Callable[[Case], Mapping[str, Any]]
    about: str
    connected: bool = True
    credentials: bool = True


FAULTS: dict[str, Fault] = {}


def _nothing(case: Case) -> None:
    """Rule nothing out."""


def _as_declared(case: Case) -> Mapping[str, Any]:
    return {}


def _soon_silent(case: Case) -> Mapping[str, Any]:
    """Beat in the adapter's own way, and find silence soon."""
    return {"silent_after": 1.0, "heartbeat": attrs.evolve(case.adapter.session.heartbeat, every=0.2)}


def _no_orders(case: Case) -> str | None:
    return None if PlaceOrder in case.adapter.commands else "it takes no orders"


def _no_market(case: Case) -> str | None:
    return None if any(topic.symbol for topic in case.topics) else "no stream of a symbol is pinned"


def _no_preparation(case: Case) -> str | None:
    return None if list(case.adapter(case.context()).prepare()) else "it asks for nothing before it connects"


def _no_credentials(case: Case) -> str | None:
    return None if case.simulated.credentials else "it has no credentials"


def _no_numbers(case: Case) -> str | None:
    session = case.adapter.session
    if session.book not in (Book.DELTAS, Book.FETCHED) or not session.sequence.contiguous:
        return "its books do not tell what is missing: they are whole, or not numbered without holes"
    return None if any(topic.kind == "depth" for topic in case.topics) else "no depth is pinned"


def _fault(
    name: str,
    lacks: Callable[[Case], str | None] = _nothing,
    declared: Callable[[Case], Mapping[str, Any]] = _as_declared,
    **settings: bool,
) -> Callable[[Callable[[WatchedSession], Awaitable[None]]], Callable[[WatchedSession], Awaitable[None]]]:
    def enter(play: Callable[[WatchedSession], Awaitable[None]]) -> Callable[[WatchedSession], Awaitable[None]]:
        FAULTS[name] = Fault(name, play, lacks, declared, (play.__doc__ or "").strip().splitlines()[0], **settings)
        return play

    return enter


def _loss(
    name: str, make: Callable[[WatchedSession], object], reason: str, about: str, *, silent: bool = False
) -> None:
    """Enter a fault after which the session comes back by itself."""

    async def play(seen: WatchedSession) -> None:
        since = len(seen.told)
        make(seen)
        seen.asked.clear()
        await seen.came_back(since, reason)

    play.__doc__ = about
    _fault(name, declared=_soon_silent if silent else _as_declared)(play)


_loss("cut", lambda seen: seen.line.inject(Cut()), "closed with 1006", "The line ends without a close frame.")
_loss("reset", lambda seen: seen.line.inject(Reset()), "closed with 1006", "The line is reset.")
_loss("silence", lambda seen: seen.simulator.inject(Mute()), "nothing received", "The provider is silent.", silent=True)
_loss("stall", lambda seen: seen.line.inject(Stall()), "nothing received", "The line carries nothing.", silent=True)
_loss("half open", lambda seen: seen.line.inject(HalfOpen()), "nothing received", "Only one side ends.", silent=True)
_loss("not UTF-8", lambda seen: seen.line.inject(Corrupt("utf8")), "closed with 100", "A frame is no UTF-8.")
_loss("not RFC 6455", lambda seen: seen.line.inject(Corrupt("frame")), "closed with 1002", "A frame is no frame.")


@_fault("garbage")
async def _garbage(seen: WatchedSession) -> None:
    """A message that means nothing is counted, and costs nothing else."""
    since = len(seen.told)
    seen.unknown = seen.observer.report.unknown + 1
    seen.simulator.inject(Garbage())
    await seen.until(lambda: seen.observer.report.unknown >= seen.unknown, "garbage that is told as Unknown")
    await seen.flowing()
    _no_loss(seen, since)


@_fault("slow line")
async def _slow_line(seen: WatchedSession) -> None:
    """A slow line is late, and loses nothing."""
    since = len(seen.told)
    seen.line.inject(Throttle(3000))
    await seen.flowing()
    seen.line.heal()
    await seen.flowing()
    _no_loss(seen, since)


@_fault("slow answers")
async def _slow_answers(seen: WatchedSession) -> None:
    """Messages and answers that come late are waited for."""
    since = len(seen.told)
    seen.simulator.inject(Slow(0.05))
    await seen.flowing()
    seen.simulator.heal()
    _no_loss(seen, since)
    seen.simulator.next_request(Slow(0.5))
    seen.line.inject(Cut())
    seen.asked.clear()
    await seen.came_back(since)


@_fault("restart")
async def _restart(seen: WatchedSession) -> None:
    """The provider closes the connection because it restarts."""
    await _closed(seen, Close(1012, "restart"), 1012, "restart")


@_fault("takeover")
async def _takeover(seen: WatchedSession) -> None:
    """Another session takes this one's place, which is not fought for where the adapter declares it."""
    close = seen.simulator.takeover
    await _closed(seen, Takeover(), close.code, close.reason)


async def _closed(seen: WatchedSession, fault: Close | Takeover, code: int, reason: str) -> None:
    since, meaning = len(seen.told), seen.case.adapter.closed(code, reason)
    stops = meaning in (CloseMeaning.TAKEOVER, CloseMeaning.REFUSED)
    seen.simulator.inject(fault)
    seen.asked.clear()
    await seen.state("FAILED" if stops else "RECONNECTING", since)
    if stops:
        seen.session.resume()
    await seen.state("CONNECTED", since)
    await seen.flowing()


@_fault("away")
async def _away(seen: WatchedSession) -> None:
    """The provider is not there for a while."""
    since = len(seen.told)
    seen.line.down()
    await seen.until(lambda: len(seen.states(since)) >= 3, "three attempts to connect")
    seen.asked.clear()
    seen.line.up()
    await seen.state("CONNECTED", since)
    await seen.flowing()


def _refusal(status: int, name: str, about: str) -> None:
    async def play(seen: WatchedSession) -> None:
        since, meaning = len(seen.told), seen.case.adapter.session.refusals.get(status, CloseMeaning.RETRY)
        seen.simulator.next_connection(Refuse(status, headers={"retry-after": "0"}))
        seen.line.inject(Cut())
        stops = meaning in (CloseMeaning.REFUSED, CloseMeaning.TAKEOVER)
        await seen.state("FAILED" if stops else "CONNECTED", since)
        why = seen.states(since)[1].reason or ""
        if str(status) not in why:
            raise seen.failed(f"expected the refusal with status {status} to be told, got {why!r}")
        limited = any(isinstance(each, RateLimit) for each in seen.told[since:])
        if limited != (meaning is CloseMeaning.RATE_LIMITED):
            raise seen.failed(f"status {status} means {meaning.value}, and a rate limit was told: {limited}")
        if stops:
            seen.session.resume()
            await seen.state("CONNECTED", since)
        await seen.flowing()

    play.__doc__ = about
    _fault(name)(play)


_refusal(401, "refused", "The connection is refused with 401.")
_refusal(429, "throttled", "The connection is refused with 429.")
_refusal(503, "unavailable", "The connection is refused with 503.")


@_fault("preparation refused", _no_preparation)
async def _preparation_refused(seen: WatchedSession) -> None:
    """A request before the connection is answered with status 503."""
    await _unprepared(seen, Refuse(503))


@_fault("preparation garbage", _no_preparation)
async def _preparation_garbage(seen: WatchedSession) -> None:
    """A request before the connection is answered with a page of HTML."""
    await _unprepared(seen, Refuse(200, body="<html>busy</html>"))
    seen.unknown = seen.observer.report.unknown  # it is one's own exception, an Unknown, or nothing at all


async def _unprepared(seen: WatchedSession, fault: Refuse) -> None:
    since = len(seen.told)
    seen.simulator.next_request(fault)
    seen.line.inject(Cut())
    seen.asked.clear()
    await seen.state("CONNECTED", since)
    await seen.flowing()


@_fault("wrong key", _no_credentials, connected=False, credentials=False)
async def _wrongkey_of(seen: WatchedSession) -> None:
    """A credential that is refused stops the session, and is shown nowhere."""
    await seen.state("FAILED", 0)
    status, dialled = seen.session.status(), seen.line.accepted
    if _WRONG in repr(status) or _WRONG in repr(seen.told):
        raise seen.failed("the wrong credential is shown")
    await trio.sleep(10 * QUICK.cap)
    if seen.line.accepted != dialled:
        raise seen.failed("the session goes on connecting with a credential that was refused")


@_fault("refused subscription", _no_market)
async def _refused_subscription(seen: WatchedSession) -> None:
    """A symbol that the provider does not have is refused with the reason, and costs the others nothing."""
    since, first = len(seen.told), next(topic for topic in seen.case.topics if topic.symbol)
    seen.session.want(attrs.evolve(first, symbol=_NOWHERE))
    refused = await seen.until(
        lambda: [
            each
            for each in seen.told[since:]
            if isinstance(each, Staleness) and each.refused and _NOWHERE in each.symbols
        ],
        f"the refusal of {_NOWHERE}; is a Nack decoded, and does the simulator refuse it?",
    )
    if not refused[0].reason:
        raise seen.failed("the refusal has no reason")
    await seen.flowing()
    _no_loss(seen, since)


@_fault("lost message", _no_numbers)
async def _lost_message(seen: WatchedSession) -> None:
    """Changes of a book that never come are noticed: a gap is told, and a whole book follows."""
    topic = next(each for each in seen.case.topics if each.kind == "depth")
    await seen.until(lambda: len(seen.data(key_of(topic))) > 3, f"changes of {topic_text(topic)}")
    since = len(seen.told)
    seen.simulator.inject(Withhold())
    await seen.until(lambda: sum(link.withheld for link in seen.simulator.links) > _MISSING, "messages to lose")
    seen.simulator.heal()
    (gap, *_) = await seen.until(
        lambda: [each for each in seen.told[since:] if isinstance(each, Gap) and key_of(each) == key_of(topic)],
        f"a gap of {topic_text(topic)}; are first_seq and last_seq those of the message?",
    )
    behind = seen.told.index(gap)
    await seen.until(
        lambda: [each for each in seen.told[behind:] if isinstance(each, Depth)], "a whole book behind the gap"
    )
    if seen.states(since):
        raise seen.failed("the connection was lost, which a gap of one book is no reason for")


def _no_loss(seen: WatchedSession, since: int) -> None:
    if lost := seen.states(since):
        raise seen.failed(f"the connection was lost: {lost[0].event}, {lost[0].reason}")
    if gaps := [each for each in seen.told[since:] if isinstance(each, Gap)]:
        raise seen.failed(f"{len(gaps)} gaps are told, though nothing was lost: {gaps[0].of}: {gaps[0].reason}")


# --- commands --------------------------------------------------------------------------------------------------------


async def _accepted(seen: WatchedSession, id: str) -> Reply:
    reply = await seen.reply(id)
    if reply.outcome is not Outcome.ACCEPTED:
        raise seen.failed(f"the order {id} was {reply.outcome.value}: {reply.error}")
    return reply


@_fault("order accepted", _no_orders)
async def _order_accepted(seen: WatchedSession) -> None:
    """An order is accepted, arrives once, and the account tells what became of it."""
    since = len(seen.told)
    seen.place("c1")
    await _accepted(seen, "c1")
    await seen.until(lambda: seen.of_account(since), "what became of the order, on the account's stream")
    _, is_new = seen.session.send(seen.order("c1"))
    if is_new or seen.arrived("c1") != 1:
        raise seen.failed(f"the order arrived {seen.arrived('c1')} times")


@_fault("order rejected", _no_orders)
async def _order_rejected(seen: WatchedSession) -> None:
    """An order that the broker refuses is rejected, with the broker's own code or words."""
    seen.place("c1", quantity=seen.case.too_much)
    reply = await seen.reply("c1")
    if reply.outcome is not Outcome.REJECTED:
        raise seen.failed(f"an order of {seen.case.too_much} is {reply.outcome.value}: {reply.error or reply.result}")
    error = reply.error if isinstance(reply.error, dict) else {}
    if not (error.get("code") and error.get("message")):
        raise seen.failed(f"the refusal has no code and message: {reply.error!r}")
    if any(isinstance(each, Trade) for each in seen.told):
        raise seen.failed("a fill is told of an order that was rejected")


@_fault("answer lost", _no_orders)
async def _answer_lost(seen: WatchedSession) -> None:
    """An order whose answer is lost is unknown, not rejected, never sent again; the account tells its fate."""
    since = len(seen.told)
    seen.line.swallows = True
    seen.place("c1", 5.0)
    await seen.until(lambda: seen.arrived("c1"), "the order's arrival at the provider")
    seen.line.inject(Cut())
    seen.line.swallows = False
    reply = await seen.reply("c1")
    if reply.outcome is Outcome.REJECTED:
        raise seen.failed(f"an order that may be live is said to be rejected: {reply.error}")
    await seen.state("CONNECTED", since)
    await seen.flowing()
    if seen.compares:
        await seen.until(lambda: seen.of_account(since), "what became of the order, from the account's lists")
    if seen.compares and "client_order_id" in seen.case.adapter.orders.members:
        pending, _ = seen.session.send(seen.order("c1"))
        await seen.until(
            lambda: pending.outcome is Outcome.ACCEPTED,
            "the fate of the order, told by its client_order_id: the lists must give the order with it",
        )
    if seen.arrived("c1") != 1:
        raise seen.failed(f"the order arrived {seen.arrived('c1')} times")


@_fault("fills over losses", _no_orders)
async def _fills(seen: WatchedSession) -> None:
    """Fills are told once and sum up, however often the line breaks."""
    for number in range(3):
        since = len(seen.told)
        seen.place(f"c{number}")
        await _accepted(seen, f"c{number}")
        seen.line.inject(Reset())
        await seen.state("CONNECTED", since)
        await seen.flowing()
    orders = {each.id: each for each in seen.told if isinstance(each, Order)}
    totals: dict[str, Decimal] = {}
    for each in seen.told:
        if isinstance(each, Trade) and each.order_id is not None:
            totals[each.order_id] = totals.get(each.order_id, Decimal(0)) + Decimal(each.quantity)
    for id, total in totals.items():
        quantity = orders[id].quantity if id in orders else None
        if quantity is not None and total > Decimal(quantity):
            raise seen.failed(f"the fills of order {id} sum up to {total}, more than its quantity {quantity}")


@_fault("audit", _no_orders)
async def _audit(seen: WatchedSession) -> None:
    """Facts that the stream withheld are published once, by the account's lists."""
    await seen.until(lambda: seen.compares is not None, "encode(Reconcile), which an account's session begins with")
    if not seen.compares:
        raise seen.failed(
            "encode(Reconcile) writes nothing; where the provider has no lists of the account, say so: cannot={'audit': ...}"
        )
    since = len(seen.told)
    seen.simulator.inject(Withhold())
    seen.place("c1", 1.5)
    await seen.until(lambda: seen.arrived("c1"), "the order's arrival at the provider")
    reply = await seen.reply("c1")
    if reply.outcome is Outcome.REJECTED:
        raise seen.failed(f"an order that may be live is said to be rejected: {reply.error}")
    seen.simulator.heal()
    await seen.until(lambda: seen.of_account(since), "what became of the order, from the account's lists")
    if seen.states(since):
        raise seen.failed("the connection was lost, which an audit is no reason for")


# --- for pytest ------------------------------------------------------------------------------------------------------


async def _play(case: Case, fault: Fault) -> None:
    credentials = None if fault.credentials else dict.fromkeys(case.simulated.credentials, _WRONG)
    async with session_of(case, credentials=credentials, connected=fault.connected, **fault.declared(case)) as seen:
        await fault.play(seen)
        seen.check()


def case_of(
    adapter: type[Adapter],
    simulated: Simulated,
    *,
    simulator: Callable[[], Simulator] | None = None,
    order: Mapping[str, Any] | None = None,
    too_much: str = "1000000000",
    cannot: Mapping[str, str] | None = None,
) -> Case:
    """Return the adapter with its simulator, for `sessions` and `session_of`.

    Raises:
        ValueError: there is no simulator, nothing is pinned, or ``cannot`` names a fault that there is not.
    """
    make = simulator or simulated.simulator
    if make is None:
        raise ValueError("simulator: give the class, or make SIMULATED with relay.testing.simulator.simulated")
    if not simulated.pinned:
        raise ValueError("SIMULATED.pinned: name streams that bring data, the first one all the time")
    for name in cannot or {}:
        if name not in FAULTS:
            raise ValueError(f"cannot: there is no fault {name!r}; {suggestion(name, FAULTS)}")
    return Case(
        adapter=adapter, simulated=simulated, make=make, order=order or {}, too_much=too_much, cannot=cannot or {}
    )


def play(case: Case, name: str) -> str | None:
    """Play one fault; return None, or why this provider cannot show it.

    Raises:
        Failed: the session does not do what it must.
    """
    fault = FAULTS[name]
    why = case.cannot.get(name) or fault.lacks(case)
    if why is not None:
        return why
    try:
        trio.run(partial(_play, case, fault))
    except* Failed as group:
        raise Failed(str(leaves(group)[0])) from None
    return why


def sessions(adapter: type[Adapter], simulated: Simulated, **settings: Any) -> Callable[[str], None]:
    """Return a test function, parametrized over `FAULTS`, for pytest to collect. Settings are those of `case_of`."""
    import pytest

    case = case_of(adapter, simulated, **settings)

    @pytest.mark.parametrize("fault", FAULTS)
    def holds(fault: str) -> None:
        if (why := play(case, fault)) is not None:
            pytest.skip(f"{adapter.name} cannot show it: {why}")

    return holds

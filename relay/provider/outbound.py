"""Outgoing frames and requests: the adapter writes them, the budget paces them, and HTTP answers are matched to them.

Frames and requests wait in one queue by lane (trading calls, then subscriptions, then other requests). Answers that
cannot wait (a pong, an acknowledgement, a heartbeat, the first words on a connection) are sent at once and charged all
the same. A request remembers the adapter instance that wrote it: the answer to an order placed over HTTP is read by that
one even when the WebSocket connection has been replaced meanwhile.
"""

import enum
from collections import Counter
from collections.abc import Hashable, Iterable
from itertools import count
from math import inf

from attrs import Factory, define, evolve, frozen

from relay.adapter import (
    Adapter,
    Answer,
    Complete,
    Context,
    Fetch,
    Outgoing,
    Poll,
    Reconcile,
    Session,
    Subscribe,
    Unsubscribe,
)
from relay.model.channels import Topic
from relay.model.commands import Command
from relay.provider.pacing import Budget, Lane, Queue, Uses
from relay.provider.polls import Polls
from relay.provider.session_events import FetchRequest, Output, SendText
from relay.provider.templates import authenticated, fetch_target

#: Frames that wait to be written, beyond which no more subscriptions are handed over: they wait here, where a command, a
#: heartbeat or an answer passes them.
MOST_UNWRITTEN = 32
#: The same for commands: beyond it the provider does not read, and a command waits until its deadline.
MOST_COMMANDS = 500
#: Frames that wait to be written, beyond which none of a lane are. Lists and snapshots may pass subscriptions that wait.
MOST_FRAMES = {Lane.CALL: MOST_COMMANDS, Lane.INTEREST: MOST_UNWRITTEN, Lane.FETCH: 2 * MOST_UNWRITTEN}
#: HTTP requests without an answer, by lane; more wait. All sessions share the process's descriptors and time, so a thousand
#: subscriptions that need a request each must not make an order of another session wait.
MOST_REQUESTS = {Lane.CALL: 64, Lane.INTEREST: 8, Lane.FETCH: 8}

#: Pages of one list.
MOST_PAGES = 1000


class Purpose(enum.Enum):
    """Why something is sent."""

    PREPARE = "prepare"
    RENEW = "renew"
    SNAPSHOT = "snapshot"
    CALL = "call"
    INTEREST = "interest"
    RECONCILE = "reconcile"
    AUDIT = "audit"
    POLL = "poll"
    OTHER = "other"

    @property
    def lane(self) -> Lane:
        """The lane in which it waits."""
        return _LANES.get(self, Lane.FETCH)


_LANES = {Purpose.CALL: Lane.CALL, Purpose.INTEREST: Lane.INTEREST}


@define(eq=False)
class FetchChain:
    """Requests that are made together, and the further requests that their answers lead to.

    Attributes:
        asked_at: when the first request of it was made, monotonic seconds: the answers tell nothing newer for certain.
        since: the time since which something may have been missed, RFC 3339 (`Reconcile.since`); None where nothing was.
        left: how many of its requests have no answer yet.
        listed: the kind, account and id of every order and position that its answers had so far.
        completes: the lists that are complete, judged when the last answer has come.
        facts: how many fills, orders, openings and closings its answers had that were not known.
        broken: an answer failed, or was not understood in a part that belongs to no list: nothing is complete.
    """

    asked_at: float = inf
    since: str | None = None
    left: int = 0
    listed: set[tuple[str, str | None, str]] = Factory(set)
    completes: list[Complete] = Factory(list)
    broken: bool = False
    facts: int = 0


@frozen
class Job:
    """A frame or a request.

    Attributes:
        subject: the symbol of a snapshot, the id of a command.
        topics: what is asked for once this, the last frame or request of its batch, was sent.
        chain: what it is a part of.
        poll: the name of the poll whose request it is.
        pages: the pages of a list before the one it asks for.
    """

    writing: str | Fetch
    adapter: Adapter
    purpose: Purpose = Purpose.OTHER
    subject: str = ""
    topics: tuple[Topic, ...] = ()
    chain: FetchChain = Factory(FetchChain)
    poll: Hashable = None
    pages: tuple[str, ...] = ()

    @property
    def once(self) -> Hashable:
        """The name under which at most one request like this one waits; None where all are made."""
        if (
            isinstance(self.writing, str)
            or self.pages
            or self.purpose in (Purpose.CALL, Purpose.RECONCILE, Purpose.AUDIT)
        ):
            return None
        return self.writing.once


def uses(job: Job, outgoing: Outgoing | None) -> Uses:
    """Return what sending ``job`` draws from the budget."""
    if isinstance(job.writing, Fetch):
        socket, of = job.writing.socket, job.writing.of
        return {(socket, of) if socket else of: job.writing.cost}
    if isinstance(outgoing, Subscribe | Unsubscribe):
        return {"frame": 1, "interest": 1}
    return {"frame": 1, "call": 1} if isinstance(outgoing, Command | Reconcile) else {"frame": 1}


def checked_writings(writings: Iterable[object], session: Session) -> list[str | Fetch | Poll]:
    """Return what an adapter wrote as a list. Frames of a session with binary ones have a character for each byte.

    Raises:
        TypeError: something of it is neither text (nor bytes, in such a session) nor a `Fetch`, nor a `Poll` of one.
    """
    checked: list[str | Fetch | Poll] = []
    for writing in writings:
        asked: object = writing.request if isinstance(writing, Poll) else writing
        if isinstance(asked, bytes) and session.frames == "binary":
            asked = asked.decode("latin-1")
            writing = evolve(writing, request=asked) if isinstance(writing, Poll) else asked
        if not isinstance(writing, str | Fetch | Poll) or not isinstance(asked, str | Fetch):
            raise TypeError(f"the adapter wrote a {type(asked).__name__}, which is neither text nor a Fetch")
        checked.append(writing)
    return checked


def prepared(fetches: Iterable[object]) -> list[Fetch]:
    """Return the requests that an adapter makes before it connects.

    Raises:
        TypeError: something of it is no `Fetch`.
    """
    checked: list[Fetch] = []
    for fetch in fetches:
        if not isinstance(fetch, Fetch):
            raise TypeError(f"the adapter prepares by a {type(fetch).__name__}, which is no Fetch")
        checked.append(fetch)
    return checked


class Outbound:
    """The writing half of a session."""

    def __init__(self, session: Session, context: Context, budget: Budget) -> None:
        self._session = session
        self._context = context
        self._budget = budget
        self._ids = count(1)
        self._requests: dict[int, Job] = {}
        #: Requests made behind the one of the same name that is under way.
        self._again: dict[Hashable, Job] = {}
        self.polls = Polls()
        #: Frames handed over that the connection has not written yet.
        self.unwritten = 0
        self.queue: Queue[Job] = Queue(budget)

    def write(
        self,
        adapter: Adapter,
        outgoing: Outgoing,
        lane: Lane,
        purpose: Purpose = Purpose.OTHER,
        subject: str = "",
        topics: tuple[Topic, ...] = (),
        *,
        requests_only: bool = False,
    ) -> int:
        """Queue what the adapter writes for ``outgoing``; return how many frames, requests and polls that is.

        ``requests_only``: there is no connection for a frame.

        Raises:
            Exception: whatever ``encode`` raises; nothing is queued then.
        """
        everything = checked_writings(adapter.encode(outgoing), self._session)
        chain = FetchChain(since=outgoing.since if isinstance(outgoing, Reconcile) else None)
        if requests_only and not all(isinstance(writing, Fetch) for writing in everything):
            raise ValueError("this needs the connection, which is not up")
        writings = self.without_polls(everything, missed=purpose is Purpose.RECONCILE)
        for position, writing in enumerate(writings, start=1):
            job = Job(writing, adapter, purpose, subject, topics if position == len(writings) else (), chain)
            chain.left += isinstance(writing, Fetch)
            self.queue.put(lane, uses(job, outgoing), job)
        return len(everything)

    def audit(self, adapter: Adapter, reconcile: Reconcile) -> int:
        """Queue the requests of a reconciliation behind everything else; half of their budget is left to commands.

        Returns:
            How many requests that is; 0 where the adapter reconciles by other means, and then nothing is queued.

        Raises:
            Exception: whatever ``encode`` raises; nothing is queued then.
        """
        everything = checked_writings(adapter.encode(reconcile), self._session)
        chain = FetchChain(since=reconcile.since)
        fetches = [writing for writing in everything if isinstance(writing, Fetch)]
        if len(fetches) < len(everything):
            return 0
        for fetch in fetches:
            job = Job(fetch, adapter, Purpose.AUDIT, chain=chain)
            chain.left += 1
            self._put_last(job, uses(job, reconcile))
        return len(fetches)

    def _put_last(self, job: Job, drawn: Uses) -> None:
        """Queue a job behind everything else, to go when half of its budget is left to commands."""
        needs = {of: cost if of == "frame" else cost + self._budget.capacity(of) // 2 for of, cost in drawn.items()}
        self.queue.put(Lane.FETCH, drawn, job, needs)

    def without_polls(self, writings: Iterable[str | Fetch | Poll], *, missed: bool = False) -> list[str | Fetch]:
        """Begin the polls among what the adapter wrote, which ask for what was ``missed``, and return the rest."""
        others = []
        for writing in writings:
            if isinstance(writing, Poll):
                self.polls.put(writing, missed=missed)
            else:
                others.append(writing)
        return others

    def poll_due(self, adapter: Adapter, now: float) -> None:
        """Queue the poll that is due behind everything else; half of its budget is left to commands."""
        poll = self.polls.take_due(now)
        if poll is None:
            return
        job = Job(poll.request, adapter, Purpose.POLL, poll=poll.name)
        drawn: Uses = {"frame": 1, poll.of: 1} if isinstance(poll.request, str) else uses(job, None)
        job.chain.left += not isinstance(poll.request, str)
        self._put_last(job, drawn)

    def follow(self, fetch: Fetch, adapter: Adapter, job: Job | None) -> None:
        """Queue a further request, made for the same reason as ``job``; None for one that a message led to."""
        following = Job(fetch, adapter) if job is None else evolve(job, writing=fetch, topics=())
        if (once := following.once) is not None:
            if self.queue.has(lambda waiting: waiting.once == once):
                return
            if any(asked.once == once for asked in self._requests.values()):
                self._again[once] = following
                return
        following.chain.left += 1
        self.queue.put(following.purpose.lane, uses(following, None), following)

    def look(self, adapter: Adapter, writings: Iterable[str | Fetch]) -> None:
        """Queue requests for what the provider does not tell by itself, behind what applications ask for."""
        for writing in writings:
            if isinstance(writing, Fetch):
                self.follow(writing, adapter, None)
            else:
                self.queue.put(Lane.FETCH, {"frame": 1, "call": 1}, Job(writing, adapter))

    def next_page(self, job: Job, answer: Answer) -> Answer | None:
        """Return an answer with the pages before it; None where another page is behind it, which is then asked for.

        Raises:
            Exception: whatever `Fetch.next_page` raises.
        """
        fetch = job.writing
        if not isinstance(fetch, Fetch) or fetch.next_page is None or not answer.ok:
            return answer
        answer = evolve(answer, before=job.pages)
        behind = fetch.next_page(answer)
        if behind is None:
            return answer
        if len(answer.pages) >= MOST_PAGES:
            raise ValueError(f"more than {MOST_PAGES} pages")
        self.follow(evolve(behind, tag=fetch.tag), job.adapter, evolve(job, pages=answer.pages))
        return None

    def interest(self, adapter: Adapter, text: str) -> None:
        """Queue a frame that the answer to a request for subscriptions leads to: it is one of them."""
        self.queue.put(Lane.INTEREST, {"frame": 1, "interest": 1}, Job(text, adapter, Purpose.INTEREST))

    def now(self, adapter: Adapter, writings: Iterable[str | Fetch], purpose: Purpose, now: float) -> list[Output]:
        """Give out ``writings`` at once; the budget is charged, not asked.

        Raises:
            TemplateError: the URL or a header of a request needs a value there is none of.
        """
        outputs = []
        for writing in writings:
            job = Job(writing, adapter, purpose)
            self._budget.take(uses(job, None), now)
            outputs.append(self.output(job, now))
        return outputs

    def take_due(self, now: float) -> list[Job]:
        """Take from the queue what the budget allows now."""
        taken: list[Job] = []
        frames, requests = self.unwritten, Counter(job.purpose.lane for job in self._requests.values())

        def room(lane: Lane) -> float:
            return min(MOST_FRAMES[lane] - frames, MOST_REQUESTS[lane] - requests[lane])

        for job in self.queue.take_due(now, room):
            taken.append(job)
            if isinstance(job.writing, str):
                frames += 1
            else:
                requests[job.purpose.lane] += 1
        return taken

    @property
    def room(self) -> int:
        """The number of frames of subscriptions that may be handed over now."""
        return max(0, MOST_UNWRITTEN - self.unwritten)

    def written(self) -> bool:
        """Note that the connection has written a frame; return True if items that wait for that may be sent."""
        self.unwritten = max(0, self.unwritten - 1)
        return self.unwritten in (MOST_UNWRITTEN // 2, MOST_COMMANDS - 1)

    def output(self, job: Job, now: float) -> Output:
        """Return the frame or the request of ``job`` as the driver sends it.

        Raises:
            TemplateError: the URL or a header of a request needs a value there is none of.
        """
        if isinstance(job.writing, str):
            self.unwritten += 1
            return SendText(job.writing)
        url, shown = fetch_target(job.writing, self._session, self._context)
        fetch = authenticated(job.writing, self._session, self._context)
        number = next(self._ids)
        self._requests[number] = job
        job.chain.asked_at = min(job.chain.asked_at, now)
        return FetchRequest(number, fetch, url, shown)

    def answered(self, number: int) -> Job | None:
        """Return the job that a request was made for; None if its connection is gone, which makes the answer useless."""
        job = self._requests.pop(number, None)
        if job is not None:
            job.chain.left -= 1
            if (again := self._again.pop(job.once, None)) is not None and isinstance(again.writing, Fetch):
                self.follow(again.writing, again.adapter, again)
        return job

    def under_way(self, purpose: Purpose) -> int:
        """Return the number of requests of this purpose without an answer."""
        return sum(job.purpose is purpose for job in self._requests.values())

    def disconnected(self) -> None:
        """Drop the queue with the connection. After that only the answers to trading calls still matter.

        Where commands need no connection, those that wait are sent all the same.
        """
        over_http = self._session.commands_over == "http"
        self.queue.discard(lambda job: not (over_http and job.purpose is Purpose.CALL))
        self._again.clear()
        self.polls.clear()
        self.unwritten = 0
        self._requests = {number: job for number, job in self._requests.items() if job.purpose is Purpose.CALL}

    def forget_call(self, id: str) -> None:
        """Do not send the command of this id any more."""
        self.queue.discard(lambda job: job.purpose is Purpose.CALL and job.subject == id)

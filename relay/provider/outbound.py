"""Outgoing frames and requests: the adapter writes them, the budget paces them, and HTTP answers are matched to them.

Frames and requests wait in one queue by lane (trading calls, then subscriptions, then other requests). Answers that
cannot wait (a pong, an acknowledgement, a heartbeat, the login) are sent at once, but still charged to the budget. A request
remembers the adapter instance that wrote it: the answer to an order placed over HTTP is decoded by that instance even if the
WebSocket connection has been replaced meanwhile.
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

#: While this many frames wait to be written by the connection, subscriptions stay in this queue, so that commands,
#: heartbeats and answers can overtake them.
MOST_UNWRITTEN = 32
#: The same limit for commands. If it is reached, the provider does not read, and commands wait until their deadline.
MOST_COMMANDS = 500
#: The same limit for each lane. Lists and snapshots have a higher one, so that they can overtake waiting subscriptions.
MOST_FRAMES = {Lane.CALL: MOST_COMMANDS, Lane.INTEREST: MOST_UNWRITTEN, Lane.FETCH: 2 * MOST_UNWRITTEN}
#: Most HTTP requests in flight, by lane. All sessions share the process's file descriptors and time: a thousand
#: subscriptions with a request each must not delay an order of another session.
MOST_REQUESTS = {Lane.CALL: 64, Lane.INTEREST: 8, Lane.FETCH: 8}

#: Most pages of one list.
MOST_PAGES = 1000


class Purpose(enum.Enum):
    """The reason for which a frame or request is sent."""

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
        """The lane of the queue it waits in."""
        return _LANES.get(self, Lane.FETCH)


_LANES = {Purpose.CALL: Lane.CALL, Purpose.INTEREST: Lane.INTEREST}


@define(eq=False)
class FetchChain:
    """The state shared by requests that were made together and the follow-up requests that their answers lead to.

    For example all pages of all lists of one reconciliation. Complete lists are evaluated when the last answer has arrived.

    Attributes:
        asked_at: time of the first request, monotonic seconds. The answers are only known to be valid for this time.
        since: start of the time in which events may have been missed (`Reconcile.since`), RFC 3339; None if none were.
        left: number of requests without an answer.
        listed: kind, account and id of each order and position in the answers so far.
        completes: the complete lists among the answers so far.
        broken: True if an answer failed or a part that belongs to no list could not be decoded: no list is complete then.
        facts: number of fills, orders and opened or closed positions in the answers that were not known before.
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
    """One frame or HTTP request in the queue or in flight.

    Attributes:
        writing: the text of the frame, or the request.
        adapter: the instance that wrote it, and that decodes its answer.
        subject: the symbol of a snapshot, or the id of a command.
        topics: the topics of the whole subscribe batch, if this is its last frame or request: sending it makes them pending.
        chain: the group of requests that it belongs to.
        poll: the name of its poll, if it belongs to one.
        pages: the earlier pages of the list, if it requests a further page.
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
        """The key by which duplicate requests are merged while one waits (`Fetch.once`); None if each is sent."""
        if (
            isinstance(self.writing, str)
            or self.pages
            or self.purpose in (Purpose.CALL, Purpose.RECONCILE, Purpose.AUDIT)
        ):
            return None
        return self.writing.once


def uses(job: Job, outgoing: Outgoing | None) -> Uses:
    """Return the tokens that sending ``job`` draws, by rate limit."""
    if isinstance(job.writing, Fetch):
        socket, of = job.writing.socket, job.writing.of
        return {(socket, of) if socket else of: job.writing.cost}
    if isinstance(outgoing, Subscribe | Unsubscribe):
        return {"frame": 1, "interest": 1}
    return {"frame": 1, "call": 1} if isinstance(outgoing, Command | Reconcile) else {"frame": 1}


def checked_writings(writings: Iterable[object], session: Session) -> list[str | Fetch | Poll]:
    """Check the frames, requests and polls that an adapter wrote and return them as a list.

    In a session with binary frames, bytes become text with one character for each byte.

    Raises:
        TypeError: an item is not text (or bytes, in a session with binary frames), a `Fetch`, or a `Poll` of one of them.
    """
    checked: list[str | Fetch | Poll] = []
    for writing in writings:
        asked: object = writing.request if isinstance(writing, Poll) else writing
        if isinstance(asked, bytes) and session.frames == "binary":
            asked = asked.decode("latin-1")
            writing = evolve(writing, request=asked) if isinstance(writing, Poll) else asked
        if not isinstance(writing, str | Fetch | Poll) or not isinstance(asked, str | Fetch):
            raise TypeError(f"the adapter wrote a {type(asked).__name__}, only text or a Fetch is allowed")
        checked.append(writing)
    return checked


def prepared(fetches: Iterable[object]) -> list[Fetch]:
    """Check the requests of `Adapter.prepare` and return them as a list.

    Raises:
        TypeError: an item is not a `Fetch`.
    """
    checked: list[Fetch] = []
    for fetch in fetches:
        if not isinstance(fetch, Fetch):
            raise TypeError(f"Adapter.prepare returned a {type(fetch).__name__}, only Fetch is allowed")
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
        #: Requests to be sent after the one in flight with the same `Job.once`.
        self._again: dict[Hashable, Job] = {}
        self.polls = Polls()
        #: Number of frames that the connection has accepted and not written yet.
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
        """Let the adapter encode ``outgoing`` and queue the result; return the number of frames, requests and polls.

        ``requests_only``: refuse frames, because there is no connection.

        Raises:
            Exception: whatever ``encode`` raises; nothing is queued then.
        """
        everything = checked_writings(adapter.encode(outgoing), self._session)
        chain = FetchChain(since=outgoing.since if isinstance(outgoing, Reconcile) else None)
        if requests_only and not all(isinstance(writing, Fetch) for writing in everything):
            raise ValueError("this needs the WebSocket connection, which is not up")
        writings = self.without_polls(everything, missed=purpose is Purpose.RECONCILE)
        for position, writing in enumerate(writings, start=1):
            job = Job(writing, adapter, purpose, subject, topics if position == len(writings) else (), chain)
            chain.left += isinstance(writing, Fetch)
            self.queue.put(lane, uses(job, outgoing), job)
        return len(everything)

    def audit(self, adapter: Adapter, reconcile: Reconcile) -> int:
        """Queue the requests of a reconciliation with the lowest priority: each needs half of its budget to be free.

        Returns:
            The number of requests. 0 if the adapter does not reconcile by HTTP requests alone; nothing is queued then.

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
        """Queue a job with the lowest priority: it is sent when half of its budget would remain for commands."""
        needs = {of: cost if of == "frame" else cost + self._budget.capacity(of) // 2 for of, cost in drawn.items()}
        self.queue.put(Lane.FETCH, drawn, job, needs)

    def without_polls(self, writings: Iterable[str | Fetch | Poll], *, missed: bool = False) -> list[str | Fetch]:
        """Start the polls among these items and return the others. ``missed``: their first answer is a reconciliation."""
        others = []
        for writing in writings:
            if isinstance(writing, Poll):
                self.polls.put(writing, missed=missed)
            else:
                others.append(writing)
        return others

    def poll_due(self, adapter: Adapter, now: float) -> None:
        """Queue the request of the poll that is due, if any, with the lowest priority."""
        poll = self.polls.take_due(now)
        if poll is None:
            return
        job = Job(poll.request, adapter, Purpose.POLL, poll=poll.name)
        drawn: Uses = {"frame": 1, poll.of: 1} if isinstance(poll.request, str) else uses(job, None)
        job.chain.left += not isinstance(poll.request, str)
        self._put_last(job, drawn)

    def follow(self, fetch: Fetch, adapter: Adapter, job: Job | None) -> None:
        """Queue a follow-up request of ``job``, with its purpose and chain; None for one that a message led to."""
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
        """Queue requests for data that the provider does not stream, after the requests of applications."""
        for writing in writings:
            if isinstance(writing, Fetch):
                self.follow(writing, adapter, None)
            else:
                self.queue.put(Lane.FETCH, {"frame": 1, "call": 1}, Job(writing, adapter))

    def next_page(self, job: Job, answer: Answer) -> Answer | None:
        """Return an answer together with its earlier pages. If it has a next page, request that and return None.

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
        """Queue a frame that follows from the answer to a subscribe request; it counts as a subscription."""
        self.queue.put(Lane.INTEREST, {"frame": 1, "interest": 1}, Job(text, adapter, Purpose.INTEREST))

    def now(self, adapter: Adapter, writings: Iterable[str | Fetch], purpose: Purpose, now: float) -> list[Output]:
        """Return ``writings`` as outputs to be sent at once. The budget is charged, but not waited for.

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
        """Remove and return the jobs that the budget allows to be sent now."""
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
        """The number of subscribe frames that the connection accepts now."""
        return max(0, MOST_UNWRITTEN - self.unwritten)

    def written(self) -> bool:
        """Note that the connection has written a frame; return True if that lets waiting jobs be sent."""
        self.unwritten = max(0, self.unwritten - 1)
        return self.unwritten in (MOST_UNWRITTEN // 2, MOST_COMMANDS - 1)

    def shown(self, job: Job) -> str:
        """Return method and URL of an HTTP request, without secrets."""
        assert isinstance(job.writing, Fetch)
        return f"{job.writing.method} {fetch_target(job.writing, self._session, self._context)[1]}"

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
        """Return the job of an answered request; None if its connection is closed, so that the answer is ignored."""
        job = self._requests.pop(number, None)
        if job is not None:
            job.chain.left -= 1
            if (again := self._again.pop(job.once, None)) is not None and isinstance(again.writing, Fetch):
                self.follow(again.writing, again.adapter, again)
        return job

    def under_way(self, purpose: Purpose) -> int:
        """Return the number of requests in flight with this purpose."""
        return sum(job.purpose is purpose for job in self._requests.values())

    def disconnected(self) -> None:
        """Clear the queue and the requests in flight: the connection is closed. Only answers to commands are still used.

        If commands go over HTTP, waiting ones stay queued.
        """
        over_http = self._session.commands_over == "http"
        self.queue.discard(lambda job: not (over_http and job.purpose is Purpose.CALL))
        self._again.clear()
        self.polls.clear()
        self.unwritten = 0
        self._requests = {number: job for number, job in self._requests.items() if job.purpose is Purpose.CALL}

    def forget_call(self, id: str) -> None:
        """Remove the command of this id from the queue."""
        self.queue.discard(lambda job: job.purpose is Purpose.CALL and job.subject == id)

"""A request that follows from an answer or a message is made for the same reason, within the same budget."""

from collections.abc import Iterable

from relay.adapter import Answer, Backoff, Fetch, Rate, Subscribe, dumps
from relay.model.commands import CancelOrder
from relay.provider import session_events


def answer(*items):
    return Answer(status=200, text=dumps(items))


def fetched(r, outputs, *items, at):
    """The one request among ``outputs`` is answered."""
    (request,) = r.requests(outputs)
    return request.shown, r.do(session_events.Fetched(request.id, answer(*items)), at)


def test_a_login_of_two_steps_is_waited_for_before_the_dial(rig):
    class TwoSteps(rig.Venue):
        def prepare(self) -> Iterable[Fetch]:
            yield Fetch(tag="first", url="/first")

    r = rig(adapter=TwoSteps, backoff=Backoff(first=1))
    shown, outputs = fetched(r, r.do(session_events.Start(), 0), ["fetch", "/second"], at=1)
    assert shown.endswith("/first")
    shown, outputs = fetched(r, outputs, ["learned", {"token": "t"}, None], at=2)
    assert shown.endswith("/second")
    assert [type(output) for output in outputs] == [session_events.Dial]


def test_every_page_of_a_list_is_reconciled(rig):
    r = rig(credentials={"key": "k"})
    r.say(["order", "1", "OPEN"], at=0)
    _, outputs = fetched(r, r.up(0), ["order", "1", "OPEN"], ["fetch", "/open?page=2"], at=1)
    shown, _ = fetched(r, outputs, ["order", "2", "OPEN"], at=2)
    assert shown.endswith("/open?page=2")
    assert [(event.id, event.reconciled) for event in r.fresh() if event.kind == "order"] == [("1", True), ("2", True)]


def test_a_command_of_two_requests_has_one_reply(rig):
    r = rig()
    r.up(0)
    r.fresh()
    asked = r.ask(CancelOrder(id="c1", order_id="1"), 10, at=1)
    _, outputs = fetched(r, asked, ["fetch", "/confirm"], at=2)
    assert r.fresh() == []
    fetched(r, outputs, ["reply", "c1", {"done": True}, None], at=3)
    (reply,) = r.fresh()
    assert (reply.id, reply.outcome) == ("c1", "accepted")


def test_what_a_message_leads_to_waits_for_its_budget(rig):
    r = rig(limits=(Rate(1, per=10, of="call"),))
    r.up(0)
    assert len(r.requests(r.say(["fetch", "/1"], ["fetch", "/2"], at=1))) == 1
    assert [request.shown[-2:] for request in r.requests(r.tick(11))] == ["/2"]


def test_what_is_requested_in_reconciling_over_the_socket_counts_as_a_call(rig):
    class ByFrame(rig.Venue):
        def encode(self, outgoing):
            yield from (dumps({"list": n}) for n in (1, 2)) if type(outgoing).__name__ == "Reconcile" else ()

    r = rig(adapter=ByFrame, limits=(Rate(1, per=10, of="call"),))
    assert r.texts(r.up(0)) == [{"list": 1}]
    assert r.texts(r.tick(10)) == [{"list": 2}]


def test_recommended_waits_hold_for_the_attempts_they_name_and_grow_from_there(rig):
    r = rig(backoff=Backoff(first=1, factor=2, cap=30, jitter=0))
    r.up(0)
    r.say(["waits", 5, 9, 0, 999_999], at=1)
    now, waits = 1.0, []
    for _ in range(4):
        r.do(session_events.Closed(1006) if not waits else session_events.DialFailed("no"), now)
        waits.append(r.machine.deadline() - now)
        now += waits[-1]
        r.tick(now)
    assert waits == [5, 9, 18, 30]


def asks_over_http(venue):
    """An adapter that subscribes by a request for each topic."""

    class OverHttp(venue):
        def encode(self, outgoing):
            if isinstance(outgoing, Subscribe):
                return [Fetch(tag=topic.symbol, url=f"/session/{topic.symbol}") for topic in outgoing.topics]
            return super().encode(outgoing)

    return OverHttp


def test_requests_for_subscriptions_and_the_frames_they_lead_to_wait_for_their_turn(rig):
    r = rig(adapter=asks_over_http(rig.Venue), topics_per_frame=50)
    r.up(0)
    at_first = r.requests(r.want(*(f"quote:S{n}" for n in range(200))))
    assert len(at_first) == 8
    # Another one is made as soon as one was answered; what an answer leads to is one of them.
    assert len(r.requests(r.do(session_events.Fetched(at_first[0].id, answer(["alive"])), 1))) == 1
    outputs = r.do(session_events.Fetched(at_first[1].id, answer(*(["send", f"{n}"] for n in range(100)))), 1)
    assert len(outputs) < 40
    # A command goes all the same, and so does an answer to the provider.
    assert len(r.requests(r.ask(CancelOrder(id="c1", order_id="1"), at=1))) == 1
    assert len([o for o in r.say(["send", "pong"], at=1) if isinstance(o, session_events.SendText)]) == 1


def test_orders_to_a_broker_that_does_not_answer_leave_connections_to_others(rig):
    r = rig()
    r.up(0)
    made = [r.requests(r.ask(CancelOrder(id=f"c{n}", order_id="1"), 10, at=1)) for n in range(200)]
    assert sum(map(len, made)) == 64
    r.fresh()
    r.tick(12)
    # What was not sent is known not to have been carried out.
    assert [event.outcome for event in r.fresh() if event.kind == "reply"].count("rejected") == 136

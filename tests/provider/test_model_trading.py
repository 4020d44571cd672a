"""Arbitrary interleavings of commands, answers, limits and lost connections.

What must hold at every step: a command has one reply, at its deadline at the latest; what was refused was never sent and is
not sent afterwards; what was sent is accepted or rejected by the provider's word only; nothing goes beyond the budget.
"""

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from relay.adapter import Answer, Backoff, Rate
from relay.model.commands import CancelOrder, PlaceOrder
from relay.provider import session_events

CALLS, PER = 2, 3.0
WITHIN = st.sampled_from([0.5, 2, 5])


def trading_model(rig: Any) -> type[RuleBasedStateMachine]:
    class Trading(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.r = rig(
                backoff=Backoff(first=1, cap=4, settle=5), silent_after=1e9, limits=(Rate(CALLS, per=PER, of="call"),)
            )
            self.due: dict[str, float] = {}
            self.sent: dict[str, float] = {}
            self.answered: dict[str, str] = {}
            self.replies: dict[str, Any] = {}
            self.fetches: list[Any] = []
            self.frames: list[str] = []
            self.dialling = self.connected = False

        def done(self, outputs: list[Any]) -> None:
            for output in outputs:
                match output:
                    case session_events.Dial():
                        self.dialling = True
                    case session_events.FetchRequest():
                        self.fetches.append(output)
                        self.goes_out(output.fetch.tag[1])
                    case session_events.SendText():
                        (said,) = self.r.texts([output])
                        if "order" in said:
                            self.frames.append(said["order"])
                            self.goes_out(said["order"])
            for event in self.r.fresh():
                if event.kind == "reply":
                    assert event.id not in self.replies, "two replies to one command"
                    self.replies[event.id] = event

        def goes_out(self, id: str) -> None:
            assert id not in self.replies, "sent although it had its reply"
            assert self.r.now <= self.due[id], "sent behind its deadline"
            self.sent[id] = self.r.now
            lately = [at for at in self.sent.values() if at > self.r.now - PER + 1e-6]
            assert len(lately) <= CALLS, "more than the provider allows"

        # --- what can happen

        @initialize(settled=st.booleans())
        def start(self, settled: bool) -> None:
            self.done(self.r.do(session_events.Start(), 0))
            if settled:
                self.the_dial_succeeds()

        @rule(over_http=st.booleans(), within=WITHIN)
        def ask(self, over_http: bool, within: float) -> None:
            id = f"c{len(self.due)}"
            self.due[id] = self.r.now + within
            command = (
                CancelOrder(id=id, order_id="o")
                if over_http
                else PlaceOrder(id=id, symbol="A", side="BUY", order_type="MARKET", quantity="1")
            )
            self.done(self.r.ask(command, within))

        @rule(seconds=st.sampled_from([0.1, 1, 3]))
        def time_passes(self, seconds: float) -> None:
            end = self.r.now + seconds
            while (at := self.r.machine.deadline()) < end:
                self.done(self.r.tick(max(at, self.r.now)))
                if self.r.machine.deadline() <= self.r.now:
                    break
            self.done(self.r.tick(end))

        @precondition(lambda self: self.dialling)
        @rule()
        def the_dial_succeeds(self) -> None:
            self.dialling, self.connected = False, True
            self.done(self.r.do(session_events.Opened()))

        @precondition(lambda self: self.connected)
        @rule()
        def the_connection_is_lost(self) -> None:
            self.connected = False
            self.frames.clear()
            self.done(self.r.do(session_events.Closed(1006)))

        @precondition(lambda self: self.connected and self.frames)
        @rule(error=st.sampled_from([None, "no money"]))
        def the_provider_answers(self, error: str | None) -> None:
            id = self.frames.pop(0)
            if id not in self.replies:
                self.answered[id] = "rejected" if error else "accepted"
            self.done(self.r.say(["reply", id, None if error else "ok", error]))

        @precondition(lambda self: self.fetches)
        @rule(status=st.sampled_from([0, 200, 400, 429, 500]))
        def the_request_is_answered(self, status: int) -> None:
            request = self.fetches.pop(0)
            id = request.fetch.tag[1]
            if id not in self.replies and status in (200, 400, 429):
                self.answered[id] = "accepted" if status == 200 else "rejected"
            text = f'[["reply", "{id}", "ok", null]]' if status == 200 else "refused"
            self.done(self.r.do(session_events.Fetched(request.id, Answer(status=status, text=text))))

        @precondition(lambda self: self.connected)
        @rule(seconds=st.sampled_from([None, 1, 10]))
        def the_limit_is_hit(self, seconds: float | None) -> None:
            self.done(self.r.say(["limited", seconds]))

        # --- what must hold

        @invariant()
        def every_reply_is_true(self) -> None:
            for id, reply in self.replies.items():
                if id in self.answered:
                    assert reply.outcome == self.answered[id]
                elif id in self.sent:
                    assert reply.outcome == "unknown", "nobody said what became of it"
                else:
                    assert reply.outcome == "rejected"

        @invariant()
        def every_reply_is_in_time(self) -> None:
            late = [id for id, due in self.due.items() if due < self.r.now and id not in self.replies]
            assert late == []

        def teardown(self) -> None:
            self.time_passes(10)
            assert set(self.replies) == set(self.due)
            assert self.r.commands.open == 0
            assert self.r.add_up()

    return Trading


@pytest.mark.hypothesis
def test_whatever_happens_to_commands(rig: Any) -> None:
    run_state_machine_as_test(
        trading_model(rig),
        settings=settings(
            max_examples=settings().max_examples * 3 // 2,
            stateful_step_count=40,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )

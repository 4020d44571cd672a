"""A session with the synthetic venue without sockets."""

from collections.abc import Iterator

from relay.testing.recording import Record
from relay_synthetic.simulator import SyntheticSimulator
from support.on_a_line import BEGAN_NS, SECOND, Line

__all__ = ["BEGAN_NS", "record"]

_STREAMS = '"quote:BTC/USD","trade:BTC/USD","depth:BTC/USD","candle:BTC/USD:1m","quote:USD/JPY"'
_SAID = (
    '{"op":"subscribe","streams":[' + _STREAMS + ']}',
    '{"op":"subscribe","streams":["quote:NO/SUCH"]}',
    '{"op":"ping"}',
    '{"op":"dance"}',
)  # fmt: skip


def record(seed: int = 1) -> Iterator[Record]:
    """Yield the session of the fixture."""
    now_ns = BEGAN_NS
    simulator = SyntheticSimulator(seed=seed, rate=0, clock=lambda: now_ns)
    line = Line("/v1")

    def heard() -> Iterator[Record]:
        for text in line.take():
            yield Record(t=now_ns / SECOND, dir="in", data=text)

    yield Record(t=now_ns / SECOND, dir="open", url="ws://127.0.0.1/v1")
    simulator.opened(line)
    yield from heard()
    for text in _SAID:
        yield Record(t=now_ns / SECOND, dir="out", data=text)
        simulator.received(line, text)
        yield from heard()
    for _ in range(12):
        now_ns += 7 * SECOND
        simulator.tick()
        yield from heard()
    simulator.received(line, '{"op":"unsubscribe","streams":["quote:USD/JPY"]}')
    yield from heard()

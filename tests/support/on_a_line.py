"""An adapter's session with a simulator without sockets: the line between both, and the record of what passes on it."""

from collections.abc import Iterator
from typing import Any

from relay.adapter import Answer, Fetch, dumps
from relay.provider.templates import authenticated, with_query
from relay.testing.port import HttpRequest
from relay.testing.recording import Record
from relay.testing.simulator import Link

SECOND = 1_000_000_000
BEGAN_NS = 1_780_315_200 * SECOND  # 2026-06-01T12:00:00Z


class Line:
    """A link that remembers what was sent, in the place of one with a socket."""

    def __init__(self, target: str, **headers: str) -> None:
        self.request = HttpRequest(method="GET", target=target, headers=headers)
        self.query = Link.query_of(self.request)
        self.state: Any = None
        self.sent: list[Any] = []
        self.closed: tuple[int, str] | None = None

    @property
    def close_code(self) -> int | None:
        return None if self.closed is None else self.closed[0]

    def send(self, text: str | bytes) -> None:
        self.sent.append(text)

    def close(self, code: int = 1000, reason: str = "") -> None:
        self.closed = self.closed or (code, reason)

    def take(self) -> list[Any]:
        taken, self.sent = self.sent, []
        return taken


class OnALine:
    """A simulator whose time stands still between ticks, and an adapter on a line to it.

    Attributes:
        step_ns: the time of one tick.
        base: the host of what is recorded of HTTP requests.
    """

    step_ns = SECOND
    base = "http://127.0.0.1"
    adapter: Any
    simulator: Any
    line: Line

    def __init__(self) -> None:
        self.now_ns = BEGAN_NS
        self.records: list[Record] = []

    def clock(self) -> int:
        return self.now_ns

    def connect(self, line: Line, url: str) -> None:
        """Open the line."""
        self.line = line
        self.record("open", url=url)
        self.simulator.links.append(line)
        self.simulator.opened(line)

    def send(self, text: str) -> list[Any]:
        self.record("out", text)
        self.simulator.received(self.line, text)
        return self.hear()

    def tick(self, steps: int = 1) -> list[Any]:
        items = []
        for _ in range(steps):
            self.now_ns += self.step_ns
            self.simulator.tick()
            items += self.hear()
        return items

    def hear(self) -> list[Any]:
        """Decode what was sent."""
        return [item for text in self.taken() for item in self.adapter.decode(text)]

    def taken(self) -> Iterator[str]:
        for text in self.line.take():
            self.record("in", text)
            yield text

    async def answered(self, fetch: Fetch, *, hears_first: bool = False) -> tuple[list[Any], Answer]:
        """Make a request; return what was heard before its answer is recorded, where it ``hears_first``, and the answer."""
        target = with_query(fetch.url, fetch.query)
        body = b"" if fetch.json is None else dumps(fetch.json).encode()
        fetch = authenticated(fetch, self.adapter.session, self.adapter.context)
        headers = {name.lower(): value for name, value in fetch.headers.items()}
        answer = await self.simulator.answer(
            HttpRequest(method=fetch.method, target=target, headers=headers, body=body)
        )
        items = self.hear() if hears_first else []
        self.record("http", answer.body, url=f"{self.base}{target}", method=fetch.method, status=answer.status)
        return items, Answer(status=answer.status, text=str(answer.body))

    def record(self, dir: Any, data: Any = "", **about: Any) -> None:
        self.records.append(Record(t=self.now_ns / SECOND, dir=dir, data=data, **about))

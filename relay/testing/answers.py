"""The HTTP answers of a recording, each with the request of the adapter that it answers."""

from collections.abc import Iterable, Iterator

from attrs import frozen

from relay.adapter import Adapter, Answer, Fetch, Outgoing, Reconcile, Snapshot, Subscribe
from relay.model.commands import Command
from relay.testing.subject import Read, Subject, clone, recorded_answer

#: When an absence began that the adapter is asked to make up for.
_AWAY_SINCE = "2026-01-01T00:00:00.000000Z"
#: Requests that may follow from one another.
_CHAIN = 20


@frozen
class Exchange:
    """One request and its answer, with the adapter as it was before it."""

    where: str
    adapter: Adapter
    fetch: Fetch
    answer: Answer

    @property
    def of_command(self) -> bool:
        """Return True if a command is answered."""
        return self.where.startswith("command ")

    def read(self, text: str | None = None, status: int | None = None) -> Read:
        """Return the result of a copy of the adapter for the answer, or for one with these changes."""
        given = Answer(status=status or self.answer.status, text=self.answer.text if text is None else text)
        try:
            return Read(tuple(clone(self.adapter).fetched(self.fetch.tag, given)))
        except Exception as error:  # noqa: BLE001 - exactly what the session catches
            return Read(error=error)


def exchanges(of: Subject) -> Iterator[Exchange]:
    """Yield every request the adapter makes that the recording has an answer to."""
    fresh = of.adapter(of.context())
    yield from _chain(of, "prepare()", fresh, fresh.prepare())
    topics = tuple(of.topics())
    asked: list[Outgoing] = [
        Reconcile(),
        Reconcile(_AWAY_SINCE),
        Subscribe(topics),
        *map(Snapshot, topics),
        *of.commands,
    ]
    for outgoing in asked:
        adapter = of.prepared()
        yield from _chain(of, _name(outgoing), adapter, _written(adapter, outgoing))


def _name(outgoing: Outgoing) -> str:
    return f"command {outgoing.name}" if isinstance(outgoing, Command) else type(outgoing).__name__


def _written(adapter: Adapter, outgoing: Outgoing) -> list[Fetch]:
    try:
        return [writing for writing in adapter.encode(outgoing) if isinstance(writing, Fetch)]
    except Exception:  # noqa: BLE001 - what cannot be written is another check's
        return []


def _chain(of: Subject, where: str, adapter: Adapter, fetches: Iterable[Fetch]) -> Iterator[Exchange]:
    recorded, waiting = of.recording.answers(), list(fetches)
    for _ in range(_CHAIN):
        if not waiting:
            return
        fetch = waiting.pop(0)
        answer = recorded_answer(recorded, fetch)
        if answer is None:
            continue
        exchange = Exchange(f"{where}, answer to {fetch.method} {fetch.url}", clone(adapter), fetch, answer)
        yield exchange
        try:
            items = of.learn(adapter, adapter.fetched(fetch.tag, answer))
        except Exception:  # noqa: BLE001 - said by the check that reads the exchange
            return
        waiting += [item for item in items if isinstance(item, Fetch)]

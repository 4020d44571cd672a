"""Show what a command would send, without sending it: the adapter writes, and the secrets are taken out.

Writing changes what an adapter remembers (request numbers, what waits for an answer, what it keeps for its next connection),
so a copy of the connected one writes; where there is none, or it cannot be copied, a fresh one. Both have their own copy of
what the context keeps and learned.
"""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import attrs
import msgspec

from relay.adapter import Adapter, Context, Fetch, Poll
from relay.errors import HIDDEN
from relay.model.commands import Command
from relay.provider.outbound import written
from relay.provider.templates import Redactor, authenticated, fetch_target
from relay.trading.service import Unwritable


def dry_run(
    adapter: type[Adapter],
    connected: Adapter | None,
    context: Context,
    command: Command,
    reason_of: Callable[[Exception, str], str] | None = None,
) -> list[dict[str, Any]]:
    """Return what ``command`` would send, in order: ``{"frame": text}``, or ``{"method", "url", "headers", "body"}``.

    ``reason_of`` tells an adapter's refusal from a fault of its code, as `SessionState.reason_of`.

    Raises:
        Unwritable: the broker does not take it (`Adapter.orders`), the adapter cannot write it, or a value it needs is not
            there yet.
    """
    if (reason := adapter.orders.refusal(command)) is not None:  # as a session refuses it before it is encoded
        raise Unwritable(reason)
    redact = Redactor(context)
    shown = _Request(redact)
    try:
        writer = _copied(connected, context) or adapter(_apart(context, {}))
        return [
            shown.show(writing, adapter, context) if isinstance(writing, Fetch) else {"frame": redact(writing)}
            for writing in written(writer.encode(command))
            if not isinstance(writing, Poll)
        ]
    except Exception as error:  # noqa: BLE001 - whatever an adapter raises over a command is its reason
        if reason_of is None:
            raise Unwritable(redact(f"{error}" or type(error).__name__)) from None
        raise Unwritable(reason_of(error, f"writing {type(command).__name__}")) from None


def _copied(adapter: Adapter | None, context: Context) -> Adapter | None:
    if adapter is None:
        return None
    copies: dict[int, Any] = {id(adapter.symbols): adapter.symbols}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            copies[id(adapter.context)] = _apart(context, copies)
            return copy.deepcopy(adapter, copies)
        except Exception:  # noqa: BLE001 - what an adapter remembers is its own; a fresh one does instead
            return None


def _apart(context: Context, copies: dict[int, Any]) -> Context:
    """The context with its own ``kept`` and ``learned``; ``copies`` is the memory of `copy.deepcopy`."""
    return attrs.evolve(context, kept=copy.deepcopy(context.kept, copies), learned=dict(context.learned))


class _Request:
    """Shows requests without the secrets of `redact`."""

    def __init__(self, redact: Redactor) -> None:
        self._redact = redact

    def show(self, fetch: Fetch, adapter: type[Adapter], context: Context) -> dict[str, Any]:
        fetch = authenticated(fetch, adapter.session, context)
        _, url = fetch_target(fetch, adapter.session, context)
        written: dict[str, Any] = {"method": fetch.method, "url": self._redact(url)}
        if fetch.headers:
            written["headers"] = {name: self._redact(value) for name, value in fetch.headers.items()}
        if fetch.json is not None:
            written["body"] = self._json(fetch.json)
        elif fetch.form is not None:
            written["body"] = {name: self._redact(value) for name, value in fetch.form.items()}
        return written

    def _json(self, value: Any) -> Any:
        """JSON without secrets; every number has its own digits, one that is a secret is hidden whole."""
        match value:
            case dict():
                return {self._redact(name): self._json(item) for name, item in value.items()}
            case list() | tuple():
                return [self._json(item) for item in value]
            case str():
                return self._redact(value)
            case bool() | None:
                return value
        text = bytes(value).decode() if isinstance(value, msgspec.Raw) else str(value)
        return value if self._redact(text) == text else HIDDEN

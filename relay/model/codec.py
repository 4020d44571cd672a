"""The wire form of events: canonical JSON out and in.

``encode`` writes ``{"type", <body>, "event"?, "timestamp"?, "provider", "account"?, "id", "received_at", "seq"?}``. The
sequence number belongs to a channel, not to the event, so it comes last: a hub encodes an event once and appends the
number per channel. cattrs generates one unstructure and one structure function per kind when this module is imported, and
`writers` one for ``encode``; nothing is looked up per field or per message afterwards.

The kind ``account`` is the one whose body already has the name ``account``: there the account's id is ``account.id``.
"""

from collections.abc import Callable
from typing import Any, Final

import attrs
import msgspec
from attrs import frozen
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override
from cattrs.preconf.msgspec import MsgspecJsonConverter, make_converter

from relay.model.events import KINDS, Account, Candle, Event, Quote, Stamp
from relay.model.writers import Writer, writer

_dumps = msgspec.json.Encoder().encode
_loads = msgspec.json.Decoder(float_hook=str).decode
_converter: Final[MsgspecJsonConverter] = make_converter(prefer_attrib_converters=True, detailed_validation=False)

Unstructure = Callable[[Any], dict[str, Any]]
Structure = Callable[[dict[str, Any], Any], Any]

#: Kinds whose published body repeats the provider's name.
_NAMES_PROVIDER = (Quote, Candle)


class CodecError(ValueError):
    """Text that is not a canonical event; the message names what is wrong with it."""


@frozen(kw_only=True)
class Published:
    """An event as a consumer sees it: with its stamp, its id and, on a channel, its sequence number."""

    event: Event
    stamp: Stamp
    id: str
    seq: int | None = None


@frozen
class _Layout:
    """How one kind is split between the top level and its body."""

    cls: type[Event]
    body: str | None
    names_provider: bool
    inner: Unstructure
    outer: Unstructure
    structure: Structure
    write: Writer


def _layout(cls: type[Event]) -> _Layout:
    names = [a.name for a in attrs.fields(cls)]
    outside = [name for name in names if _is_outside(cls, name)]
    return _Layout(
        cls,
        cls.body,
        cls in _NAMES_PROVIDER,
        _unstructure(cls, [name for name in names if name not in outside]),
        _unstructure(cls, outside),
        make_dict_structure_fn(cls, _converter),
        writer(cls, [name for name in names if name not in outside], outside, names_provider=cls in _NAMES_PROVIDER),
    )


def _is_outside(cls: type[Event], attribute: str) -> bool:
    return cls.body is None or (attribute in cls.outside and attribute not in cls.renamed)


def _unstructure(cls: type[Event], keep: list[str]) -> Unstructure:
    """A function that writes the attributes in ``keep``, leaving out what is None."""
    overrides = {
        a.name: override(rename=cls.renamed.get(a.name), omit_if_default=a.default is None)
        if a.name in keep
        else override(omit=True)
        for a in attrs.fields(cls)
    }
    written = make_dict_unstructure_fn(cls, _converter, **overrides)  # type: ignore[arg-type]
    if "timestamp" not in keep or attrs.fields_dict(cls)["timestamp"].default is None:
        return written

    def without_absent_timestamp(event: Event) -> dict[str, Any]:
        wire = written(event)
        if wire["timestamp"] is None:
            del wire["timestamp"]
        return wire

    return without_absent_timestamp


_LAYOUTS: Final[dict[type[Event], _Layout]] = {cls: _layout(cls) for cls in KINDS.values()}


def unstructure(event: Event, stamp: Stamp, id: str, seq: int | None = None) -> dict[str, Any]:
    """Return the wire form of ``event`` as a dict ready for any JSON encoder."""
    layout = _LAYOUTS[type(event)]
    wire: dict[str, Any] = {"type": event.kind}
    if layout.body is not None:
        body = layout.inner(event)
        if layout.names_provider:
            body["provider"] = stamp.provider
        wire[layout.body] = body
    wire.update(layout.outer(event))
    wire["provider"] = stamp.provider
    if stamp.account is not None:
        _name_account(wire, stamp.account)
    wire["id"] = id
    wire["received_at"] = stamp.received_at
    if seq is not None:
        wire["seq"] = seq
    return wire


def _name_account(wire: dict[str, Any], account: str) -> None:
    """Name the session's account where the event itself named none."""
    if wire["type"] == Account.kind:
        wire[Account.kind].setdefault("id", account)
    else:
        wire.setdefault("account", account)


def encode(event: Event, stamp: Stamp, id: str, seq: int | None = None) -> bytes:
    """Return the canonical JSON of ``event``; without ``seq`` the closing brace is where a hub appends ``,"seq":N``."""
    wire = _LAYOUTS[type(event)].write(event, stamp, id)
    if seq is not None:
        wire["seq"] = seq
    return _dumps(wire)


def decode(data: bytes | str) -> Published:
    """Return the event in canonical JSON ``data``. Members this version does not know are ignored.

    Raises:
        CodecError: not JSON, not an object, an unknown ``type``, or a member that is missing or of the wrong shape.
    """
    try:
        wire = _loads(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise CodecError(f"not JSON: {error}") from None
    return structure(wire)


def structure(wire: Any) -> Published:
    """Return the event in ``wire``, a dict as `unstructure` writes it. Raises CodecError as `decode` does."""
    if not isinstance(wire, dict):
        raise CodecError("an event is a JSON object")
    cls = KINDS.get(wire["type"]) if isinstance(wire.get("type"), str) else None
    if cls is None:
        raise CodecError(f"unknown event type {wire.get('type')!r:.64}")
    try:
        account = wire.get("account")
        return Published(
            event=_structure_event(_LAYOUTS[cls], wire),
            stamp=Stamp(
                provider=wire["provider"],
                account=account.get("id") if isinstance(account, dict) else account,
                received_at=wire["received_at"],
            ),
            id=wire["id"],
            seq=wire.get("seq"),
        )
    except KeyError as missing:
        raise CodecError(f"{cls.kind}: {missing} is missing") from None
    except (TypeError, ValueError) as error:
        raise CodecError(f"{cls.kind}: {error}") from None


def _structure_event(layout: _Layout, wire: dict[str, Any]) -> Event:
    cls = layout.cls
    body = wire[layout.body] if layout.body is not None else wire
    if not isinstance(body, dict):
        raise TypeError(f"{layout.body} is not an object")
    fields = {}
    for attribute in attrs.fields(cls):
        name = cls.renamed.get(attribute.name, attribute.name)
        source = wire if _is_outside(cls, attribute.name) else body
        if name in source:
            fields[attribute.name] = source[name]
    event: Event = layout.structure(fields, cls)
    return event

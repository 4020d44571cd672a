"""The wire form of a kind as one function, written from its declaration when the codec is imported.

`codec.unstructure` does the same generically, by cattrs; this is for the one thing done to every event. Enums are text and
tuples are arrays to the JSON encoder, so values go in as they are. `tests/model` holds the two against each other.
"""

from collections.abc import Callable, Sequence
from typing import Any

import attrs

from relay.model.events import Event, Stamp

Writer = Callable[[Any, Stamp, str], dict[str, Any]]


def writer(cls: type[Event], inside: Sequence[str], outside: Sequence[str], *, names_provider: bool) -> Writer:
    """A function of (event, stamp, id) that gives the dict to encode.

    Args:
        inside, outside: the attributes in the kind's body and beside it, in order.
        names_provider: the body repeats the provider's name.
    """
    lines = ["provider, account = stamp.provider, stamp.account"]
    if cls.body is not None:
        lines += ["body = {}", *_members(cls, "body", inside)]
        if names_provider:
            lines.append("body['provider'] = provider")
    lines.append(f"wire = {{'type': {cls.kind!r}{'' if cls.body is None else f', {cls.body!r}: body'}}}")
    lines += [*_members(cls, "wire", outside), "wire['provider'] = provider"]
    named = "body.setdefault('id', account)" if cls.body == "account" else "wire.setdefault('account', account)"
    lines += ["if account is not None:", f"    {named}"]
    lines += ["wire['id'] = id", "wire['received_at'] = stamp.received_at", "return wire"]
    source = "def write(event, stamp, id):\n" + "".join(f"    {line}\n" for line in lines)
    names: dict[str, Any] = {}
    exec(compile(source, f"<writer of {cls.__name__}>", "exec"), names)
    made: Writer = names["write"]
    return made


def _members(cls: type[Event], into: str, attributes: Sequence[str]) -> list[str]:
    """Statements that put the attributes into a dict: those that are always there, then those that are there now."""
    fields = attrs.fields_dict(cls)
    always = [name for name in attributes if fields[name].default is not None]
    lines = []
    for name in (*always, *(name for name in attributes if name not in always)):
        member = cls.renamed.get(name, name)
        if name in always and name != "timestamp":
            lines.append(f"{into}[{member!r}] = event.{name}")
        else:
            lines += [f"value = event.{name}", f"if value is not None: {into}[{member!r}] = value"]
    return lines

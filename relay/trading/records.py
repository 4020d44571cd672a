"""The form in which a command is kept in the store: its names, what it was, and its reply where there is one."""

from typing import Any

import msgspec
from attrs import frozen

from relay.model import command_input
from relay.model.commands import Call, Command
from relay.model.events import Reply
from relay.model.serialize import CodecError, Published, decode

_loads = msgspec.json.Decoder().decode
_dumps = msgspec.json.Encoder().encode


class RecordError(ValueError):
    """Raised for a row that is not a command's; the text says why."""


@frozen(kw_only=True)
class CommandRecord:
    """A command in the store.

    Attributes:
        session: provider and account of the session that carries it out.
        account: the account its names belong to.
        names: kind and value of each name.
        command: the command as JSON; without the provider's own members once its outcome is known.
        digest: see `relay.trading.registry.PendingCommand`.
        answer: the reply as it was published, canonical JSON; empty where there is none yet.
    """

    session: tuple[str, str | None]
    account: str | None
    names: tuple[tuple[str, str], ...]
    api_key: str
    digest: bytes
    command: Command
    answer: bytes = b""

    def encode(self) -> bytes:
        """Return the row's value."""
        members: dict[str, Any] = {
            "session": self.session,
            "account": self.account,
            "names": self.names,
            "api_key": self.api_key,
            "digest": self.digest.hex(),
            "command": command_input.encode(self.command).decode(),
            "answer": self.answer.decode(),
        }
        return _dumps(members)

    @property
    def reply(self) -> Published | None:
        """The reply with its stamp and id; None where there is none yet."""
        return _reply(self.answer) if self.answer else None


def read(value: bytes) -> CommandRecord:
    """Return the record in a row's value.

    Raises:
        RecordError: it is not one.
    """
    try:
        members = _loads(value)
        names = tuple((kind, text) for kind, text in members["names"])
        return CommandRecord(
            session=(members["session"][0], members["session"][1]),
            account=members["account"],
            names=names,
            api_key=members["api_key"],
            digest=bytes.fromhex(members["digest"]),
            command=_command(members["command"], dict(names)["id"], members["account"]),
            answer=members["answer"].encode(),
        )
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise RecordError(f"{type(error).__name__}: {error}") from None


def _command(text: str, id: str, account: str | None) -> Command:
    """Return the command. One that another version wrote and this one refuses still has its names: it stays sent."""
    try:
        return command_input.decode(text)
    except command_input.CommandError:
        return Call(id=id, account=account, function="unreadable")


def _reply(answer: bytes) -> Published:
    try:
        published = decode(answer)
    except CodecError as error:
        raise RecordError(str(error)) from None
    if not isinstance(published.event, Reply):
        raise RecordError(f"a {published.event.kind} is no reply")
    return published

"""The form in which a command is kept in the store: its names, what it was, and its reply where there is one."""

import msgspec

from relay.model import command_input
from relay.model.commands import Call, Command
from relay.model.events import Reply
from relay.model.serialize import CodecError, Published, decode


class RecordError(ValueError):
    """Raised for a row that is not a command's; the text says why."""


class CommandRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A command in the store. A thousand of them are read in some milliseconds, because a restart reads a day's.

    Attributes:
        session: provider and account of the session that carries it out.
        account: the account its names belong to.
        id: the command's.
        name: of the command's type.
        names: kind and value of each name.
        digest: see `relay.trading.registry.PendingCommand`, in hexadecimal.
        command: the command as JSON; empty once its outcome is known for good.
        outcome: of its reply; empty while there is none.
        answered_at: wall time of the reply, RFC 3339; empty while there is none.
        answer: the reply as it was published, canonical JSON; empty while there is none.
    """

    session: tuple[str, str | None]
    account: str | None
    id: str
    name: str
    names: tuple[tuple[str, str], ...]
    api_key: str
    digest: str
    command: str = ""
    outcome: str = ""
    answered_at: str = ""
    answer: str = ""

    def encode(self) -> bytes:
        """Return the row's value."""
        return _encode(self)

    def restored(self) -> Command:
        """Return the command. Where it is not stored, or this version refuses it, it is a stand-in: its names stay sent."""
        try:
            if self.command:
                return command_input.decode(self.command)
        except command_input.CommandError:
            pass
        return Call(id=self.id, account=self.account, function=self.name)

    def reply(self) -> Published:
        """Return the reply with its stamp and id.

        Raises:
            RecordError: the answer is no reply.
        """
        try:
            published = decode(self.answer)
        except CodecError as error:
            raise RecordError(str(error)) from None
        if not isinstance(published.event, Reply):
            raise RecordError(f"a {published.event.kind} is no reply")
        return published


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(CommandRecord).decode


def read(value: bytes) -> CommandRecord:
    """Return the record in a row's value.

    Raises:
        RecordError: it is not one.
    """
    try:
        return _decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RecordError(str(error)) from None

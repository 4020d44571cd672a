"""Read and check the fields that a client sends beside a channel's name, against the app's limits."""

import re

import msgspec
from attrs import frozen

from .apps import Limits
from .messages import PresenceMember, ProtocolError, ResumePosition, read_as, text_of
from .names import check_channel_name, check_user_id, server_to_user_channel

__all__ = ["User", "check_member_size", "ids_of", "member_of", "resume_of", "rewind_of", "size_of", "user_of"]

_EPOCH = re.compile(r"[A-Za-z0-9_\-]{1,64}")


def size_of(text: str) -> int:
    """Bytes of the text as UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


class _ChannelData(msgspec.Struct):
    user_id: str | int
    user_info: msgspec.Raw = msgspec.Raw(b"null")


class _UserData(msgspec.Struct):
    id: str | int
    user_info: msgspec.Raw = msgspec.Raw(b"null")
    watchlist: list[str | int] | None = None


_channel_data = msgspec.json.Decoder(_ChannelData).decode
_user_data = msgspec.json.Decoder(_UserData).decode


@frozen
class User:
    """The user of a sign-in, with everyone it wants to watch."""

    id: str
    user_info: str | None
    watchlist: tuple[str, ...]


def member_of(channel_data: str, limits: Limits) -> PresenceMember:
    """The member that a signed channel_data describes: `user_id`, and perhaps `user_info` of any JSON."""
    data = read_as(_channel_data, channel_data, "channel_data")
    user_id = str(data.user_id)
    check_user_id(user_id, limits.user_id)
    member = PresenceMember(user_id, text_of(data.user_info))
    check_member_size(member, limits)
    return member


def check_member_size(member: PresenceMember, limits: Limits) -> None:
    """Raise ProtocolError 413 if what all members of a presence channel would be told of this one is too large."""
    if member.user_info is not None and size_of(member.user_info) > limits.member_size:
        raise ProtocolError(f"user_info is larger than {limits.member_size} bytes (limit member_size)", status=413)


def user_of(user_data: str, limits: Limits) -> User:
    """The user that a signed user_data describes: `id`, and perhaps `user_info` and `watchlist`.

    Raises:
        ProtocolError: among others for an id that cannot stand in a channel's name: no event could reach its user.
    """
    if size_of(user_data) > limits.user_data_size:
        raise ProtocolError(f"user_data is larger than {limits.user_data_size} bytes (limit user_data_size)")
    data = read_as(_user_data, user_data, "user_data")
    user_id = str(data.id)
    check_user_id(user_id, limits.user_id)
    try:
        check_channel_name(server_to_user_channel(user_id), limits.channel_name)
    except ProtocolError as exc:
        raise ProtocolError(f"user id {user_id!r:.140} cannot be reached by events: {exc.message}") from exc
    watchlist = tuple(dict.fromkeys(map(str, data.watchlist or ())))
    return User(user_id, text_of(data.user_info), watchlist)


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def resume_of(value: object) -> ResumePosition | None:
    """`resume` of a subscription: what the client has already seen of the channel."""
    if value is None:
        return None
    if isinstance(value, dict):
        epoch, seq = value.get("epoch"), _whole(value.get("seq"))
        if isinstance(epoch, str) and _EPOCH.fullmatch(epoch) and seq is not None and seq >= 0:
            return ResumePosition(epoch, seq)
    raise ProtocolError("resume must be an object with epoch (text) and seq (a whole number from 0)")


def rewind_of(value: object, limit: int) -> int | None:
    """`rewind` of a subscription: how many past events it wants."""
    if value is None:
        return None
    count = _whole(value)
    if count is None or not 1 <= count <= limit:
        raise ProtocolError(f"rewind must be a whole number from 1 to {limit} (limit rewind)")
    return count


def ids_of(value: object) -> bool:
    """`ids` of a subscription: whether it wants `id` and `seq` beside the data."""
    if not isinstance(value, bool | None):
        raise ProtocolError("ids must be true or false")
    return bool(value)

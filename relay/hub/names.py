"""Which channel names stand for streams of the relay, and which are an application's own.

A name whose first part, behind its prefix, is a market kind, `account` or `status` claims to be a stream; if it is none
it is refused with what is wrong, rather than taken for an application's channel that stays silent. Everything else, and
all of `private-encrypted-`, is the application's.
"""

from collections.abc import Callable

from relay.model.channels import ALL, ChannelError, Stream, parse_channel, split_prefix
from relay.model.events import MARKET_KINDS
from relay.pusher.errors import ProtocolError
from relay.pusher.names import channel_type

Known = Callable[[Stream], str | None]
"""What is wrong with a stream (no such provider, symbol, account), None when nothing is."""

_FORMS = {
    "status": "status.<provider>",
    "account": "private-account.<provider>.<account> or presence-account.<provider>.<account>",
    "candle": "candle.<provider>.<symbol>.<timeframe>",
}
_CLAIMED = MARKET_KINDS | _FORMS.keys()


def claims_stream(name: str) -> bool:
    """Whether the name is in the relay's hands: a stream's, or a wrong one."""
    kind, dot, _ = split_prefix(name)[1].partition(".")
    return bool(dot) and kind in _CLAIMED


def stream_of(name: str, known: Known, is_private: Callable[[Stream], bool]) -> Stream | None:
    """The stream a channel stands for, None when it is an application's own.

    ProtocolError 404 naming what is wrong with it; 401 where the stream's data need authorization and the channel has none.
    """
    if not claims_stream(name):
        return None
    kind = split_prefix(name)[1].partition(".")[0]
    try:
        stream = parse_channel(name)
    except ChannelError:
        form = _FORMS.get(kind, f"{kind}.<provider>.<symbol>")
        raise ProtocolError(f"{name} is no stream's channel, which is {form}", status=404) from None
    if not _is_text(stream.topic.symbol or stream.topic.account or ""):
        raise ProtocolError(f"{name}: what it names is no text in UTF-8", status=404)
    if stream.provider == ALL and kind not in MARKET_KINDS:
        raise ProtocolError(f"{name}: provider all merges market streams only", status=404)
    if (wrong := known(stream)) is not None:
        raise ProtocolError(f"{name}: {wrong}", status=404)
    if is_private(stream) and not channel_type(name).authorized:
        raise ProtocolError(f"{name}: this stream needs authorization; ask for private-{name}", status=401)
    return stream


def _is_text(name: str) -> bool:
    """Whether it can be written out: a channel's name can spell halves of surrogate pairs, JSON cannot."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True

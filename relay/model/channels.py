"""Channel names: the names under which events are published and subscribed to.

Pusher channel names allow only ``A-Za-z0-9_-=@,.;`` (Pusher Channels protocol). A market stream's channel is
``<kind>.<provider>.<symbol>``; a candle's ends with its timeframe. In the symbol ``/`` is written ``-`` and every other
character outside ``A-Za-z0-9_`` is written ``=XX``, the hex of its UTF-8 bytes: ``quote.binance.BTC-USDT``,
``quote.crosstrade.ES=2009=2D26``. Provider ``all`` merges every provider's events for one symbol.

An account's stream is ``account.<provider>.<account>`` and exists only with the prefix ``private-`` or ``presence-``; a
session's state is ``status.<provider>``. A market stream may have no prefix, ``cache-`` (the last value at once), or
``private-`` if a provider's data need authorization.
"""

import re

from attrs import frozen

from relay.model.events import ACCOUNT_KINDS, MARKET_KINDS, STATUS_KINDS, is_timeframe

#: The longest channel name the protocol allows.
MAX_LENGTH = 164
#: The provider name under which all providers are merged.
ALL = "all"

#: Prefixes that a stream's channel may have, longest first.
PREFIXES = ("private-cache-", "presence-cache-", "private-", "presence-", "cache-")

_plain = re.compile(r"[A-Za-z0-9_]")
_token = re.compile(r"=([0-9A-F]{2})|([A-Za-z0-9_-])")
_provider = re.compile(r"[a-z0-9][a-z0-9_-]*", re.ASCII).fullmatch


class ChannelError(ValueError):
    """Raised for a name that is not a stream's channel, or a stream whose name would be too long; the text has the name."""


@frozen(kw_only=True)
class Topic:
    """A stream of one provider, without the provider's name.

    ``symbol`` is canonical; ``timeframe`` is for candles; an account's stream is kind ``account`` with ``account`` set.
    """

    kind: str
    symbol: str | None = None
    timeframe: str | None = None
    account: str | None = None


@frozen
class Stream:
    """A topic of a provider: the content of one channel, with any prefix."""

    provider: str
    topic: Topic


@frozen
class Asker:
    """The requester of a stream: an app, and a connection of it.

    Attributes:
        network: connections of one network share a turn: a client's address, or its IPv6 /64. None if it is not known, or
            is that of a proxy on this machine; each connection then has its own turn.
    """

    app: str
    connection: str
    network: str | None = None


def valid_provider(name: str) -> bool:
    """Return True if ``name`` can name a provider: lower-case letters, digits, ``-`` and ``_``, not ``all``."""
    return _provider(name) is not None and name != ALL


def quote_symbol(symbol: str) -> str:
    """Return ``symbol`` in the characters a channel name allows; reversed by `unquote_symbol`."""
    return "".join(_quoted(character) for character in symbol)


def _quoted(character: str) -> str:
    if _plain.match(character):
        return character
    if character == "/":
        return "-"
    return "".join(f"={byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))


def unquote_symbol(text: str) -> str:
    """Return the symbol written as ``text``.

    Raises:
        ChannelError: ``text`` is not a result of `quote_symbol`, which ensures that a stream has exactly one name.
    """
    raw, position = bytearray(), 0
    while match := _token.match(text, position):
        hexadecimal, character = match.groups()
        raw += bytes.fromhex(hexadecimal) if hexadecimal else b"/" if character == "-" else character.encode()
        position = match.end()
    try:
        symbol = raw.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        symbol = ""
    if not symbol or position != len(text) or quote_symbol(symbol) != text:
        raise ChannelError(f"not a symbol of a channel: {text[:MAX_LENGTH]!r}")
    return symbol


def channel_name(stream: Stream, prefix: str = "") -> str:
    """Return the name of the channel of ``stream``, with ``prefix``.

    Raises:
        ChannelError: the name would be longer than `MAX_LENGTH`.
    """
    topic = stream.topic
    if topic.kind == "status":
        name = f"{prefix}status.{stream.provider}"
    elif topic.kind == "account":
        name = f"{prefix}account.{stream.provider}.{quote_symbol(topic.account or '')}"
    else:
        tail = f".{topic.timeframe}" if topic.timeframe is not None else ""
        name = f"{prefix}{topic.kind}.{stream.provider}.{quote_symbol(topic.symbol or '')}{tail}"
    if len(name) > MAX_LENGTH:
        raise ChannelError(f"channel name of {len(name)} characters, the limit is {MAX_LENGTH}: {name}")
    return name


def split_prefix(name: str) -> tuple[str, str]:
    """Split a channel name into its prefix ("" for none) and the rest."""
    for prefix in PREFIXES:
        if name.startswith(prefix):
            return prefix, name[len(prefix) :]
    return "", name


def parse_channel(name: str) -> Stream:
    """Return the stream of channel ``name``, which may have any prefix of `PREFIXES`.

    Raises:
        ChannelError: not the name of a stream. It may still be a valid channel of an application.
    """
    if len(name) > MAX_LENGTH:
        raise ChannelError(f"channel name of {len(name)} characters, the limit is {MAX_LENGTH}: {name[:MAX_LENGTH]}")
    prefix, rest = split_prefix(name)
    match rest.split("."):
        case ["status", provider] if _is_provider(provider):
            return Stream(provider, Topic(kind="status"))
        case ["account", provider, account] if _is_provider(provider) and prefix[:2] == "pr":
            return Stream(provider, Topic(kind="account", account=unquote_symbol(account)))
        case ["candle", provider, symbol, timeframe] if _is_provider(provider) and is_timeframe(timeframe):
            return Stream(provider, Topic(kind="candle", symbol=unquote_symbol(symbol), timeframe=timeframe))
        case [kind, provider, symbol] if kind in MARKET_KINDS and kind != "candle" and _is_provider(provider):
            return Stream(provider, Topic(kind=kind, symbol=unquote_symbol(symbol)))
    raise ChannelError(f"not a stream's channel: {name}")


def _is_provider(name: str) -> bool:
    return _provider(name) is not None


def topic_kind(event_kind: str) -> str:
    """Return the kind of topic on which events of ``event_kind`` travel: their own, ``account`` or ``status``."""
    if event_kind in ACCOUNT_KINDS:
        return "account"
    return "status" if event_kind in STATUS_KINDS else event_kind

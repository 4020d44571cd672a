"""Channel names: where an event is published, and what a subscriber asks for.

Pusher channel names allow only ``A-Za-z0-9_-=@,.;`` (Pusher Channels protocol). A market stream's channel is
``<kind>.<provider>.<symbol>``, a candle's has its timeframe behind. In the symbol ``/`` is written ``-`` and every other
character outside ``A-Za-z0-9_`` is written ``=XX``, the hex of its UTF-8 bytes: ``quote.binance.BTC-USDT``,
``quote.crosstrade.ES=2009=2D26``. Provider ``all`` merges every provider's events for one symbol.

An account's stream is ``account.<provider>.<account>`` and exists only behind ``private-`` or ``presence-``; a session's
state is ``status.<provider>``. A market stream may be asked for plain, with ``cache-`` (the last value at once), or
behind ``private-`` where a provider's data need authorization.
"""

import re

from attrs import frozen

from relay.model.events import ACCOUNT_KINDS, MARKET_KINDS, STATUS_KINDS, is_timeframe

#: The longest channel name the protocol allows.
MAX_LENGTH = 164
#: The provider name under which all providers are merged.
ALL = "all"

#: Prefixes a stream may stand behind, longest first.
PREFIXES = ("private-cache-", "presence-cache-", "private-", "presence-", "cache-")

_plain = re.compile(r"[A-Za-z0-9_]")
_token = re.compile(r"=([0-9A-F]{2})|([A-Za-z0-9_-])")
_provider = re.compile(r"[a-z0-9][a-z0-9_-]*", re.ASCII).fullmatch


class ChannelError(ValueError):
    """A name that is no channel of ours, or a stream whose name would be too long; the message names it."""


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
    """A topic at a provider: exactly what one channel (with any prefix) carries."""

    provider: str
    topic: Topic


@frozen
class Asker:
    """The one who asks for a stream: an app, and within it a connection.

    Attributes:
        network: whose connections share a turn: a client's address, or its IPv6 /64; None where it is not known, or is a
            proxy's on this machine. Then each connection counts for itself.
    """

    app: str
    connection: str
    network: str | None = None


def valid_provider(name: str) -> bool:
    """Return whether ``name`` can name a provider: lower-case letters, digits, ``-`` and ``_``, not ``all``."""
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
        ChannelError: ``text`` is not what `quote_symbol` writes (so that a stream has exactly one name).
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
    """Return the name of the channel that carries ``stream``, behind ``prefix``.

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
    """Split a channel name into the prefix it stands behind ("" for none) and the rest."""
    for prefix in PREFIXES:
        if name.startswith(prefix):
            return prefix, name[len(prefix) :]
    return "", name


def parse_channel(name: str) -> Stream:
    """Return the stream that channel ``name`` carries; any prefix of `PREFIXES` is allowed in front.

    Raises:
        ChannelError: not the name of a stream (a channel of an application's own is not an error of the protocol).
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

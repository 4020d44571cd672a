"""API keys: the streams that the holder of a Bearer token may read, and the accounts it may trade on.

Clients present a key as text; the relay stores only its digest. A plain SHA-256 is enough: keys are 256 bits from a random
source (`tickrelay key` makes them), so there is no dictionary to try. A slow, salted password hash would only let strangers
use up the relay's CPU with wrong keys.

The rights of a key are tuples of patterns in which ``*`` matches any run of characters:

- ``streams``: ids of market and status streams, ``<provider>.<kind>``: ``binance.*``, ``*.quote``, ``helio.status``;
- ``accounts``, ``trade``: ``<provider>.<account>``. Trading on an account implies reading it.
"""

import hashlib
import hmac
import re
from collections.abc import Iterable, Iterator

from attrs import field, frozen, validators

from relay.model.channels import Stream

Pattern = re.Pattern[str]

_name = validators.matches_re(r"[A-Za-z0-9_.@-]{1,128}")
_digest = validators.matches_re(r"[0-9a-f]{64}")


def hash_key(key: str) -> str:
    """Return the digest of a key that is stored: SHA-256 of its UTF-8, in lower-case hexadecimal."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _texts(values: Iterable[str]) -> tuple[str, ...]:
    if isinstance(values, str):
        raise TypeError(f"a list of patterns is needed, not one text: {values!r:.64}")
    return tuple(values)


def _compiled(patterns: Iterable[str]) -> tuple[Pattern, ...]:
    return tuple(re.compile(".*".join(map(re.escape, pattern.split("*"))), re.DOTALL) for pattern in patterns)


def _matches(patterns: Iterable[Pattern], text: str) -> bool:
    return any(pattern.fullmatch(text) for pattern in patterns)


@frozen(kw_only=True)
class ApiKey:
    """One key: its name (shown in presence channels and logs), its digest, and its rights."""

    name: str = field(validator=_name)
    digest: str = field(repr=False, validator=_digest)
    """The result of `hash_key`."""
    streams: tuple[str, ...] = field(default=("*",), converter=_texts)
    """Market and status streams it may read; all of them by default."""
    accounts: tuple[str, ...] = field(default=(), converter=_texts)
    """Accounts it may read; none by default."""
    trade: tuple[str, ...] = field(default=(), converter=_texts)
    """Accounts it may trade on, and therefore read; none by default."""
    _streams: tuple[Pattern, ...] = field(init=False, repr=False, eq=False)
    _accounts: tuple[Pattern, ...] = field(init=False, repr=False, eq=False)
    _trade: tuple[Pattern, ...] = field(init=False, repr=False, eq=False)

    @_streams.default
    def _compile_streams(self) -> tuple[Pattern, ...]:
        return _compiled(self.streams)

    @_accounts.default
    def _compile_accounts(self) -> tuple[Pattern, ...]:
        return _compiled((*self.accounts, *self.trade))

    @_trade.default
    def _compile_trade(self) -> tuple[Pattern, ...]:
        return _compiled(self.trade)

    def may_read(self, stream: Stream) -> bool:
        """Return True if the key may read this stream, on a channel of any prefix."""
        topic = stream.topic
        if topic.kind == "account":
            return _matches(self._accounts, f"{stream.provider}.{topic.account}")
        return _matches(self._streams, f"{stream.provider}.{topic.kind}")

    def may_trade(self, provider: str, account: str) -> bool:
        """Return True if the key may trade on this account of this provider."""
        return _matches(self._trade, f"{provider}.{account}")

    def may_trade_some(self, provider: str) -> bool:
        """Return True if the key may trade on some account of this provider, existing or not."""
        return any(_may_begin(pattern, f"{provider}.") for pattern in self.trade)

    def trade_proof(self, socket_id: str, channel: str) -> str:
        """Return a signature that proves that the connection joined the channel with this key.

        The holder of an app's secret can sign any member's name for a channel. Commands in client events are therefore
        accepted only from a connection that also presents this signature, which is made with the stored digest of the key:
        only the relay and the key's holder can make it.
        """
        text = f"tickrelay trade {socket_id} {channel}"
        return hmac.new(self.digest.encode(), text.encode(), hashlib.sha256).hexdigest()

    def proves_trade(self, proof: str, socket_id: str, channel: str) -> bool:
        """Return True if `proof` is the `trade_proof` of this connection and channel. Compares in constant time."""
        return hmac.compare_digest(
            self.trade_proof(socket_id, channel).encode(), proof.encode("utf-8", "surrogatepass")
        )


def _may_begin(pattern: str, beginning: str) -> bool:
    """Return True if some text that begins with `beginning` matches `pattern`."""
    literal, star, _ = pattern.partition("*")
    return literal.startswith(beginning) or (bool(star) and beginning.startswith(literal))


class KeyRing:
    """All API keys of a relay."""

    def __init__(self, keys: Iterable[ApiKey] = ()) -> None:
        self._keys: tuple[ApiKey, ...] = ()
        self.replace(keys)

    def replace(self, keys: Iterable[ApiKey]) -> None:
        """Replace all keys, after the configuration was reloaded.

        Raises:
            ValueError: two keys have the same name; the old keys stay.
        """
        keys = tuple(keys)
        names = [key.name for key in keys]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two API keys are named {name!r}")
        self._keys = keys

    def __iter__(self) -> Iterator[ApiKey]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def named(self, name: str) -> ApiKey | None:
        """Return the key of that name, or None."""
        return next((key for key in self._keys if key.name == name), None)

    def find(self, presented: str) -> ApiKey | None:
        """Return the key that was presented, or None.

        Every digest is compared, each in constant time, so that the response time reveals nothing about the keys.
        """
        digest, found = hash_key(presented), None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found

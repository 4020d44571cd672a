"""API keys: the streams that the holder of a Bearer token may read, and the accounts it may trade on.

Clients present a key as text; the relay stores only its digest. A plain SHA-256 is enough: keys are 256 bits from a random
source (`tickrelay key` makes them), so there is no dictionary to try. A slow, salted password hash would only let strangers
use up the relay's CPU with wrong keys.

The rights of a key are patterns (`relay.model.patterns`): ``streams`` names market and status streams, ``accounts``,
``trade`` and ``inspect`` name accounts. Trading on an account implies reading it.
"""

import hashlib
import hmac
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from attrs import field, frozen, validators

from relay.model.channels import ChannelError, Stream, channel_name, parse_channel
from relay.model.patterns import AccountPattern, StreamPattern, account_pattern, any_account, stream_pattern

_name = validators.matches_re(r"[A-Za-z0-9_.@-]{1,128}")
_digest = validators.matches_re(r"[0-9a-f]{64}")


def hash_key(key: str) -> str:
    """Return the digest of a key that is stored: SHA-256 of its UTF-8, in lower-case hexadecimal."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _texts(values: Iterable[str]) -> tuple[str, ...]:
    if isinstance(values, str):
        raise TypeError(f"a list of patterns is needed, not one text: {values!r:.64}")
    return tuple(values)


class Decision(Protocol):
    """A decision about one channel."""

    @property
    def allowed(self) -> bool:
        """True if the channel may be held."""

    @property
    def reason(self) -> str:
        """The reason of a refusal, for the client."""


@frozen(kw_only=True)
class ApiKey:
    """One key: its name (shown in presence channels and logs), its digest, and its rights.

    Raises `relay.model.patterns.PatternError` for a pattern that can never match.
    """

    name: str = field(validator=_name)
    digest: str = field(repr=False, validator=_digest)
    """The result of `hash_key`."""
    app: str | None = None
    """Id of the app whose sessions it begins; None: the one a request names, else the first."""
    streams: tuple[str, ...] = field(default=("*",), converter=_texts)
    """Market and status streams it may read; all of them by default."""
    accounts: tuple[str, ...] = field(default=(), converter=_texts)
    """Accounts it may read; none by default."""
    trade: tuple[str, ...] = field(default=(), converter=_texts)
    """Accounts it may trade on, and therefore read; none by default."""
    inspect: tuple[str, ...] = field(default=(), converter=_texts)
    """Accounts of whose sessions it may see the providers' frames; none by default."""
    _streams: tuple[StreamPattern, ...] = field(init=False, repr=False, eq=False)
    _accounts: tuple[AccountPattern, ...] = field(init=False, repr=False, eq=False)
    _trade: tuple[AccountPattern, ...] = field(init=False, repr=False, eq=False)
    _inspect: tuple[AccountPattern, ...] = field(init=False, repr=False, eq=False)

    @_streams.default
    def _compile_streams(self) -> tuple[StreamPattern, ...]:
        return tuple(map(stream_pattern, self.streams))

    @_accounts.default
    def _compile_accounts(self) -> tuple[AccountPattern, ...]:
        return tuple(map(account_pattern, (*self.accounts, *self.trade)))

    @_trade.default
    def _compile_trade(self) -> tuple[AccountPattern, ...]:
        return tuple(map(account_pattern, self.trade))

    @_inspect.default
    def _compile_inspect(self) -> tuple[AccountPattern, ...]:
        return tuple(map(account_pattern, self.inspect))

    def may_read(self, stream: Stream) -> bool:
        """Return True if the key may read this stream, on a channel of any prefix."""
        topic = stream.topic
        if topic.kind == "account":
            return self.may_read_account(stream.provider, topic.account or "")
        return any(pattern.matches(stream) for pattern in self._streams)

    def may_read_some(self, provider: str, kind: str) -> bool:
        """Return True if the key may read some streams of this kind (not of an account) of this provider."""
        return any(pattern.may_read_some(provider, kind) for pattern in self._streams)

    def may_read_account(self, provider: str, account: str) -> bool:
        """Return True if the key may read this account of this provider."""
        return any_account(self._accounts, provider, account)

    def may_read_all(self, provider: str) -> bool:
        """Return True if the key may read every account of this provider, known or not."""
        return any(pattern.provider.fullmatch(provider) and pattern.whole_provider for pattern in self._accounts)

    def may_trade(self, provider: str, account: str) -> bool:
        """Return True if the key may trade on this account of this provider."""
        return any_account(self._trade, provider, account)

    def may_trade_all(self, provider: str) -> bool:
        """Return True if the key may trade on every account of this provider, known or not."""
        return any(pattern.provider.fullmatch(provider) and pattern.whole_provider for pattern in self._trade)

    def may_trade_some(self, provider: str) -> bool:
        """Return True if the key may trade on some account of this provider, existing or not."""
        return any(pattern.provider.fullmatch(provider) for pattern in self._trade)

    def may_inspect(self, provider: str, account: str | None) -> bool:
        """Return True if the key may see the frames of this account's session, None: of a provider without accounts."""
        if account is not None:
            return any_account(self._inspect, provider, account)
        return any(pattern.provider.fullmatch(provider) and pattern.whole_provider for pattern in self._inspect)


Authorize = Callable[[str, str], Decision | None]
"""Decides whether the API key of that name may hold a channel; None leaves it to the configuration."""


def channel_refusal(key: ApiKey, channel: str, authorize: Authorize) -> str | None:
    """Return why the key may not hold the channel, None where it may."""
    decision = authorize(key.name, channel)
    if decision is not None:
        return None if decision.allowed else decision.reason or f"not allowed to subscribe to {channel}"
    try:
        stream = parse_channel(channel)
    except ChannelError:
        return f"{channel} is an application's own: its own server authorizes it"
    return None if key.may_read(stream) else f"API key {key.name} may not read {channel}; {missing_grant(key, stream)}"


def missing_grant(key: ApiKey, stream: Stream) -> str:
    """Return the end of a refusal: the grant that would let this key read the stream."""
    if stream.topic.kind == "account":
        return f'it needs [api_keys.{key.name}] accounts = ["{stream.provider}.{stream.topic.account}"]'
    return f'it needs [api_keys.{key.name}] streams = ["{channel_name(stream)}"]'


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

    def digest_of(self, name: str) -> str | None:
        """Return the digest of the key of that name, or None."""
        key = self.named(name)
        return None if key is None else key.digest

    def find(self, presented: str) -> ApiKey | None:
        """Return the key that was presented, or None.

        Every digest is compared, each in constant time, so that the response time reveals nothing about the keys.
        """
        digest, found = hash_key(presented), None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found

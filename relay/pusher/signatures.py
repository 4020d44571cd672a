"""Signatures: HMAC-SHA256 in hexadecimal, keyed with an app's secret (Pusher Channels protocol, auth signatures).

A subscription or sign-in has `KEY:signature`, a request to the HTTP API has `auth_signature` in its query, and a webhook
has a header. Comparisons take constant time. While a secret is being replaced an app has several: the first one signs, and
each of them verifies.
"""

import hashlib
import hmac
from collections.abc import Callable, Iterable, Mapping
from operator import itemgetter
from urllib.parse import quote, unquote, unquote_plus

from attrs import field, frozen

from .apps import App

__all__ = [
    "Authority",
    "channel_auth",
    "channel_string",
    "key_auth",
    "md5_hex",
    "query_pairs",
    "request_string",
    "same",
    "sign",
    "signed_query",
    "user_auth",
    "user_secret",
    "user_string",
    "verify",
    "verify_authority",
    "verify_channel_auth",
    "verify_request",
    "verify_user_auth",
    "verify_webhook",
    "webhook_headers",
]


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")


def same(one: str, other: str) -> bool:
    """Return True if two texts are equal, compared in constant time."""
    return hmac.compare_digest(_bytes(one), _bytes(other))


def sign(secret: str, text: str | bytes) -> str:
    """Return the signature of the text, 64 lower-case hexadecimal digits."""
    return hmac.new(secret.encode(), _bytes(text), hashlib.sha256).hexdigest()


def verify(secrets: Iterable[str], text: str | bytes, signature: str) -> bool:
    """Return True if one of the secrets made this signature. All are tried, in constant time."""
    given, valid = _bytes(signature), False
    for secret in secrets:
        valid |= hmac.compare_digest(sign(secret, text).encode(), given)
    return valid


# Subscriptions and sign-ins ------------------------------------------------------------------------------------------


def channel_string(socket_id: str, channel: str, channel_data: str | None = None) -> str:
    """Return the text that authorizes a subscription, with channel_data whenever it is sent, on private channels too."""
    return f"{socket_id}:{channel}:{channel_data}" if channel_data else f"{socket_id}:{channel}"


def user_string(socket_id: str, user_data: str) -> str:
    """Return the text that authenticates a sign-in."""
    return f"{socket_id}::user::{user_data}"


def _auth(app: App, text: str) -> str:
    return f"{app.key}:{sign(app.secret, text)}"


def _verify_auth(app: App, auth: str, text: str) -> bool:
    key, _, signature = auth.rpartition(":")
    return verify(app.secrets, text, signature) and same(key, app.key)


def channel_auth(app: App, socket_id: str, channel: str, channel_data: str | None = None) -> str:
    """Return the `auth` that an app's server issues to a client for one channel and socket: `KEY:signature`."""
    return _auth(app, channel_string(socket_id, channel, channel_data))


def verify_channel_auth(app: App, auth: str, socket_id: str, channel: str, channel_data: str | None = None) -> bool:
    """Return True if `auth` is this app's signature for exactly this socket, channel and channel_data."""
    return _verify_auth(app, auth, channel_string(socket_id, channel, channel_data))


@frozen
class Authority:
    """The authority of a subscription: the app's secret that signed it and, if the relay signed it, the API key."""

    secret: str = field(repr=False)
    key: str | None = None
    """Name of the API key."""
    digest: str | None = field(default=None, repr=False)
    """Digest of the API key at the time of the subscription."""


def _key_secret(secret: str, digest: str) -> str:
    """Return the secret of the relay's own signatures. Neither the app's server nor the key's holder has both parts."""
    return f"tickrelay {secret} {digest}"


def key_auth(app: App, name: str, digest: str, socket_id: str, channel: str, channel_data: str | None = None) -> str:
    """Return the `auth` that the relay itself issues for an API key: `APPKEY@NAME:signature`.

    Clients pass it on unread, like every `auth`. An app's server cannot make it, because it does not have the key's digest.
    """
    text = channel_string(socket_id, channel, channel_data)
    return f"{app.key}@{name}:{sign(_key_secret(app.secret, digest), text)}"


def verify_authority(
    app: App,
    auth: str,
    socket_id: str,
    channel: str,
    channel_data: str | None,
    digest_of: Callable[[str], str | None],
) -> Authority | None:
    """Return the authority that `auth` proves for this channel and socket; None if it is not valid.

    `digest_of` returns the digest of the API key with the given name, or None.
    """
    signer, _, signature = auth.rpartition(":")
    app_key, vouched, name = signer.partition("@")
    text = channel_string(socket_id, channel, channel_data)
    key = name if vouched else None
    digest = None if key is None else digest_of(key)
    if not same(app_key, app.key) or (key is not None and digest is None):
        return None
    found = None
    for secret in app.secrets:
        if verify((secret if digest is None else _key_secret(secret, digest),), text, signature):
            found = Authority(secret, key, digest)
    return found


def user_auth(app: App, socket_id: str, user_data: str) -> str:
    """Return the `auth` that an app's server issues to a client for a sign-in: `KEY:signature`."""
    return _auth(app, user_string(socket_id, user_data))


def user_secret(app: App, auth: str, socket_id: str, user_data: str) -> str | None:
    """Return the app's secret that made this `auth` for a sign-in; None if none did."""
    key, _, signature = auth.rpartition(":")
    if not same(key, app.key):
        return None
    text = user_string(socket_id, user_data)
    return next((secret for secret in app.secrets if verify((secret,), text, signature)), None)


def verify_user_auth(app: App, auth: str, socket_id: str, user_data: str) -> bool:
    """Return True if `auth` is this app's signature for exactly this socket and user_data."""
    return user_secret(app, auth, socket_id, user_data) is not None


# Requests of the HTTP API --------------------------------------------------------------------------------------------


def md5_hex(body: bytes) -> str:
    """Return the `body_md5` of a body. It only identifies the body; the signature over it gives the protection."""
    return hashlib.md5(body, usedforsecurity=False).hexdigest()


def query_pairs(raw_query: str, *, plus_is_space: bool = False) -> list[tuple[str, str]]:
    """Return the query's pairs as sent, unescaped, keys in lower case; duplicates are kept."""
    unescape = unquote_plus if plus_is_space else unquote
    pairs = (pair.partition("=") for pair in raw_query.split("&") if pair)
    return [(unescape(key).lower(), unescape(value)) for key, _, value in pairs]


def request_string(method: str, path: str, pairs: Iterable[tuple[str, str]]) -> str:
    """Return the text that a request signs: METHOD, path and the unescaped pairs sorted by key, without `auth_signature`.

    Pairs of the same key (`channels[]`) stay in the order in which they were sent.
    """
    ordered = sorted(pairs, key=itemgetter(0))
    query = "&".join(f"{key}={value}" for key, value in ordered if key != "auth_signature")
    return f"{method.upper()}\n{path}\n{query}"


def verify_request(secrets: Iterable[str], method: str, path: str, raw_query: str, signature: str) -> bool:
    """Return True if the signature of the request, as sent, is valid.

    Libraries differ in the characters that they escape, but all sign the unescaped text. So a path may have been signed as
    sent or unescaped, and a `+` may mean itself or a space.
    """
    secrets = tuple(secrets)
    paths = {path, unquote(path)}
    queries = [query_pairs(raw_query)]
    if "+" in raw_query:
        queries.append(query_pairs(raw_query, plus_is_space=True))
    valid = False
    for candidate in paths:
        for pairs in queries:
            valid |= verify(secrets, request_string(method, candidate, pairs), signature)
    return valid


def signed_query(
    app: App, method: str, path: str, body: bytes, now_unix: float, params: Mapping[str, str] | None = None
) -> str:
    """Return the escaped query string that signs a request to the HTTP API; `path` unescaped, `now_unix` in seconds."""
    pairs = {key.lower(): value for key, value in (params or {}).items()}
    pairs |= {"auth_key": app.key, "auth_timestamp": str(int(now_unix)), "auth_version": "1.0"}
    if body:
        pairs["body_md5"] = md5_hex(body)
    pairs["auth_signature"] = sign(app.secret, request_string(method, path, pairs.items()))
    return "&".join(f"{quote(key, safe='')}={quote(value, safe='')}" for key, value in pairs.items())


# Webhooks ------------------------------------------------------------------------------------------------------------


def webhook_headers(app: App, body: bytes) -> dict[str, str]:
    """Return the headers that sign a webhook's body."""
    return {"X-Pusher-Key": app.key, "X-Pusher-Signature": sign(app.secret, body)}


def verify_webhook(app: App, key: str, signature: str, body: bytes) -> bool:
    """Return True if a webhook with these two headers was signed by this app's relay."""
    return verify(app.secrets, body, signature) and same(key, app.key)

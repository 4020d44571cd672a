"""The table ``[plugins.webhooks]`` as it is written. The text under each key is its documentation."""

import re
from collections.abc import Mapping
from typing import Any, Literal, get_args

import httpx
from attrs import Attribute, Factory, field, frozen, validators

EventName = Literal[
    "channel_occupied",
    "channel_vacated",
    "member_added",
    "member_removed",
    "client_event",
    "cache_miss",
    "subscription_count",
]
EVENT_NAMES: tuple[EventName, ...] = get_args(EventName)

#: Headers that are the webhook's own or the connection's.
RESERVED = frozenset(
    {
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "transfer-encoding",
        "upgrade",
        "x-pusher-key",
        "x-pusher-signature",
    }
)

_is_token = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+").fullmatch
_is_value = re.compile(r"[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?").fullmatch
_positive: Any = validators.gt(0)
_not_negative: Any = validators.ge(0)


def _check_url(_: object, attribute: "Attribute[Any]", url: str) -> None:
    """Refuse a URL that no request can be sent to. The errors do not show it: it may carry a token."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError("is not a URL") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError("must be an http:// or https:// URL with a host")
    if parsed.userinfo:
        raise ValueError("must not hold a user name or password; write an Authorization header into secret_headers")
    if parsed.fragment:
        raise ValueError("must not have a fragment (#...)")


def _check_some(_: object, attribute: "Attribute[Any]", values: tuple[str, ...]) -> None:
    if not values:
        raise ValueError("must not be empty; leave it out for all")


def _check_names(_: object, attribute: "Attribute[Any]", headers: Mapping[str, object]) -> None:
    for name in headers:
        if not _is_token(name):
            raise ValueError("has a name that is no HTTP header name")
        if name.lower() in RESERVED:
            raise ValueError(f"must not set {name}, which is the relay's own")


def check_value(name: str, value: str) -> None:
    """Demand that ``value`` can stand in the header ``name``; the error does not show it."""
    if not _is_value(value):
        raise ValueError(f"the value of {name} must be visible ASCII text on one line")


def _check_headers(table: object, attribute: "Attribute[Any]", headers: Mapping[str, str]) -> None:
    _check_names(table, attribute, headers)
    for name, value in headers.items():
        check_value(name, value)


@frozen(kw_only=True)
class SecretHeader:
    """A header whose value is a secret: where it is. Write either `env` or `file`."""

    env: str | None = None
    """Environment variable that holds the value."""
    file: str | None = None
    """Absolute name of a file that holds the value."""

    def __attrs_post_init__(self) -> None:
        if (self.env is None) == (self.file is None):
            raise ValueError('write { env = "NAME" } or { file = "/path" }')
        if self.file is not None and not self.file.startswith("/"):
            raise ValueError("file must be an absolute name")


@frozen(kw_only=True)
class EndpointTable:
    """One endpoint of an application's server. NAME stands for it in the log, where its URL never is."""

    app: str | int | None
    """`id` of the application whose events it is told."""
    url: str = field(validator=_check_url, repr=False)
    """Address that webhooks are posted to, `http://` or `https://`. Redirects are not followed."""
    events: tuple[EventName, ...] = field(default=EVENT_NAMES, validator=_check_some)
    """The events it is told."""
    channels: tuple[str, ...] = field(default=("*",), validator=_check_some)
    """The channels it is told about: names, with `*` for any text: `presence-*`, `*.BTC-USDT`."""
    headers: Mapping[str, str] = field(default=Factory(dict), validator=_check_headers, repr=False)
    """Headers sent along."""
    secret_headers: Mapping[str, SecretHeader] = field(default=Factory(dict), validator=_check_names)
    """A header whose value is a secret. Write either `env` or `file`."""
    batch: bool = True
    """Put several events into one webhook; else every event is a request of its own."""
    batch_events: int = field(default=20, validator=[_positive, validators.le(1000)])
    """Events of one webhook at most."""
    batch_wait: float = field(default=0.25, validator=_not_negative)
    """Seconds an event waits for others to join it."""
    timeout: float = field(default=4.0, validator=_positive)
    """Seconds for the endpoint to answer with a 2xx status."""
    retry_for: float = field(default=300.0, validator=_not_negative)
    """Seconds a webhook that is not accepted is tried again; then it is dropped."""
    queue_events: int = field(default=10_000, validator=_positive)
    """Events that may wait; one more drops the oldest of the kind that has most waiting."""
    queue_bytes: int = field(default=16 * 1024 * 1024, validator=validators.ge(1024 * 1024))
    """Bytes of events that may wait; more drop the oldest of the kind that has most."""


@frozen(kw_only=True)
class WebhooksTable:
    """Tell applications' servers what happens on their channels, by webhooks as in the Pusher Channels protocol."""

    leave_delay: float = field(default=3.0, validator=_not_negative)
    """Seconds `channel_vacated` and `member_removed` are held back: who returns meanwhile was never away."""
    drain: float = field(default=5.0, validator=_not_negative)
    """Seconds at shutdown to send what is waiting."""
    endpoints: Mapping[str, EndpointTable] = Factory(dict)

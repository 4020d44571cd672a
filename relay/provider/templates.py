"""Build URLs and headers from templates, and remove secrets from texts that people read."""

import re
from collections.abc import Mapping
from urllib.parse import urlencode, urljoin, urlsplit, urlunsplit

from attrs import evolve

from relay.adapter import Context, Fetch, Header, Query, Session
from relay.errors import HIDDEN, hide_userinfo, secrets_pattern

#: Number of values of one credential that are removed from texts: the present one and the ones before it.
KEPT = 4
_name = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


class TemplateError(ValueError):
    """A template names a value that is neither an option, a credential, nor learned."""


def fill(template: str, context: Context, *, what: str) -> str:
    """Return ``template`` with every ``{name}`` replaced: learned values before credentials before options.

    Raises:
        TemplateError: there is no such value; ``what`` names the setting.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1]
        for source in (context.learned, context.credentials, context.options):
            if name in source:
                return source[name]
        raise TemplateError(f"{what} needs {{{name}}}: no learned value, credential or option has that name")

    return _name.sub(value, template)


def dial_target(session: Session, context: Context, template: str | None = None) -> tuple[str, dict[str, str]]:
    """Return the URL and the headers of the upgrade request. ``template``: the URL's template, if not `Session.url`.

    Raises:
        TemplateError: a value is missing.
    """
    url = fill(template or session.url, context, what="the session's url")
    match session.auth:
        case Query(name, value):
            return with_query(url, {name: fill(value, context, what=f"the query parameter {name}")}), {}
        case None:
            return url, {}
    return url, _filled(session.auth, context)


def _filled(headers: tuple[Header, ...], context: Context) -> dict[str, str]:
    return {each.name: fill(each.value, context, what=f"the header {each.name}") for each in headers}


def with_query(url: str, query: Mapping[str, str]) -> str:
    """Return ``url`` with ``query`` appended to its own query."""
    if not query:
        return url
    parts = urlsplit(url)
    joined = "&".join(filter(None, (parts.query, urlencode(query))))
    return urlunsplit(parts._replace(query=joined))


def fetch_target(fetch: Fetch, session: Session, context: Context) -> tuple[str, str]:
    """Return the absolute URL of ``fetch``, and the same URL with its secret parameters hidden, for logs.

    Raises:
        TemplateError: a value of `Session.http` is missing, or the URL is relative and there is no `Session.http`.
    """
    url = fetch.url
    if "://" not in url:
        http = session.http if fetch.socket not in session.sockets else session.socket(fetch.socket).http
        base = fill(http, context, what="the session's http")
        if not base:
            raise TemplateError(f"the relative URL {url} needs the session's http, which is empty")
        url = urljoin(base.rstrip("/") + "/", url.lstrip("/"))
    url = with_query(url, fetch.query)
    hidden = dict.fromkeys(fetch.secret_query, HIDDEN)
    return with_query(url, fetch.secret_query), with_query(hide_userinfo(url), hidden)


def authenticated(fetch: Fetch, session: Session, context: Context) -> Fetch:
    """Return ``fetch`` with the headers of `Session.http_auth` added, if it needs them (`Fetch.authenticated`).

    Raises:
        TemplateError: a value of the header is missing.
    """
    auth = session.http_auth
    wanted = "://" not in fetch.url if fetch.authenticated is None else fetch.authenticated
    if auth is None or not wanted:
        return fetch
    return evolve(fetch, headers={**fetch.headers, **_filled(auth, context)})


class Redactor:
    """Removes secrets from text: their values, also as encoded in URLs and JSON, and the ``user:password@`` of a URL.

    A provider may repeat a value that was replaced since, so the last `KEPT` values of each name are removed. Thread-safe.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._known: tuple[str, ...] = ()
        self._values: dict[tuple[str, str], tuple[str, ...]] = {}
        self._pattern: re.Pattern[str] | None = None

    def __call__(self, text: str) -> str:
        """Return ``text`` without the present and previous credentials and learned values."""
        self.notice()
        text = hide_userinfo(text)
        return text if self._pattern is None else self._pattern.sub(HIDDEN, text)

    def mask(self, text: str) -> str:
        """Return a frame or body with secrets masked so that it stays valid: a number stays a number, JSON stays JSON."""
        self.notice()
        text = hide_userinfo(text)
        return text if self._pattern is None else self._pattern.sub(_masked, text)

    def notice(self) -> None:
        """Remember the present secrets. Call it before one is replaced."""
        known = (*self._context.credentials.values(), *self._context.learned.values())
        if known != self._known:
            # Another thread may read these, so they are replaced and never mutated.
            values = self._remembered("credential", self._context.credentials, self._values)
            values = self._remembered("learned", self._context.learned, values)
            self._values = values
            self._pattern = secrets_pattern(value for of_name in values.values() for value in of_name)
            self._known = known

    def _remembered(
        self, what: str, secrets: Mapping[str, str], before: Mapping[tuple[str, str], tuple[str, ...]]
    ) -> dict[tuple[str, str], tuple[str, ...]]:
        values = dict(before)
        for name, value in dict(secrets).items():
            old = values.get((what, name), ())
            if value and value not in old:
                values[what, name] = (*old, value)[-KEPT:]
        return values


def _masked(match: re.Match[str]) -> str:
    secret = match[0]
    return "9" * len(secret) if secret.isascii() and secret.isdigit() else HIDDEN

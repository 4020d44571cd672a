"""URLs and headers from templates, and keeping secrets out of every text a person reads."""

import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote, quote_plus, urlencode, urljoin, urlsplit, urlunsplit

from relay.adapter import Context, Fetch, Header, Query, Session

HIDDEN = "[redacted]"
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


def dial_target(session: Session, context: Context) -> tuple[str, dict[str, str]]:
    """Return the URL and the headers of the upgrade request.

    Raises:
        TemplateError: a value is missing.
    """
    url = fill(session.url, context, what="the session's url")
    match session.auth:
        case Header(name, value):
            return url, {name: fill(value, context, what=f"the header {name}")}
        case Query(name, value):
            return with_query(url, {name: fill(value, context, what=f"the query parameter {name}")}), {}
    return url, {}


def with_query(url: str, query: Mapping[str, str]) -> str:
    """Return ``url`` with ``query`` added to what it already has."""
    if not query:
        return url
    parts = urlsplit(url)
    joined = "&".join(filter(None, (parts.query, urlencode(query))))
    return urlunsplit(parts._replace(query=joined))


def fetch_target(fetch: Fetch, session: Session, context: Context) -> tuple[str, str]:
    """Return the absolute URL of ``fetch``, and the same as it may be shown, without its secret parameters.

    Raises:
        TemplateError: a value of `Session.http` is missing, or the URL is relative and there is no `Session.http`.
    """
    url = fetch.url
    if "://" not in url:
        base = fill(session.http, context, what="the session's http")
        if not base:
            raise TemplateError(f"the relative URL {url} needs the session's http, which is empty")
        url = urljoin(base.rstrip("/") + "/", url.lstrip("/"))
    url = with_query(url, fetch.query)
    hidden = dict.fromkeys(fetch.secret_query, HIDDEN)
    return with_query(url, fetch.secret_query), with_query(url, hidden)


class Redactor:
    """Takes secrets out of text: their values as they are, and as they stand in a URL."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._known: tuple[str, ...] = ()
        self._past: set[str] = set()
        self._pattern: re.Pattern[str] | None = None

    def __call__(self, text: str) -> str:
        """Return ``text`` without any credential or learned value, earlier ones included."""
        known = (*self._context.credentials.values(), *self._context.learned.values())
        if known != self._known:
            self._known = known
            self._past.update(filter(None, known))
            self._pattern = _any_of(self._past)
        return text if self._pattern is None else self._pattern.sub(HIDDEN, text)


def _any_of(secrets: Iterable[str]) -> re.Pattern[str] | None:
    spellings = {spelling for secret in secrets for spelling in (secret, quote(secret, safe=""), quote_plus(secret))}
    ordered = sorted(spellings, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, ordered))) if ordered else None

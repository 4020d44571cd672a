"""Mask secrets in traffic before it is written or shown.

There are two steps. `TappedSession.mask` masks known values: credentials and values learned from a login, anywhere in the
text. The patterns here mask values by their names: a signature, a password that was mistyped into an option, a token in an
answer that no adapter reads. In messages from a provider only unambiguous names count, because there ``token`` may be the
address of a coin and ``signature`` the id of a transaction.
"""

import re
from collections.abc import Callable, Sequence

from relay.errors import HIDDEN
from relay.plugins.hookspecs import Traffic

_EVERYWHERE = (
    r"pass(?:word|wd|phrase)|(?:client|api|private)?[_-]?secret(?:[_-]?key)?|(?:access|refresh|id|session)[_-]?token|__token"
    r"|api[_-]?key|private[_-]?key|listen[_-]?key|jwt|authorization"
)
_OF_CLIENTS = _EVERYWHERE + r"|(?:auth[_-]?)?(?:token|signature)|sign|sig|auth"


def _member(names: str) -> re.Pattern[str]:
    r"""Match a member of JSON, also of JSON in a text of JSON, where quotes are ``\"``; the value is the second group."""
    return re.compile(rf"""(?i)(\\*"(?:{names})\\*"\s*:\s*\\*")((?:[^"\\]|\\[^"])+)""")


_in_answers, _in_requests = _member(_EVERYWHERE), _member(_OF_CLIENTS)
_in_query = re.compile(rf"(?i)((?:^|[?&])(?:{_OF_CLIENTS}|key)=)([^&\s\"]+)")
#: A text without any of these has no name of `_EVERYWHERE` in it; looking is much cheaper than the pattern.
_HINTS = ("pass", "PASS", "Pass", "ecret", "ECRET", "oken", "OKEN", 'ey"', 'EY"', "ey\\", "jwt", "JWT", "uthorization")
#: Separator of texts that are masked together; it never occurs in JSON.
_BETWEEN = "\x1e\x1f"

Mask = Callable[[str], str]


def masked(traffic: Sequence[Traffic], mask: Mask) -> list[Traffic]:
    """Return the traffic of one session without secrets. ``mask`` knows the values that are secret."""
    data = _masked_texts([each.data for each in traffic], mask)
    return [
        each._replace(data=text) if each.direction == "in" else _rest(each, text, mask)
        for each, text in zip(traffic, data, strict=True)
    ]


def _masked_texts(texts: list[str], mask: Mask) -> list[str]:
    """Mask many texts in one pass, because most have no secret and each pass of a pattern has a fixed cost."""
    together = _answer(mask(_BETWEEN.join(texts)))
    found = together.split(_BETWEEN)
    return found if len(found) == len(texts) else [_answer(mask(text)) for text in texts]


def _answer(text: str) -> str:
    return _in_answers.sub(_hide, text) if any(hint in text for hint in _HINTS) else text


def _rest(each: Traffic, text: str, mask: Mask) -> Traffic:
    if each.direction == "out":
        text = _in_query.sub(_hide, _in_requests.sub(_hide, text))
    url = _in_query.sub(_hide, mask(each.url)) if each.url else ""
    request = _in_query.sub(_hide, _in_requests.sub(_hide, mask(each.request))) if each.request else ""
    return each._replace(data=text, url=url, request=request)


def _hide(match: re.Match[str]) -> str:
    return match[1] + HIDDEN


def masked_text(text: str, mask: Mask) -> str:
    """Return JSON without secrets."""
    return _in_query.sub(_hide, _in_requests.sub(_hide, mask(text)))

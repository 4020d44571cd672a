"""Search the symbols that the relay knows: pinned and configured ones, and those of the providers' metadata.

People type ``btc``, ``eurusd`` or ``bitcoin``; the answer has the canonical symbol, the provider's own text and channels.
"""

from collections.abc import Callable, Sequence
from typing import Any

import trio
from attrs import frozen
from starlette.requests import Request
from starlette.responses import Response

from relay.auth import ApiKey, KeyRing
from relay.errors import suggestion
from relay.model.channels import ChannelError, Stream, Topic
from relay.model.events import MARKET_KINDS, Stamp
from relay.model.serialize import body
from relay.model.symbols import NEAR
from relay.provider.catalog import ListedSymbol
from relay.server.api.answers import HttpRefusal, Slices, json_answer
from relay.server.api.channels import bearer

Search = Callable[[str, str], tuple[list[ListedSymbol], int]]
"""Called with the text and a provider's name; returns the matches and the number of symbols compared."""

#: Symbols of one answer: by default, and at most.
PAGE, MOST = 20, 500
_LONGEST = 128
_PARAMETERS = ("q", "provider", "kind", "limit", "offset")
_OF_INSTRUMENTS = ("q", "provider", "limit", "offset")


@frozen
class SymbolSearch:
    """The endpoint.

    Attributes:
        providers: returns the names of the providers.
        pay: ``pay(caller, compared, returned)`` charges for a search; returns False if the budget is exceeded. With zeros it
            only checks.
    """

    keys: KeyRing
    search: Search
    providers: Callable[[], list[str]]
    pay: Callable[[str, int, int], bool]
    slices: Slices

    async def endpoint(self, request: Request) -> Response:
        """Answer GET /api/v2/symbols?q=&provider=&kind=&limit=&offset=: the symbols this key may read, likeliest first."""
        return await self._answer(request, _PARAMETERS, "symbols", _described)

    async def instruments(self, request: Request) -> Response:
        """Answer GET /api/v2/instruments?q=&provider=&limit=&offset=: the same, of symbols whose instrument is known."""
        return await self._answer(request, _OF_INSTRUMENTS, "instruments", _with_instrument)

    async def _answer(
        self, request: Request, parameters: Sequence[str], name: str, described: Callable[[ListedSymbol, ApiKey], Any]
    ) -> Response:
        key = bearer(request, self.keys)
        asked = _parameters(request, parameters)
        if name == "instruments":
            asked["kind"] = "instrument"
        provider, kind, names = asked.get("provider"), asked.get("kind"), self.providers()
        if provider is not None and provider not in names:
            raise HttpRefusal(
                400, f"no provider is named {provider:.64}; {suggestion(provider, names)}", field="provider"
            )
        if kind is not None and kind not in MARKET_KINDS:
            raise HttpRefusal(400, f"no symbol has a stream {kind:.64}; {suggestion(kind, MARKET_KINDS)}", field="kind")
        limit, offset = _number(asked, "limit", PAGE, 1, MOST), _number(asked, "offset", 0, 0, 10_000_000)
        self._charge(key, 0, 0)  # refuse before searching if the budget is exceeded already
        found: list[ListedSymbol] = []
        compared = 0
        for each in names if provider is None else [provider]:
            of_provider, count = self.search(asked.get("q", ""), each)
            found += of_provider if name == "symbols" else [known for known in of_provider if known.instrument]
            compared += count
            await trio.lowlevel.checkpoint()  # a list of 10,000 symbols takes some 10 ms
        shown = await self.slices.filter(lambda each: _readable(each, key, kind), found)
        if any(each.found.distance < NEAR for each in shown):
            shown = [each for each in shown if each.found.distance < NEAR]
        page = sorted(shown, key=lambda each: (each.found, each.provider))[offset : offset + limit]
        self._charge(key, compared, len(page))
        end = offset + len(page)
        return json_answer(
            {
                name: [described(each, key) for each in page],
                "total": len(shown),
                "next": end if end < len(shown) and page else None,
            }
        )

    def _charge(self, key: ApiKey, compared: int, returned: int) -> None:
        if not self.pay(f"key {key.name}", compared, returned):
            raise HttpRefusal(429, "too many requests (limit costs.api_rate)")


def _parameters(request: Request, allowed: Sequence[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in allowed:
            raise HttpRefusal(400, f"{name[:64]}: unknown; {suggestion(name, allowed)}", field=name[:64])
        if name in given:
            raise HttpRefusal(400, f"{name} occurs twice", field=name)
        if len(value) > _LONGEST:
            raise HttpRefusal(400, f"{name} has more than {_LONGEST} characters", field=name)
        given[name] = value
    return given


def _number(asked: dict[str, str], name: str, default: int, least: int, most: int) -> int:
    text = asked.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit()) or not least <= int(text) <= most:
        raise HttpRefusal(400, f"{name} must be a whole number from {least} to {most}", field=name)
    return int(text)


def _kinds(each: ListedSymbol, key: ApiKey) -> list[str]:
    """Return the kinds of streams of the symbol that the key may read."""
    streams = [Stream(each.provider, Topic(kind=kind, symbol=each.found.canonical)) for kind in each.kinds]
    return [stream.topic.kind for stream in streams if key.may_read(stream)]


def _readable(each: ListedSymbol, key: ApiKey, kind: str | None) -> bool:
    kinds = _kinds(each, key)
    return bool(kinds) if kind is None else kind in kinds


def _described(each: ListedSymbol, key: ApiKey) -> dict[str, Any]:
    kinds, found = _kinds(each, key), each.found
    channels = {}
    for kind in kinds:
        if kind != "candle":  # a candle channel also needs a timeframe
            try:
                channels[kind] = each.channel(kind)
            except ChannelError:
                continue
    name = {} if found.name is None else {"name": found.name}
    about = {"provider": each.provider, "symbol": found.canonical, "native": found.native, **name}
    return {**about, "kinds": kinds, "channels": channels, "near": found.distance >= NEAR}


def _with_instrument(each: ListedSymbol, key: ApiKey) -> dict[str, Any]:
    """Return the body of the instrument's event, with the provider and the channel."""
    assert each.instrument is not None
    instrument = body(each.instrument, Stamp(provider=each.provider, received_at=""))
    channel = _described(each, key)["channels"].get("instrument")
    return {"provider": each.provider, **instrument, **({} if channel is None else {"channel": channel})}

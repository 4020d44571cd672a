"""Read the payloads of Shuriken's streams: swaps are public trades with the rest in `data`, all others are passed on whole.

Members as the provider's published SDK types them (https://github.com/ShurikenTrade/shuriken-sdk-ts, ``src/streams``).
"""

from decimal import Decimal
from typing import Any

from relay.adapter.reading import unix_time
from relay.model.enums import Side
from relay.model.events import Event, Notification, ProviderSignal, PublicTrade, Reference
from relay.model.text import decimal_text
from relay_shuriken.streams import FEEDS, TOKENS

_FEED_OF = {stream: symbol for symbol, stream in FEEDS.items()}
_FACTS = frozenset((*TOKENS["reference", "svm"], *TOKENS["reference", "evm"]))
#: Members of a swap that fields of a public trade have.
_OF_TRADE = ("signature", "txHash", "priceUsd", "isBuy")


def native_symbol(stream: str, data: Any) -> str:
    """Return the subject of a public stream's payload, in the spelling of `relay_shuriken.streams`.

    Raises:
        ValueError: the payload does not say.
    """
    if stream in _FEED_OF:
        return _FEED_OF[stream]
    match stream.split("."), data:
        case [_, "wallet", _], {"owner": str() as owner} if owner:
            return f"wallet:{owner}"
        case ["evm", "token", _], {"chainId": chain, "tokenAddress": str() as token} if (
            str(chain).isdecimal() and token
        ):
            return f"{chain}:{token}"
        case ["svm", "token", _], {"tokenMint": str() as token} | {"mint": str() as token} | {
            "tokenAddress": str() as token
        }:
            return token
    raise ValueError(f"{stream}: the payload does not say what it is about")


def public(stream: str, data: Any, symbol: str, native: str) -> Event:
    """Return the event of a public stream."""
    about: dict[str, Any] = {"symbol": symbol, "native_symbol": native}
    if stream.endswith(".token.swaps"):
        quantity = tokens_swapped(data)
        if quantity is not None:
            rest = {name: value for name, value in data.items() if name not in _OF_TRADE}
            return PublicTrade(id=data.get("signature", data.get("txHash")), price=data["priceUsd"], quantity=quantity,
                               side=Side.BUY if data["isBuy"] else Side.SELL, time=time_of(data), data=rest,
                               **about)  # fmt: skip
    kind = Reference if stream in _FACTS else ProviderSignal
    return kind(name=stream, data=data, timestamp=time_of(data), **about)


def own(stream: str, data: Any) -> Notification:
    """Return the event of a stream of the user's own. Its words are the payload's message, or else its type."""
    match data:
        case {"data": {"content": str() as word}} | {"message": {"data": {"content": str() as word}}}:
            pass
        case {"type": str() as word} | {"platform": str() as word}:
            pass
        case _:
            word = ""
    return Notification(title=stream, message=word, data=data, timestamp=time_of(data))


def time_of(data: Any) -> str | None:
    """Return the time in the payload, None if it has none that can be read."""
    match data:
        case {"timestampUpdatedMs": moment} | {"blockTime": moment} | {"timestamp": moment}:
            pass
        case {"latestSignal": {"timestampMs": moment}} | {"data": {"timestamp": moment}}:
            pass
        case {"message": {"data": {"timestamp": moment}}}:
            pass
        case _:
            return None
    if type(moment) is not int or moment <= 0:
        return None
    return unix_time(moment)


def tokens_swapped(data: Any) -> str | None:
    """Return the number of whole tokens swapped; None if the payload leaves it in doubt.

    Nothing says whether an amount counts tokens or their smallest units. The swap's own price and value do: the two differ
    by the token's decimals, so only one of them can be worth what was paid. A swap without amounts has no quantity.
    """
    match data:
        case {"isBuy": True, "amountOut": amount} | {"isBuy": False, "amountIn": amount}:
            pass
        case {"isBuy": bool()}:
            return None
        case _:
            raise ValueError("isBuy is missing")
    decimals = data.get("tokenDecimals", data.get("outputDecimals" if data["isBuy"] else "inputDecimals"))
    value = Decimal(decimal_text(data.get("sizeUsd", data.get("amountUsd"))))
    price, given = Decimal(decimal_text(data["priceUsd"])), decimal_text(amount)
    for tokens in (given, _shifted(given, decimals)):
        if value > 0 and tokens is not None and value / 2 < Decimal(tokens) * price < value * 2:
            return tokens
    return None


def _shifted(units: str, decimals: Any) -> str | None:
    """Return a whole number of smallest units as tokens, with every digit."""
    if not units.isdecimal() or type(decimals) is not int or not 0 < decimals < 39:
        return None
    digits = units.rjust(decimals + 1, "0")
    return f"{digits[:-decimals]}.{digits[-decimals:]}"

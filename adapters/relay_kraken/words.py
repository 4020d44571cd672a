"""The words for Kraken's streams that both of its protocols share."""

from collections.abc import Callable, Iterable, Iterator

from relay.model.channels import Topic
from relay.model.enums import TradingStatus

NAMES = {"quote": "ticker", "public_trade": "trade", "depth": "book", "candle": "ohlc"}
KINDS = {name: kind for kind, name in NAMES.items()}
MINUTES = {"1m": 1, "5m": 5, "15m": 15, "30m": 30, "1h": 60, "4h": 240, "1d": 1440, "1w": 10080, "15d": 21600}
TIMEFRAMES = {minutes: timeframe for timeframe, minutes in MINUTES.items()}
#: Kraken's answer to more requests than it takes, which no page numbers; the refusal passes.
TOO_MANY = "Exceeded msg rate"
#: The words of both protocols for a pair's status; there is none for one that is being prepared.
STATUSES = {
    "online": TradingStatus.TRADING, "post_only": TradingStatus.POST_ONLY, "limit_only": TradingStatus.LIMIT_ONLY,
    "reduce_only": TradingStatus.REDUCE_ONLY, "cancel_only": TradingStatus.CANCEL_ONLY,
    "maintenance": TradingStatus.HALTED, "delisted": TradingStatus.CLOSED,
}  # fmt: skip


def channels(
    topics: Iterable[Topic], native: Callable[[str], str], depth: str
) -> Iterator[tuple[str, dict[str, int], dict[str, Topic]]]:
    """Yield each channel the topics need: its name, its ``depth`` or ``interval``, and its topics by Kraken's pair."""
    wanted: dict[tuple[str, str | None], dict[str, Topic]] = {}
    for topic in topics:
        wanted.setdefault((topic.kind, topic.timeframe), {})[native(topic.symbol or "")] = topic
    for (kind, timeframe), pairs in wanted.items():
        options = {"depth": int(depth)} if kind == "depth" else {}
        if kind == "candle":
            options["interval"] = MINUTES[timeframe or ""]
        yield NAMES[kind], options, pairs


def stream(name: str, symbol: str, interval: int | None) -> Topic:
    """Return the topic of a channel of Kraken's. Raises KeyError for a channel or an interval that is not offered."""
    return Topic(kind=KINDS[name], symbol=symbol, timeframe=TIMEFRAMES[interval or 1] if name == "ohlc" else None)

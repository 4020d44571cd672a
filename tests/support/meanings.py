"""The tables of docs/events.md that say what every member means, and which broker says it."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "events.md").read_text()
BROKERS = ("Helio", "Tektii", "ScaleTrade", "CrossTrade", "Alpaca")


def rows(kind: str) -> dict[str, list[str]]:
    """Return the other cells of each member's row in the kind's section."""
    sections = re.split(r"^## ", DOCUMENT, flags=re.MULTILINE)
    (text,) = [part for part in sections if part.startswith(f"{kind}\n")]
    table = text[text.index("| member |") :]
    lines = [line.strip("|").split("|") for line in table.split("\n\n")[0].splitlines()[2:]]
    return {cells[0].strip().strip("`"): [cell.strip() for cell in cells[1:]] for cells in lines}


def said_by(broker: str, kind: str) -> set[str]:
    """Return the members that this broker says of a trade, an order, a position or an account."""
    place = [name.lower() for name in BROKERS].index(broker.lower())
    return {name for name, (_, *cells) in rows(kind).items() if cells[place] == "yes"}

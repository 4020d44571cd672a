"""Orders over HTTP, one after the other, to a relay of `hostile_relay.py` or `day_relay.py`."""

import http.client
import json
import time

API_KEY = "an-api-key-of-the-bench"
ORDER = {
    "provider": "p0",
    "command": "place_order",
    "symbol": "S0",
    "side": "BUY",
    "order_type": "MARKET",
    "quantity": "1",
}


def orders(port: int, seconds: float, every: float) -> tuple[list[float], int]:
    """Send an order every so many seconds, for so long.

    Returns:
        How long each took, in milliseconds, sorted; and how many had no reply of the provider in time.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"Authorization": f"Bearer {API_KEY}", "Content-Type": "application/json"}
    took, unknown, end = [], 0, time.monotonic() + seconds
    while (start := time.monotonic()) < end:
        connection.request("POST", "/api/v2/commands", json.dumps(ORDER), headers)
        answer = connection.getresponse()
        body = answer.read()
        took.append((time.monotonic() - start) * 1e3)
        unknown += answer.status == http.client.ACCEPTED
        if answer.status not in (http.client.OK, http.client.ACCEPTED):
            raise SystemExit(f"an order was answered {answer.status} {body[:200]!r}")
        time.sleep(max(0.0, start + every - time.monotonic()))
    connection.close()
    return sorted(took), unknown


def share(values: list[float], part: float) -> float:
    """Return the value below which so large a part of the sorted values lies."""
    return values[min(len(values) - 1, int(len(values) * part))]

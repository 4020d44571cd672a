"""What is asked of Helio over HTTP: the login, the portfolio, and the orders of an absence.

Pages: https://docs.helio.trade/trader/api/authentication/client-login, /trader/api/trading/get-portfolio and
/trader/api/history/order-history. What is open is fetched on every connect, because the socket's own portfolio is documented
as a change only, and its executions as those of subscribed symbols.
"""

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

from attrs import frozen

from relay.adapter import Answer, CommandReply, Fetch, Learned, Signal, loads
from relay.model.commands import Command, ListAccounts, ListOrders, ListPositions
from relay.model.events import Error, Event
from relay.model.text import from_nanos, rfc3339, to_ns
from relay_helio.reports import members

#: Commands that the portfolio answers.
LISTS: tuple[type[Command], ...] = (ListAccounts, ListPositions, ListOrders)
PORTFOLIO = "portfolio"
_DAY = 24 * 3600 * 1_000_000_000


@frozen
class Listing:
    """Tag of a portfolio that answers a command."""

    command_id: str
    name: str


@frozen
class Missed:
    """Tag of the orders of an absence that began then."""

    since: str


def portfolio(account_id: str, token: str, tag: Hashable) -> Fetch:
    """Asks for the account's money and all that is open on it."""
    return Fetch(tag=tag, url=f"/accounts/{account_id}/portfolio", headers={"Authorization": f"Bearer {token}"})


def reconcile(account_id: str, token: str, since: str | None) -> Fetch:
    """Asks for what is open; after an absence for the orders that ended in it first, so that none merely vanishes.

    The page's dates are days of the order's creation: those made since the day before, up to a year ahead, are asked for.
    """
    if since is None:
        return portfolio(account_id, token, PORTFOLIO)
    began = to_ns(since)
    query = {"from": from_nanos(began - _DAY)[:10], "to": from_nanos(began + 365 * _DAY)[:10]}
    url = f"/accounts/{account_id}/history/orders"
    return Fetch(tag=Missed(since), url=url, query=query, headers={"Authorization": f"Bearer {token}"})


def changed_since(answer: Any, since: str) -> Iterable[Any]:
    """Those of the answer's orders that changed in the absence; one that does not say when is among them."""
    start = to_ns(since)
    for raw in answer["orders"]:
        at = members(raw).get("updatedAt")
        if at is None or to_ns(rfc3339(at)) >= start:
            yield raw


def listed(tag: Listing, answer: Answer) -> CommandReply:
    """The part of the portfolio that was asked for, as it came."""
    if not answer.ok:
        return CommandReply(tag.command_id, error={"code": f"http_{answer.status}", "message": answer.text[:500]})
    body: Mapping[str, Any] = loads(answer.text)
    lists = {ListPositions.name: "positions", ListOrders.name: "orders"}
    if tag.name in lists:
        return CommandReply(tag.command_id, body[lists[tag.name]])
    return CommandReply(tag.command_id, [{name: value for name, value in body.items() if not isinstance(value, list)}])


def signed_in(answer: Answer, chosen: str) -> tuple[str, list[Event | Signal]]:
    """Which account the session is of, and what the login teaches; ``chosen`` is the operator's choice, or empty."""
    given = members(loads(answer.text))
    token, expires = given["accessToken"], given.get("expiresAt")
    if not isinstance(token, str):
        raise TypeError("the login's answer has no access_token")
    learned = Learned({"token": token}, None if expires is None else int(expires))
    ids = [account["id"] for account in given.get("accounts", ()) if isinstance(account["id"], str)]
    if not chosen and len(ids) == 1:
        return ids[0], [learned]
    if chosen in ids:
        return chosen, [learned]
    return chosen, [Error(code="account_id", message=f"set the option account_id to one of: {', '.join(ids)}"), learned]

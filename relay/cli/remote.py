"""The running relay that a command connects to, and the texts of its refusals."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Annotated

from attrs import field, frozen
from cyclopts import Parameter

from relay.errors import OperatorError

if TYPE_CHECKING:
    from relay.client import Client, Notice, RefusedByRelay

#: As in `relay.settings`, whose import would take longer than a query.
DEMO_URL, DEMO_API_KEY = "http://127.0.0.1:6001", "demo-api-key"


@Parameter(name="*")
@frozen(kw_only=True)
class RunningRelay:
    """The relay.

    Attributes:
        url: The relay's address.
        api_key: An API key of the relay.
    """

    url: Annotated[str, Parameter(env_var="TICKRELAY_URL")] = DEMO_URL
    api_key: Annotated[str, Parameter(env_var="TICKRELAY_API_KEY", show_default=False)] = field(
        default=DEMO_API_KEY, repr=False
    )


DEMO = RunningRelay()
"""The demo's relay, the default."""


class Unreachable(OperatorError):
    """Raised when the relay cannot be reached."""

    exit_code = 4


@contextmanager
def told_to_people(relay: RunningRelay) -> Iterator[None]:
    """Turn errors of a relay into readable errors.

    Raises:
        Unreachable: no relay answers at the address.
        OperatorError: the relay refuses the API key, the app or a channel, with the grant that is missing.
    """
    from relay.client import ClosedByRelay, RefusedByRelay, RelayUnreachable, SubscriptionRefused

    try:
        yield
    except RelayUnreachable as error:
        raise Unreachable(str(error)) from error
    except RefusedByRelay as error:
        raise OperatorError(refusal(error, relay)) from error
    except SubscriptionRefused as error:
        lines = (each if each.startswith(name) else f"{name}: {each}" for name, each in error.channels.items())
        raise OperatorError(lines) from error
    except ClosedByRelay as error:
        raise OperatorError(str(error)) from error


@asynccontextmanager
async def connected(
    relay: RunningRelay, *, app: str | None = None, on_notice: "Callable[[Notice], object]" = lambda notice: None
) -> "AsyncIterator[Client]":
    """Return a client of the relay, whose failures are `told_to_people`."""
    from relay.client import Client

    try:
        client = Client(relay.url, api_key=relay.api_key, app=app, on_notice=on_notice)
    except ValueError as error:
        raise OperatorError(f"--url: {error}") from error
    with told_to_people(relay):
        async with client:
            yield client


def refusal(error: "RefusedByRelay", relay: RunningRelay) -> str:
    """Return the line about a refused request."""
    if error.status == 401:
        own = relay.api_key == DEMO_API_KEY
        hint = "; that of the demo is the default, give yours by --api-key or TICKRELAY_API_KEY" if own else ""
        return f"refused with status 401: {error.message}{hint}"
    if error.status == 404 and error.code in (None, "NOT_FOUND"):
        return f"{error.message}: the relay at {relay.url} has another version, or is not a relay"
    return f"refused with status {error.status}: {error.message}"

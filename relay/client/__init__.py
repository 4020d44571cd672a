"""A client of a running relay: events, books, accounts and commands, on trio or asyncio.

```python
from relay.client import Client
from relay.model.events import Quote

async with Client("http://127.0.0.1:6001", api_key="demo-api-key") as relay:
    async with relay.subscribe("quote.synthetic.BTC-USD") as updates:
        async for update in updates:
            if isinstance(update.event, Quote):  # the channel also carries `staleness` and `gap`
                print(update.event.bid, update.event.ask)
```

After a lost connection the client reconnects with growing waits and resumes each channel after its last received event. If
events are missing nevertheless, the next update has the reason in `missed`.
"""

from relay.client.api import CommandResult, OutcomeUnknown, RefusedByRelay, RelayUnreachable
from relay.client.client import Client, ClosedByRelay, SubscriptionRefused, Updates, ViewUpdates
from relay.client.feed import Notice, Update
from relay.client.views import AccountView, OrderBook

__all__ = [
    "AccountView",
    "Client",
    "ClosedByRelay",
    "CommandResult",
    "Notice",
    "OrderBook",
    "OutcomeUnknown",
    "RefusedByRelay",
    "RelayUnreachable",
    "SubscriptionRefused",
    "Update",
    "Updates",
    "ViewUpdates",
]

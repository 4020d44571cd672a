"""The contract of a provider's adapter: one declaration and a few pure functions.

An adapter declares how a session is opened and kept (`Session`), writes what is to be sent (`Adapter.encode`) and reads what
is received (`Adapter.decode`, `Adapter.fetched`). It never touches a socket, a clock or a task; the session machine in
`relay.provider` does everything over time from the declaration. One adapter instance lives as long as one connection, so
what it learns on that connection (request ids, channel numbers) is a plain attribute; what must outlive it (symbols, a
token) is in its `Context`.

The life of a connection: ``prepare()`` fetches, all of which must succeed -> the socket is dialled -> ``encode(Hello())``
-> `Ready` (at once, or when decoded) -> ``encode(Subscribe(...))`` for what is wanted -> ``decode`` for every message.

`relay.adapter.declaration` has the declarations, `relay.adapter.messages` the messages and signals, `relay.adapter.base` the
class, and `relay.adapter.reading` the readers of a provider's JSON.
"""

from relay.adapter.base import (
    CHECKSUM_LEVELS,
    Adapter,
    Checksum,
    Context,
    Known,
)
from relay.adapter.declaration import (
    Backoff,
    Book,
    CloseMeaning,
    Header,
    Heartbeat,
    Offer,
    Option,
    Orders,
    Query,
    Rate,
    RateOf,
    Sequence,
    Session,
)
from relay.adapter.messages import (
    Ack,
    Alive,
    Answer,
    Awaited,
    Calendar,
    CommandReply,
    Complete,
    EventAck,
    Fetch,
    GivenUp,
    Hello,
    Learned,
    Limited,
    Nack,
    Outgoing,
    Partial,
    Ping,
    Poll,
    Polled,
    Processed,
    Ready,
    Reconcile,
    Redial,
    Refresh,
    Requests,
    Secret,
    Send,
    Signal,
    Snapshot,
    Subscribe,
    Symbols,
    Unknown,
    Unsubscribe,
    Waits,
)
from relay.adapter.reading import (
    dumps,
    loads,
)

__all__ = [
    "CHECKSUM_LEVELS",
    "Ack",
    "Adapter",
    "Alive",
    "Answer",
    "Awaited",
    "Backoff",
    "Book",
    "Calendar",
    "Checksum",
    "CloseMeaning",
    "CommandReply",
    "Complete",
    "Context",
    "EventAck",
    "Fetch",
    "GivenUp",
    "Header",
    "Heartbeat",
    "Hello",
    "Known",
    "Learned",
    "Limited",
    "Nack",
    "Offer",
    "Option",
    "Orders",
    "Outgoing",
    "Partial",
    "Ping",
    "Poll",
    "Polled",
    "Processed",
    "Query",
    "Rate",
    "RateOf",
    "Ready",
    "Reconcile",
    "Redial",
    "Refresh",
    "Requests",
    "Secret",
    "Send",
    "Sequence",
    "Session",
    "Signal",
    "Snapshot",
    "Subscribe",
    "Symbols",
    "Unknown",
    "Unsubscribe",
    "Waits",
    "dumps",
    "loads",
]

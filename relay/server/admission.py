"""Decide which new connections there is room for: in all, per client address, and by the process's file descriptors.

- `limits.connections` bounds all connections, `limits.connections_per_address` those of one address. An IPv6 client owns a
  whole /64, so that network counts as one address. Clients on this machine are not counted by address: they are proxies and
  tests. Behind a proxy that is ours, the address that the proxy saw is counted (`forwarded_for`).
- The kernel gives the lowest free number to a new descriptor, so a number at or above `descriptors` means that only the
  reserve is left, which providers, the store, the log and an administrator need.
- `ADMIN_CONNECTIONS` more connections from this machine are admitted although the others are full. The HTTP server answers
  only health checks, metrics and the status on them.

`HttpLimits` and `SubscriberLimits` are the tables `[server.limits]` and `[server.subscribers]` of the configuration.

Pure: no sockets. `HttpServer` calls it for every connection.
"""

import ipaddress
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache, partial

import attrs

from relay.websocket.frames import MAX_MESSAGE


@attrs.frozen(kw_only=True)
class HttpLimits:
    """Timeouts in seconds and limits of HTTP connections, for peers that may be slow or hostile."""

    connections: int = attrs.field(default=20_000, validator=attrs.validators.ge(1))
    """Connections at once, upgraded ones included; one more is answered 503 (over TLS: closed). Beyond them, a few from this
    machine are answered `/healthz`, `/readyz`, `/metrics` and `/api/v2/status`."""
    connections_per_address: int = attrs.field(default=2_000, validator=attrs.validators.ge(1))
    """Connections at once of one client address, or of one IPv6 /64; one more is answered 503. Clients on this machine are
    not counted. With `behind_proxy` this counts subscribers by the last address in `X-Forwarded-For`."""
    reserved_descriptors: int = attrs.field(default=64, validator=attrs.validators.ge(16))
    """File descriptors that connections may not use: they are kept for providers (four more for each session), the log and
    an administrator. A connection that would take one of them is answered 503."""
    reserved_memory: int = attrs.field(default=64 * 1024 * 1024, validator=attrs.validators.ge(0))
    """Bytes of the memory that the system lets the process have which clients may not use: they are kept for providers, the
    store, the log and an administrator. While less is left nobody new is served (503); while half of it is left, those for
    whom the most bytes wait are closed with 4100. At most half of what is left at the start; 0 keeps none."""
    bodies: int = attrs.field(default=64 * 1024 * 1024, validator=attrs.validators.ge(1_048_576))
    """Bytes of request bodies in memory over all connections; a request whose body would exceed it is answered 503."""
    tls_handshake: float = 10.0
    """From accept to the end of the TLS handshake."""
    head: float = 10.0
    """From the first byte of a request (or accept) to the end of its head; then 408."""
    idle: float = 75.0
    """Between two requests of a connection."""
    body: float = 30.0
    """Without a byte of the body; then the client counts as disconnected."""
    write: float = 30.0
    """For the peer to receive 64 kB."""
    linger: float = 2.0
    """For the rest of an unread body after an early answer."""
    drain: float = 10.0
    """From `stop` until remaining requests are cancelled."""
    head_bytes: int = attrs.field(default=16 * 1024, validator=attrs.validators.ge(256))
    """Size of a request's head; then 431."""


@attrs.frozen(kw_only=True)
class SubscriberLimits:
    """Timeouts in seconds and limits of the subscribers' connections, and options of writing to them."""

    message_bytes: int = attrs.field(default=MAX_MESSAGE, validator=attrs.validators.ge(128))
    """Largest message a client may send, compressed or not; then close 1009."""
    pending_bytes: int = attrs.field(default=64 * 1024 * 1024, validator=attrs.validators.ge(1_048_576))
    """Most bytes of incomplete and waiting messages, over all connections. Beyond that, the connections with the most are
    closed with 4100 until an eighth is free.
    """
    compression: bool = False
    """Agree to compress (permessage-deflate) with clients that offer it, as all browsers do. For slow links."""
    handshake: float = 10.0
    """For the peer to receive the refusal of a bad handshake."""
    write: float = 20.0
    """For a slow subscriber's socket to take another byte; then the connection is dropped."""
    close: float = 5.0
    """From our close frame to the end of the connection; then it is dropped."""
    sweep: float = 1.0
    """Seconds between two looks at the deadlines of idle subscribers."""
    io_uring: bool = True
    """Write to many subscribers with one system call, if the kernel allows it (Linux 5.18)."""
    notsent_lowat: int = attrs.field(default=128 * 1024, validator=attrs.validators.ge(4096))
    """TCP_NOTSENT_LOWAT: most unsent bytes that the kernel holds for a subscriber."""


IDLE_BYTES = 1_600
"""Memory of an idle connection."""
ADMIN_CONNECTIONS = 4
"""Connections from this machine that are kept for an administrator."""
ADMIN_HEAD = 1.0
"""Seconds in which these must send their request: one that says nothing does not keep the administrator out for long."""
DESCRIPTORS_PER_SESSION = 4
"""File descriptors of one session with a provider: its WebSocket, HTTP requests, and a dial beside them."""


@attrs.frozen
class DescriptorPlan:
    """Shares of the file descriptors that the system allows."""

    allowed: int
    """RLIMIT_NOFILE of the process."""
    reserve: int
    """Kept for providers, the store, the log and an administrator."""
    clients: int
    """Connections that the rest is enough for, or `limits.connections` where that is less."""
    needed: int
    """RLIMIT_NOFILE at which `limits.connections` are possible."""

    @property
    def enough(self) -> bool:
        """True if every connection that the limits allow has a descriptor."""
        return self.needed <= self.allowed


def plan_descriptors(limits: HttpLimits, sessions: int, allowed: int) -> DescriptorPlan:
    """Return the plan for a number of sessions with providers. At most half of the descriptors are reserved."""
    wanted = limits.reserved_descriptors + DESCRIPTORS_PER_SESSION * sessions
    reserve = min(wanted, allowed // 2)
    clients = max(1, min(limits.connections, allowed - reserve))
    return DescriptorPlan(allowed, reserve, clients, limits.connections + wanted)


def network_of(address: str) -> str | None:
    """Return the network that is counted as one client: an IPv4 address, or an IPv6 /64; None if it is no address."""
    return _read(address)[0] if len(address) <= _LONGEST else None


def is_local(address: str) -> bool:
    """Return True for an address of this machine's loopback interface."""
    return len(address) <= _LONGEST and _read(address)[1]


def client_network(address: str) -> str | None:
    """Return the network that a client at this address is counted in; None on this machine, and if it is no address."""
    return None if is_local(address) else network_of(address)


#: Characters of the longest address with its scope; addresses whose networks are remembered.
_LONGEST, _REMEMBERED = 64, 4096


@lru_cache(_REMEMBERED)
def _read(address: str) -> tuple[str | None, bool]:
    """Return the network of an address, and whether it is of this machine's loopback interface."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None, False
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip), ip.is_loopback
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped), ip.ipv4_mapped.is_loopback
    return str(ipaddress.IPv6Address(int(ip) >> 64 << 64)) + "/64", ip.is_loopback


def forwarded_for(headers: Sequence[tuple[bytes, bytes]]) -> str | None:
    """Return the client's address as our own proxy saw it: the last one in X-Forwarded-For. What precedes it is claimed by
    the client. None if there is no address.
    """
    lines = [value for name, value in headers if name == b"x-forwarded-for"]
    if not lines:
        return None
    last = lines[-1].rpartition(b",")[2].strip().decode("latin-1")
    if last.startswith("["):
        last = last[1:].partition("]")[0]
    elif last.count(":") == 1:
        last = last.partition(":")[0]
    return None if network_of(last) is None else last


class Admission:
    """The connections that are open, by address, and the room that is left."""

    def __init__(
        self,
        limits: HttpLimits,
        *,
        descriptors: int | None = None,
        behind_proxy: bool = False,
        uncounted: Callable[[str], bool] = is_local,
        out_of_memory: Callable[[], str | None] = lambda: None,
    ) -> None:
        """Create an account of no connections. Descriptors from number `descriptors` on are the reserve. `behind_proxy`:
        peers are our own proxy, and only `admit_forwarded` counts addresses. `uncounted` addresses have no limit.
        `out_of_memory` returns the setting for which nobody is admitted now; None where somebody is.
        """
        self.behind_proxy = behind_proxy
        self._limits = limits
        self._descriptors = descriptors
        self._uncounted = uncounted
        self._out_of_memory = out_of_memory
        self._open: Counter[str] = Counter()
        self._admin = 0

    def refusal(self, address: str | None, fd: int, connections: int) -> str | None:
        """Return the setting that leaves no room for one more connection, None if there is room.

        `fd` is its descriptor, `connections` the number of those that are open.
        """
        if connections >= self._limits.connections:
            return "server.limits.connections"
        if self._descriptors is not None and fd >= self._descriptors:
            return "server.limits.reserved_descriptors"
        if (full := self._out_of_memory()) is not None:
            return full
        return None if self.behind_proxy else self.refusal_of_address(address)

    def refusal_of_address(self, address: str | None) -> str | None:
        """Return the setting that leaves no room for one more connection of this address, None if there is room."""
        network = self._counted(address)
        most = self._limits.connections_per_address
        return None if network is None or self._open[network] < most else "server.limits.connections_per_address"

    def count(self, address: str | None) -> Callable[[], None] | None:
        """Count an open connection of this address. Return what to call at its end; None if the address is not counted."""
        network = self._counted(address)
        if network is None:
            return None
        self._open[network] += 1
        return partial(self._leave, network)

    def _counted(self, address: str | None) -> str | None:
        return None if address is None or self._uncounted(address) else network_of(address)

    def _leave(self, network: str) -> None:
        self._open[network] -= 1
        if not self._open[network]:
            del self._open[network]

    def count_admin(self, address: str | None) -> Callable[[], None] | None:
        """Count an administrator's connection. Return what to call at its end; None if it may not have one."""
        if address is None or not is_local(address) or self._admin >= ADMIN_CONNECTIONS:
            return None
        self._admin += 1
        return self._leave_admin

    def _leave_admin(self) -> None:
        self._admin -= 1

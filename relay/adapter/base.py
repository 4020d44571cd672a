"""The base class of adapters, and the state that outlives a connection."""

import abc
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

from attrs import Factory, field, frozen

from relay.adapter import reading
from relay.adapter.declaration import CloseMeaning, Offer, Option, Orders, Session
from relay.adapter.messages import Answer, Fetch, Outgoing, Poll, Secret, Signal
from relay.model.channels import Topic
from relay.model.commands import Command
from relay.model.enums import ErrorCode
from relay.model.events import Event, Level, Order, Position
from relay.model.hours import Hours
from relay.model.instruments import Instruments
from relay.model.symbols import SymbolTable

#: See `Adapter.checksum`.
Checksum = Callable[[Sequence[Level], Sequence[Level]], str | None]
#: Levels of each side that a checksum is given; no provider known sums up more.
CHECKSUM_LEVELS = 25


class Known:
    """The orders and positions of the account as they were last published, over all connections, and the open commands.

    Use it instead of a cache of your own. The message that is being decoded is not in it yet. ``account`` is the account's
    id, if it is not the session's own. This base class, for use without a session, is empty.
    """

    def order(self, id: str, account: str | None = None) -> Order | None:
        """Return the last known state of an order, by any of its ids (`Sought`), also of an ended one, or None."""
        return None

    def position(self, id: str, account: str | None = None) -> Position | None:
        """Return the last known state of a position, also of a closed one; None if there is no such position."""
        return None

    def open_orders(self) -> Iterable[Order]:
        """Return the orders of all accounts that are open."""
        return ()

    def open_positions(self) -> Iterable[Position]:
        """Return the positions of all accounts that are open."""
        return ()

    def commands(self) -> Iterable[Command]:
        """Return the commands that were sent and have no reply yet, as they were written, the oldest first."""
        return ()


@frozen(kw_only=True)
class Context:
    """State that outlives a connection: one per configured provider account.

    Attributes:
        provider: the configured name.
        account: the configured account's name; None if there is none.
        options: the adapter's options, with defaults filled in.
        credentials: by name, as the adapter declares them; never in a repr.
        symbols: learned and configured symbols.
        learned: the values of `Learned` signals, for templates and `Fetch` headers; never in a repr.
        kept: state that the adapter leaves for the next connection, under names of its own. The adapter must limit its size.
        calendar: the days of the last `Calendar` signal.
        known: the account's orders, positions and open commands.
        instruments: what was read of the provider's instruments; the relay fills it from `Instrument` events.
    """

    provider: str
    account: str | None = None
    options: Mapping[str, str] = Factory(dict)
    credentials: Mapping[str, Secret] = field(factory=dict, repr=False)
    symbols: SymbolTable = Factory(SymbolTable)
    learned: dict[str, Secret] = field(factory=dict, repr=False)
    kept: dict[str, Any] = field(factory=dict, repr=False)
    calendar: dict[str, str] = field(factory=dict, repr=False)
    known: Known = field(factory=Known, repr=False)
    instruments: Instruments = field(factory=Instruments, repr=False)


class Adapter(abc.ABC):
    """One provider's protocol on one connection. Subclasses declare the class attributes and write the functions.

    Class attributes:
        name: the adapter's name in configuration.
        session: the declaration.
        offers: the streams it has.
        commands: the trading commands it encodes.
        orders: the orders it takes; the core refuses any other.
        options: the options an operator may set.
        credentials: names of the credentials it needs.
        codes: the canonical error codes by the provider's codes, which are in upper case here. Codes and messages in plain
            English need no entry (`relay.adapter.reading.error_code`).
        answered_by_stream: the commands that the provider does not answer. The reply is derived from the state of the order
            or position in the account's stream or in a list.
        names_accounts: True if a command is executed on the account that it names. False if a session always acts on the
            account of its login.
        socket: the name of the instance's socket (`Session.sockets`), set by the relay; empty for the session's own socket,
            which has the account and commands.
    """

    name: ClassVar[str]
    session: ClassVar[Session]
    offers: ClassVar[tuple[Offer, ...]] = ()
    commands: ClassVar[tuple[type[Command], ...]] = ()
    orders: ClassVar[Orders] = Orders()
    options: ClassVar[tuple[Option, ...]] = ()
    credentials: ClassVar[tuple[str, ...]] = ()
    codes: ClassVar[Mapping[str, ErrorCode]] = MappingProxyType({})
    answered_by_stream: ClassVar[tuple[type[Command], ...]] = ()
    names_accounts: ClassVar[bool] = False
    socket: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        """Check the types of the declarations and that they do not contradict each other.

        Raises:
            TypeError: a declaration has the wrong type.
            ValueError: an adapter for accounts declares several connections.
        """
        session = getattr(cls, "session", None)
        if session is not None and not isinstance(session, Session):
            raise TypeError(f"{cls.__name__}.session: must be a Session, not {session!r:.64}")
        for name, kind in (("offers", Offer), ("options", Option), ("credentials", str)):
            declared = getattr(cls, name)
            if not isinstance(declared, tuple) or not all(isinstance(each, kind) for each in declared):
                raise TypeError(f"{cls.__name__}.{name}: must be a tuple of {kind.__name__}, not {declared!r:.64}")
        trades = bool(cls.commands) or any(offer.kind == "account" for offer in cls.offers)
        if session is not None and trades and session.most_connections > 1:
            raise ValueError(f"{cls.__name__}: 'most_connections' is for market data; an account has one connection")
        sockets = {} if session is None else session.sockets
        for offer in cls.offers:
            if offer.socket and (offer.kind == "account" or (sockets and offer.socket not in sockets)):
                raise ValueError(f"{cls.__name__}: offer {offer.kind} cannot be on socket {offer.socket!r}")

    @staticmethod
    def checksum(bids: Sequence[Level], asks: Sequence[Level]) -> str | None:
        """Return the checksum (`Depth.checksum`) of a book with these `CHECKSUM_LEVELS` levels, best first.

        Override it if the provider sends checksums. By default they are not verified.
        """
        return None

    @classmethod
    def url(cls, context: Context) -> str:
        """Return the template of the WebSocket URL; by default `Session.url`.

        Override it if an option selects between endpoints in a way that a template cannot express. `Session.url` is also the
        URL that an operator has configured.
        """
        return cls.session.url

    @classmethod
    def socket_of(cls, topic: Topic) -> str:
        """Return the name of the socket for ``topic``; by default that of its `Offer`.

        Override it if the socket depends on the symbol. If an operator has configured one endpoint, sockets that differ only
        by their URL are merged into that one.
        """
        return next((offer.socket for offer in cls.offers if offer.kind == topic.kind), "")

    @classmethod
    def closed(cls, code: int, reason: str) -> CloseMeaning:
        """Return the meaning of a close by the provider; by default that of the code in `Session.closes`.

        Override it if the meaning depends on the reason text.
        """
        return cls.session.closes.get(code, CloseMeaning.RETRY)

    @classmethod
    def book_levels(cls, context: Context) -> int | None:
        """Return the depth beyond which the provider drops levels without a message; None if it sends a message."""
        return None

    @classmethod
    def hours(cls, topic: Topic, context: Context) -> Hours | None:
        """Return the trading hours of a topic's market; None if it always trades or they are not known.

        By default they are those of the topic's `Offer`, with the days of the last `Calendar`. Override it if the provider's
        metadata has hours by symbol. It is only called when a timer has expired, never for each message.
        """
        hours = next((offer.hours for offer in cls.offers if offer.kind == topic.kind), None)
        return hours.dated(context.calendar) if hours is not None and context.calendar else hours

    @classmethod
    def error_code(cls, error: Mapping[str, Any], command: Command) -> ErrorCode:
        """Return the canonical code of a `CommandReply`'s error. Override it if code and message are not enough."""
        return reading.error_code(error, command, cls.codes)

    def __init__(self, context: Context) -> None:
        """Create an instance for one connection.

        Override it to check option values that `Option.choices` cannot express; raise a ValueError that names the option.
        """
        self.context = context
        self.symbols = context.symbols
        for option in self.options:
            if (reason := option.refusal(context.options.get(option.name, option.default))) is not None:
                raise ValueError(f"{option.name}: {reason}")

    @classmethod
    def defaults(cls) -> dict[str, str]:
        """Return the default of every option by its name."""
        return {option.name: option.default for option in cls.options}

    def option(self, name: str) -> str:
        """Return the configured value of the option ``name``, or its default."""
        value = self.context.options.get(name)
        return self.defaults()[name] if value is None else value

    def prepare(self) -> Iterable[Fetch]:
        """Yield the fetches that must be answered before each dial: a login, symbol metadata not yet known."""
        return ()

    def encode(self, outgoing: Outgoing) -> Iterable[str | bytes | Fetch | Poll]:
        """Yield the frames and requests for ``outgoing``, and polls to start; nothing if the provider has no such message.

        Raises:
            relay.model.symbols.SymbolError: a symbol cannot be translated for this provider.
            ValueError: the provider does not support this. The text is sent to the client. Any other exception is a fault of
                the adapter; its text is only logged.
        """
        return ()

    @abc.abstractmethod
    def decode(self, message: Any) -> Iterable[Event | Signal]:
        """Yield the events and signals of one message: text, or bytes if `Session.frames` is ``binary``.

        If it raises, the message counts as one `Unknown`, and none of its events is used.
        """

    def decode_recorded(self, text: str) -> Iterable[Event | Signal]:
        """Decode a frame from the form it is recorded in: its text, or of a binary one a character for each byte."""
        binary = self.session.frames == "binary"
        return self.decode(text.encode("latin-1", "backslashreplace") if binary else text)

    def fetched(self, tag: Hashable, answer: Answer) -> Iterable[Event | Signal]:
        """Yield the events and signals of an HTTP answer."""
        return ()

    def symbol(self, native: str) -> str:
        """Return the canonical text of the provider's symbol."""
        return self.symbols.canonical(native)

    def native(self, symbol: str) -> str:
        """Return the provider's text of a canonical symbol."""
        return self.symbols.native(symbol)

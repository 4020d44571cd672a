"""The base class of adapters, and what outlives a connection."""

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
    """The session's memory of the account: its orders and positions as they were last published, over all connections, and
    the commands that wait for their replies.

    Read it in place of a memory of your own. What the message at hand says is not in it yet. ``account`` is the account's
    id where it is not the session's own. Here, without a session, nothing is known.
    """

    def order(self, id: str, account: str | None = None) -> Order | None:
        """Return an order as it was last known, None for one that was never told; ended ones are remembered too."""
        return None

    def position(self, id: str, account: str | None = None) -> Position | None:
        """Return a position as it was last known, None for one that was never told; closed ones are remembered too."""
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
        account: the configured account's name, None where there is none.
        options: the adapter's options, defaults filled in.
        credentials: by name, as the adapter declares them; never in a repr.
        symbols: learned and configured symbols.
        learned: what `Learned` signals gave, for templates and `Fetch` headers; never in a repr.
        kept: what an adapter leaves to the one of the next connection, by names of its own. It bounds what it keeps.
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
        codes: the canonical code of the provider's codes of refusals, which are in upper case here. Codes and messages in
            plain English need no entry (`relay.adapter.reading.error_code`).
        answered_by_stream: the commands that no message of the provider's answers. The order or the position they are about
            does: what the account's stream, or a list, shows of it is published as the reply.
        names_accounts: True where a command is carried out on the account it names, and answered for that one alone. Where
            it is False, a session acts on its login's account, whatever account a command names.
        socket: the name of the socket that an instance is on, set by the relay (`Session.sockets`); empty: the session's
            own, where accounts and commands are.
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
        """Refuse declarations of the wrong type, and those that contradict each other.

        Raises:
            TypeError: a declaration is not what `Adapter` says.
            ValueError: several connections, of an account that trades or has streams of its own.
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
        """Return what `Depth.checksum` must be for a book with these `CHECKSUM_LEVELS` levels, best first.

        Override where the provider sends one; as it stands here nothing is checked.
        """
        return None

    @classmethod
    def url(cls, context: Context) -> str:
        """Return the template of the WebSocket URL; as it stands here, `Session.url`.

        Override where an option chooses between endpoints that no template of one option's value can say. A URL that an
        operator configures is `Session.url` too.
        """
        return cls.session.url

    @classmethod
    def socket_of(cls, topic: Topic) -> str:
        """Return the name of the socket that ``topic`` is on; as it stands here, that of its `Offer`.

        Override where it depends on the symbol. Where an operator configures one endpoint, topics of sockets that differ in
        nothing but the URL are on that one.
        """
        return next((offer.socket for offer in cls.offers if offer.kind == topic.kind), "")

    @classmethod
    def closed(cls, code: int, reason: str) -> CloseMeaning:
        """Return what a close by the provider means for the session.

        As it stands here, what `Session.closes` declares for the code. Override where only the text tells two closes apart.
        """
        return cls.session.closes.get(code, CloseMeaning.RETRY)

    @classmethod
    def book_levels(cls, context: Context) -> int | None:
        """Return the depth beyond which the provider drops levels without a message; None if it sends a message."""
        return None

    @classmethod
    def hours(cls, topic: Topic, context: Context) -> Hours | None:
        """Return when the market of ``topic`` trades; None if it always does, or if it is not known.

        As it stands here, what the topic's `Offer` declares, with the days of the last `Calendar`. Override where the
        provider's metadata says it by symbol. It is asked only when a clock has run out, never on the path of a message.
        """
        hours = next((offer.hours for offer in cls.offers if offer.kind == topic.kind), None)
        return hours.dated(context.calendar) if hours is not None and context.calendar else hours

    @classmethod
    def error_code(cls, error: Mapping[str, Any], command: Command) -> ErrorCode:
        """Return the canonical code of the error of a `CommandReply`. Override where other members than its code say it."""
        return reading.error_code(error, command, cls.codes)

    def __init__(self, context: Context) -> None:
        """Override to refuse values of options that no list of choices can say, with a ValueError that names the option."""
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
        """Yield the frames and fetches that carry out ``outgoing``, and polls to begin.

        Nothing for what the provider has no message for.

        Raises:
            relay.model.symbols.SymbolError: a symbol that cannot be written for this provider.
            ValueError: the provider has no way to say this. Whoever asked is told the text. Any other exception is a
                fault of the adapter, of which only the log has the text.
        """
        return ()

    @abc.abstractmethod
    def decode(self, message: Any) -> Iterable[Event | Signal]:
        """Yield the events and signals of one message: text, or bytes where `Session.frames` says so.

        One that raises becomes one `Unknown`, and nothing of it is used.
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

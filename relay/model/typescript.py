"""Types of the events, channels and commands for TypeScript, with the declarations of the client ``relay/web/tickrelay.js``.

The file ``relay/web/tickrelay.d.ts`` is what `declarations` returns; write it with ``python -m relay.model.typescript``.
"""

import sys
from collections.abc import Iterable, Mapping
from enum import StrEnum
from inspect import cleandoc
from typing import Any

from relay.model import enums
from relay.model.channels import PREFIXES
from relay.model.command_input import MEMBERS
from relay.model.commands import COMMANDS
from relay.model.events import ACCOUNT_KINDS, KINDS, MARKET_KINDS, STATUS_KINDS
from relay.model.serialize import event_schema

_ENUMS: Mapping[tuple[str, ...], str] = {
    tuple(value.value for value in cls): name
    for name, cls in vars(enums).items()
    if isinstance(cls, type) and issubclass(cls, StrEnum) and cls is not StrEnum
}
_PLAIN = {"string": "string", "integer": "number", "boolean": "boolean"}
_MEMBER_TYPES = {"text": "string", "decimal": "Decimal", "time": "Time", "flag": "boolean", "object": "object"}
#: Members that a command has beside its own (`relay.trading`); ``id`` and ``account`` are declared with each.
_OF_EVERY_COMMAND = {"provider": ("string", True), "within": ("Decimal", False), "dry_run": ("boolean", False)}
#: Member of a reply's result -> the body of the event whose words it has, and whether it is a list.
_ANSWERS = {
    "accounts": ("Account", True),
    "positions": ("Position", True),
    "orders": ("Order", True),
    "trades": ("Trade", True),
    "quote": ("Quote", False),
}
#: Kinds that travel on an account's channel besides its own.
_BESIDE_ACCOUNT = ("gap", "staleness", "error")
_BESIDE_MARKET = ("gap", "staleness")

_CLIENT = """
// --- the client ------------------------------------------------------------------------------------------------------

/** Return a symbol as it stands in a channel's name: `BTC/USD` becomes `BTC-USD`. */
export function quoteSymbol(symbol: string): string;

/** The names of channels. `provider` may be `"all"` for market data: the events of all providers of the symbol. */
export const channels: {
MAKERS
  account(provider: string, account: string): `private-account.${string}.${string}`;
  status(provider: string): `status.${string}`;
};

/** Why events of a channel are missing. */
export interface Missed {
  reason: "epoch_changed" | "position_expired" | "position_ahead" | "history_disabled";
  epoch?: string;
  seq?: number;
}

/** A function for each kind of event that the channel carries, and for what can happen to the subscription. */
export type Handlers<Channel extends string> = { [Kind in KindsOf<Channel>]?: (message: Messages[Kind]) => void } & {
  /** The relay has accepted the subscription; again after each reconnect. */
  subscribed?: () => void;
  /** The relay refuses the subscription, or has ended it. */
  refused?: (error: { type?: string; error?: string; status?: number }) => void;
  /** The relay cannot send the events that were missed while the connection was lost. */
  missed?: (missed: Missed) => void;
  /** The connection is lost: what the channel told cannot be relied on now. `since`: when the last message came. */
  lost?: (loss: { reason: string; since?: Time }) => void;
  /** The connection is back, and everything that was missed, or else the channel's state, has come. */
  regained?: () => void;
};

export interface Subscription<Channel extends string = string> {
  readonly channel: Channel;
  /** Remove the handlers. The relay is unsubscribed with the last subscription of the channel. */
  unsubscribe(): void;
}

/** The book of one depth channel. */
export class OrderBook {
  /** Undefined before the first event. */
  symbol: string | undefined;
  /** False before the first snapshot, and after a loss until the next one; the sides are empty then. */
  isValid: boolean;
  /** Why the data cannot be relied on now; undefined while they can. Set as long as the connection to the relay is lost. */
  readonly stale: string | undefined;
  /** Since when they cannot; undefined where that is not known. Without a connection: when the last message came. */
  readonly staleSince: Time | undefined;
  /** Apply the next event of the channel. */
  take(message: DepthMessage | GapMessage | StalenessMessage): void;
  /** Discard the levels until the next snapshot, and what was said of their staleness. */
  forget(): void;
  /** Say that the connection is lost; a loss before the first one's end changes nothing. */
  lose(reason: string, since?: Time): void;
  /** Say that everything that was missed has been received. */
  found(): void;
  /** The bids as price and size, the best first. */
  bids(depth?: number): Level[];
  /** The asks as price and size, the best first. */
  asks(depth?: number): Level[];
}

/** Compare two decimals in text exactly: negative if `a` is less than `b`. */
export function compareDecimals(a: Decimal, b: Decimal): number;

/** The relay refused a request. `field` is the member that is wrong, where one is. */
export class RefusedByRelay extends Error { status: number; code?: string; field?: string }

/** A command was sent and nothing tells what came of it. The same command under `key` is never carried out twice. */
export class OutcomeUnknown extends Error { key: string }

export interface CommandResult<Name extends CommandName> {
  /** Undefined for a dry run. */
  reply?: Omit<ReplyMessage, "result"> & { result?: Results[Name] };
  /** The answer as it came. */
  body: any;
  /** The idempotency key under which the command was sent. */
  key: string;
  /** The reply is that of an earlier command under this name; nothing was sent. */
  replayed: boolean;
}

export interface FoundSymbol {
  provider: string;
  symbol: string;
  native?: string;
  name?: string;
  kinds: MarketKind[];
  /** A channel name by kind; candles are left out. */
  channels: { [Kind in MarketKind]?: string };
  near: boolean;
}

export interface ConnectOptions {
  /** The relay's address, for example `https://relay.example.com`. */
  url: string;
  apiKey: string;
  /** The id or key of an app; without it the app of the API key. */
  app?: string;
  /** So many past events when a channel is joined first: a number, or a function of the channel's name. */
  rewind?: number | ((channel: string) => number);
  /** Further options of pusher-js. */
  pusher?: Record<string, unknown>;
}

/** A connection to a relay; `Client` is the class of pusher-js. */
export class Relay<Client = unknown> {
  /** An unmodified pusher-js client. */
  readonly pusher: Client;
  /** A further subscription of a channel gets what comes from then on, not the state that came to the first one. */
  subscribe<const Channel extends string>(channel: Channel, handlers: Handlers<Channel>): Subscription<Channel>;
  /**
   * Keep the book of a depth channel; `changed` is called after each event, and when the connection is lost or regained.
   * @throws Error: the channel has subscriptions already, so that no snapshot would come. Begin its book first.
   */
  book(channel: `${Prefix}depth.${string}`, changed: (book: OrderBook) => void): Subscription & { book: OrderBook };
  /**
   * Send a command and wait for its reply.
   * @throws RefusedByRelay: the relay refused the command, and nothing was sent to the provider.
   * @throws OutcomeUnknown: no answer tells what came of it.
   */
  command<Name extends CommandName>(
    command: Commands[Name] & { command: Name },
    options?: { key?: string },
  ): Promise<CommandResult<Name>>;
  symbols(query?: string, options?: { provider?: string; kind?: MarketKind; limit?: number; offset?: number }):
    Promise<{ symbols: FoundSymbol[]; total: number; next: number | null }>;
  /** What the providers say of their instruments, with the channel of each. */
  instruments(query?: string, options?: { provider?: string; limit?: number; offset?: number }):
    Promise<{ instruments: (Instrument & { provider: string; channel?: string })[]; total: number; next: number | null }>;
  /** Close the connection. */
  close(): void;
}

/** Ask the relay for its address and app, and connect. `Pusher` is the class of pusher-js. */
export function connect<Client>(
  Pusher: new (key: string, options: any) => Client,
  options: ConnectOptions,
): Promise<Relay<Client>>;
"""


def declarations() -> str:
    """Return the text of ``tickrelay.d.ts``."""
    parts = [
        "// Generated from the relay's event model by `python -m relay.model.typescript`. Do not edit.",
        "/** A decimal number with the provider's own digits. Never read it into a binary number to calculate with it. */\n"
        "export type Decimal = string;",
        "/** RFC 3339 in UTC, with the precision of whoever measured it. */\nexport type Time = string;",
        "/** Price and size. */\nexport type Level = [Decimal, Decimal];",
        *(f"export type {name} = {_union(values)};" for values, name in _ENUMS.items()),
        *(_event(kind) for kind in KINDS),
        _map(
            "Messages", "The JSON of an event by its kind.", {kind: f"{KINDS[kind].__name__}Message" for kind in KINDS}
        ),
        "export type Kind = keyof Messages;",
        "/** The JSON of any event; `type` tells which. */\nexport type Message = Messages[Kind];",
        *_channels(),
        *(_command(name) for name in COMMANDS),
        _map("Commands", "A command by its name.", {name: f"{cls.__name__}Command" for name, cls in COMMANDS.items()}),
        "export type CommandName = keyof Commands;\nexport type Command = Commands[CommandName];",
        _map("Results", "The result of an accepted command by its name.", {name: _result(name) for name in COMMANDS}),
        _CLIENT.strip().replace("MAKERS", "\n".join(_maker(kind) for kind in _ordered(MARKET_KINDS))),
    ]
    return "\n\n".join(parts) + "\n"


def _ordered(kinds: Iterable[str]) -> list[str]:
    return [kind for kind in KINDS if kind in kinds]


def _union(values: Iterable[object]) -> str:
    return " | ".join(f'"{value}"' for value in values)


def _comment(text: str, indent: str = "") -> str:
    lines = cleandoc(text).replace("``", "`").replace("*/", "* /").split("\n")
    if len(lines) == 1:
        return f"{indent}/** {lines[0]} */\n"
    return f"{indent}/**\n" + "".join(f"{indent} * {line}".rstrip() + "\n" for line in lines) + f"{indent} */\n"


def _map(name: str, about: str, members: Mapping[str, str]) -> str:
    return (
        f"{_comment(about)}export interface {name} {{\n" + "".join(f"  {k}: {v};\n" for k, v in members.items()) + "}"
    )


def _type(schema: Mapping[str, Any]) -> str:
    if "const" in schema:
        return f'"{schema["const"]}"'
    if "enum" in schema:
        return _ENUMS[tuple(schema["enum"])]
    match schema.get("type"):
        case None:
            return "unknown"
        case "array" if "maxItems" in schema:
            return "Level"
        case "array":
            return f"{_type(schema['items'])}[]"
        case "string" if "pattern" in schema:
            return "Decimal"
        case "string" if schema.get("format") == "date-time":
            return "Time"
        case plain:
            return _PLAIN[plain]


def _event(kind: str) -> str:
    """Return the interface of a kind's JSON, and that of its body under the name of its class."""
    cls, schema = KINDS[kind], event_schema(kind)
    name, members = cls.__name__, dict(schema["properties"])
    bodies = ""
    if cls.body is not None:
        bodies = _interface(name, cls.__doc__ or "", members[cls.body]) + "\n\n"
    types = {member: name if member == cls.body else _type(each) for member, each in members.items()}
    return bodies + _interface(f"{name}Message", "" if cls.body else cls.__doc__ or "", schema, types)


def _interface(name: str, about: str, schema: Mapping[str, Any], types: Mapping[str, str] | None = None) -> str:
    lines = []
    for member, each in schema["properties"].items():
        mark = "" if member in schema["required"] else "?"
        note = f"  /** {each['description']} */\n" if "description" in each and "pattern" not in each else ""
        lines.append(f"{note}  {member}{mark}: {(types or {}).get(member) or _type(each)};\n")
    return f"{_comment(about) if about else ''}export interface {name} {{\n{''.join(lines)}}}"


def _channels() -> Iterable[str]:
    """Return the types of channel names, and of the kinds that each carries."""
    yield f"export type MarketKind = {_union(_ordered(MARKET_KINDS))};"
    yield f"/** Prefixes a stream may stand behind. */\nexport type Prefix = {_union(('', *PREFIXES))};"
    status, account = _union(_ordered(STATUS_KINDS)), _union((*_ordered(ACCOUNT_KINDS), *_BESIDE_ACCOUNT))
    lines = [
        "/** The kinds of events on a channel, by its name; all kinds where the compiler does not know the name. */",
        "export type KindsOf<Channel extends string> =",
        "  string extends Channel ? Kind :",
        *(
            f"  Channel extends `${{Prefix}}{kind}.${{string}}` ? {_union((kind, *_BESIDE_MARKET))} :"
            for kind in _ordered(MARKET_KINDS)
        ),
        f"  Channel extends `${{Prefix}}account.${{string}}` ? {account} :",
        f"  Channel extends `${{Prefix}}status.${{string}}` ? {status} :",
        "  never;",
    ]
    yield "\n".join(lines)


def _maker(kind: str) -> str:
    timeframe = "timeframe: string, " if kind == "candle" else ""
    name = f"`${{P}}{kind}.${{string}}`"
    return f'  {kind}<P extends Prefix = "">(provider: string, symbol: string, {timeframe}prefix?: P): {name};'


def _command(name: str) -> str:
    cls = COMMANDS[name]
    lines = [f'  command: "{name}";\n']
    lines += [
        f"  {member}{'' if required else '?'}: {type_};\n" for member, (type_, required) in _OF_EVERY_COMMAND.items()
    ]
    for member in MEMBERS[name]:
        required = member.required and member.name != "id"  # the relay makes an id where there is none
        type_ = _ENUMS[member.values] if member.values else _MEMBER_TYPES[member.type]
        lines.append(f"  {member.name}{'' if required else '?'}: {type_};\n")
    return f"{_comment(cls.__doc__ or '')}export interface {cls.__name__}Command {{\n{''.join(lines)}}}"


def _result(name: str) -> str:
    answer = COMMANDS[name].answer
    if answer is None:
        return "{ order_id?: string; [member: string]: unknown }"
    body, many = _ANSWERS[answer]
    element = f"{body} & {{ account?: string; parent_order_id?: string }}" if many and body != "Account" else body
    return f"{{ {answer}?: {f'({element})[]' if many else element}; data?: unknown; not_understood?: number }}"


if __name__ == "__main__":
    sys.stdout.write(declarations())

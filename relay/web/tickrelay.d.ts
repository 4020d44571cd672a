// Generated from the relay's event model by `python -m relay.model.typescript`. Do not edit.

/** A decimal number with the provider's own digits. Never read it into a binary number to calculate with it. */
export type Decimal = string;

/** RFC 3339 in UTC, with the precision of whoever measured it. */
export type Time = string;

/** Price and size. */
export type Level = [Decimal, Decimal];

export type Side = "BUY" | "SELL";

export type PositionSide = "LONG" | "SHORT";

export type OrderType = "MARKET" | "LIMIT" | "STOP" | "STOP_LIMIT" | "TRAILING_STOP";

export type TrailingType = "ABSOLUTE" | "PERCENT";

export type PositionIntent = "OPEN" | "CLOSE";

export type OrderStatus = "PENDING" | "PENDING_CANCEL" | "OPEN" | "PARTIALLY_FILLED" | "FILLED" | "CANCELLED" | "REJECTED" | "EXPIRED" | "REPLACED";

export type TimeInForce = "GTC" | "DAY" | "IOC" | "FOK" | "GTD" | "OPG" | "CLS";

export type OrderEvent = "ORDER_CREATED" | "ORDER_MODIFIED" | "ORDER_CANCELLED" | "ORDER_REJECTED" | "ORDER_FILLED" | "ORDER_PARTIALLY_FILLED" | "ORDER_EXPIRED" | "ORDER_REPLACED" | "ORDER_CANCEL_REJECTED" | "ORDER_MODIFY_REJECTED" | "BRACKET_ORDER_CREATED" | "BRACKET_ORDER_MODIFIED";

export type PositionEvent = "POSITION_OPENED" | "POSITION_MODIFIED" | "POSITION_CLOSED";

export type TradeEvent = "TRADE_FILLED" | "TRADE_CORRECTED" | "TRADE_BUSTED";

export type AccountEvent = "BALANCE_UPDATED" | "METRICS_UPDATED" | "MARGIN_WARNING" | "MARGIN_CALL" | "MARGIN_CALL_ENDED";

export type ConnectionEvent = "CONNECTED" | "DISCONNECTING" | "RECONNECTING" | "FAILED";

export type RateLimitEvent = "RATE_LIMIT_WARNING" | "RATE_LIMIT_HIT";

export type StalenessEvent = "STALE" | "FRESH";

export type TradingStatus = "TRADING" | "POST_ONLY" | "LIMIT_ONLY" | "REDUCE_ONLY" | "CANCEL_ONLY" | "AUCTION" | "HALTED" | "CLOSED";

export type Refill = "snapshot" | "replay" | "none";

export type ErrorCode = "insufficient_margin" | "unknown_order" | "unknown_position" | "unknown_symbol" | "unknown_account" | "order_not_open" | "market_closed" | "not_tradable" | "invalid_price" | "invalid_quantity" | "invalid_request" | "post_only_violated" | "reduce_only_violated" | "rate_limited" | "not_permitted" | "unsupported" | "provider_unavailable" | "rejected";

export type Outcome = "accepted" | "rejected" | "unknown";

/**
 * Best bid and ask. An absent side means the provider showed none. Sizes and volume are in base units.
 *
 * `time` is the quote's own time where the provider gives one; `timestamp` is the same unless it gives two.
 */
export interface Quote {
  symbol: string;
  native_symbol?: string;
  bid?: Decimal;
  ask?: Decimal;
  bid_size?: Decimal;
  ask_size?: Decimal;
  last?: Decimal;
  volume?: Decimal;
  data?: unknown;
  timestamp?: Time;
  provider: string;
}

export interface QuoteMessage {
  type: "quote";
  timestamp?: Time;
  quote: Quote;
  /** Configured name of the provider. */
  provider: string;
  /** Configured name of the account. */
  account?: string;
  /** Id of the event, unique in one run of the relay. */
  id: string;
  /** When the relay read it from its socket. */
  received_at: Time;
  /** Number of the event on its channel. */
  seq?: number;
}

/** One OHLCV bar. `start` is when the bar begins; `closed` says whether it can still change. */
export interface Candle {
  symbol: string;
  native_symbol?: string;
  timeframe: string;
  timestamp: Time;
  open: Decimal;
  high: Decimal;
  low: Decimal;
  close: Decimal;
  volume: Decimal;
  closed?: boolean;
  data?: unknown;
  provider: string;
}

export interface CandleMessage {
  type: "candle";
  timestamp?: Time;
  bar: Candle;
  /** Configured name of the provider. */
  provider: string;
  /** Configured name of the account. */
  account?: string;
  /** Id of the event, unique in one run of the relay. */
  id: string;
  /** When the relay read it from its socket. */
  received_at: Time;
  /** Number of the event on its channel. */
  seq?: number;
}

/**
 * Order book levels as (price, absolute size); size zero removes the level.
 *
 * A snapshot replaces the book, a delta changes it. `first_seq`/`last_seq` are the provider's sequence numbers the
 * message covers; `checksum` the provider's own, in its own algorithm, over the book after this message.
 */
export interface Depth {
  symbol: string;
  native_symbol?: string;
  bids: Level[];
  asks: Level[];
  snapshot: boolean;
  first_seq?: number;
  last_seq?: number;
  checksum?: string;
}

export interface DepthMessage {
  type: "depth";
  timestamp?: Time;
  depth: Depth;
  /** Configured name of the provider. */
  provider: string;
  /** Configured name of the account. */
  account?: string;
  /** Id of the event, unique in one run of the relay. */
  id: string;
  /** When the relay read it from its socket. */
  received_at: Time;
  /** Number of the event on its channel. */
  seq?: number;
}

/** A print on the market, anybody's. `side` is the taker's. */
export interface PublicTrade {
  symbol: string;
  native_symbol?: string;
  id?: string;
  price: Decimal;
  quantity: Decimal;
  side?: Side;
  data?: unknown;
  timestamp?: Time;
}

export interface PublicTradeMessage {
  type: "public_trade";
  timestamp?: Time;
  public_trade: PublicTrade;
  /** Configured name of the provider. */
  provider: string;
  /** Configured name of the account. */
  account?: string;
  /** Id of the event, unique in one run of the relay. */
  id: string;
  /** When the relay read it from its socket. */
  received_at: Time;
  /** Number of the event on its channel. */
  seq?: number;
}

/**
 * A provider's own feed that has no market meaning of its own; its payload is kept whole.
 *
 * `symbol` is what the feed is about (a token, a feed id, the feed's own name). `name` is the provider's name of it.
 */
export interface ProviderSignal {
  symbol: string;
  native_symbol?: string;
  name: string;
  data?: unknown;
}

export interface ProviderSignalMessage {
  type: "signal";
  timestamp?: Time;
  signal: ProviderSignal;
  /** Configured name of the provider. */
  provider: string;
  /** Configured name of the account. */
  account?: string;
  /** Id of the event, unique in one run of the relay. */
  id: string;
  /** When the relay read it from its socket. */
  received_at: Time;
  /** Number of the event on its channel. */
  seq?: number;
}

/** A slow fact about a symbol: pool info, supply, holders, funding, mark or index price; payload kept whole. */
export interface Reference {
  symbol: string;
  native_symbol?: string;
  name: string;
  data?: unknown;
}

export interface ReferenceMessage {
  type: "reference";
  timestamp?: Time;
  reference: Reference;
  /** Configured name of the provider. */
  provider: string;
  /** Configured name of the account. */
  account?: string;
  /** Id of the event, unique in one run of the relay. */
  id: string;
  /** When the relay read it from its socket. */
  received_at: Time;
  /** Number of the event on its channel. */
  seq?: number;
}

/**
 * The terms on which a provider trades a symbol, from its own metadata; a member that it does not say is absent.
 *
 * Prices are multiples of `tick_size`, quantities multiples of `quantity_step`, in the unit of the provider's orders.
 * `minimum_notional` is the least value of an order, price times quantity, in `quote`. `contract_size` is the size of
 * one contract. `currency` is that of settlement, or of a price where there is no `quote`.
 *
 * `instrument_type` is the provider's own word, for example `spot` or `us_equity`. `aliases` are its other names of
 * the symbol, by which nothing can be subscribed. `data` has what is short of the rest, not its lists.
 */
export interface Instrument {
  symbol: string;
  native_symbol?: string;
  name?: string;
  instrument_type?: string;
  base?: string;
  quote?: string;
  currency?: string;
  tick_size?: Decimal;
  quantity_step?: Decimal;
  minimum_quantity?: Decimal;
  maximum_quantity?: Decimal;
  minimum_notional?: Decimal;
  contract_size?: Decimal;
  expires_at?: Time;
  status?: TradingStatus;
  aliases?: string[];
  data?: unknown;
}

export interface InstrumentMessage {
  type: "instrument";
  timestamp?: Time;
  instrument: Instrument;
  /** Configured name of the provider. */
  provider: string;
  /** Configured name of the account. */
  account?: string;
  /** Id of the event, unique in one run of the relay. */
  id: string;
  /** When the relay read it from its socket. */
  received_at: Time;
  /** Number of the event on its channel. */
  seq?: number;
}

/**
 * A fill of OUR order. It is published once: account, symbol, order, side and id together name it.
 *
 * A provider may take a fill back (TRADE_BUSTED), or put another one in its place (TRADE_CORRECTED): `corrects` is the
 * id of that fill, and the rest is what was taken back, or what is right.
 */
export interface Trade {
  id: string;
  order_id: string;
  symbol: string;
  native_symbol?: string;
  side: Side;
  quantity: Decimal;
  quantity_unit?: string;
  price: Decimal;
  commission?: Decimal;
  commission_currency?: string;
  is_maker?: boolean;
  corrects?: string;
  data?: unknown;
  timestamp?: Time;
}

export interface TradeMessage {
  type: "trade";
  /** Configured name of the account. */
  account?: string;
  reconciled?: boolean;
  event: TradeEvent;
  timestamp?: Time;
  trade: Trade;
  /** Configured name of the provider. */
  provider: string;
  /** Id of the event, unique in one run of the relay. */
  id: string;
  /** When the relay read it from its socket. */
  received_at: Time;
  /** Number of the event on its channel. */
  seq?: number;
}

/**
 * The change of an order (`event`) and its state now (`status` and the rest): two facts.
 *
 * `id` is the provider's, `client_order_id` the sender's. Quantities are in the provider's unit. `quantity_unit` says
 * which one that is where the provider does, for example `contracts`; so it is with `Position` and `Trade`.
 *
 * An adapter gives `event` None where the provider says only what the order is: the relay then finds out what happened
 * (`relay.provider.accounts`). A published event always has it; so it is with `Position` and `Account`.
 *
 * `replaced_by` is the id of the order that took its place, where an amended order gets a new id, and `replaces` the id
 * of the one whose place it took.
 *
 * `vanished`: the provider's complete list of open orders no longer has it. It ended unseen, nobody said how:
 * `status` and the rest are what was last known.
 */
export interface Order {
  id: string;
  client_order_id?: string;
  symbol: string;
  native_symbol?: string;
  side: Side;
  order_type?: OrderType;
  quantity?: Decimal;
  quantity_unit?: string;
  notional?: Decimal;
  filled_quantity?: Decimal;
  remaining_quantity?: Decimal;
  status: OrderStatus;
  time_in_force?: TimeInForce;
  limit_price?: Decimal;
  stop_price?: Decimal;
  stop_loss?: Decimal;
  take_profit?: Decimal;
  trailing_distance?: Decimal;
  trailing_type?: string;
  average_fill_price?: Decimal;
  reject_reason?: string;
  position_id?: string;
  replaces?: string;
  replaced_by?: string;
  reduce_only?: boolean;
  post_only?: boolean;
  extended_hours?: boolean;
  position_intent?: PositionIntent;
  hidden?: boolean;
  display_quantity?: Decimal;
  oco_group_id?: string;
  correlation_id?: string;
  created_at?: Time;
  updated_at?: Time;
  data?: unknown;
}

export interface OrderMessage {
  type: "order";
  timestamp?: Time;
  /** Configured name of the account. */
  account?: string;
  reconciled?: boolean;
  event: OrderEvent;
  parent_order_id?: string;
  vanished?: boolean;
  order: Order;
  /** Configured name of the provider. */
  provider: string;
  /** Id of the event, unique in one run of the relay. */
  id: string;
  /** When the relay read it from its socket. */
  received_at: Time;
  /** Number of the event on its channel. */
  seq?: number;
}

/** State of one position and what happened to it. `stop_loss` and `take_profit` are prices that close it. */
export interface Position {
  id: string;
  symbol: string;
  native_symbol?: string;
  side?: PositionSide;
  quantity: Decimal;
  quantity_unit?: string;
  average_entry_price?: Decimal;
  current_price?: Decimal;
  unrealized_pnl?: Decimal;
  realized_pnl?: Decimal;
  margin_mode?: string;
  leverage?: Decimal;
  liquidation_price?: Decimal;
  stop_loss?: Decimal;
  take_profit?: Decimal;
  opened_at?: Time;
  updated_at?: Time;
  data?: unknown;
}

export interface PositionMessage {
  type: "position";
  timestamp?: Time;
  /** Configured name of the account. */
  account?: string;
  reconciled?: boolean;
  event: PositionEvent;
  position: Position;
  /** Configured name of the provider. */
  provider: string;
  /** Id of the event, unique in one run of the relay. */
  id: string;
  /** When the relay read it from its socket. */
  received_at: Time;
  /** Number of the event on its channel. */
  seq?: number;
}

/**
 * Money of one account, in its own currency. The account's id is `id` inside the body.
 *
 * `margin_call`: whether the account is in a margin call, or beyond it; absent where the provider does not say.
 */
export interface Account {
  id?: string;
  balance?: Decimal;
  equity?: Decimal;
  margin_used?: Decimal;
  margin_available?: Decimal;
  unrealized_pnl?: Decimal;
  realized_pnl?: Decimal;
  currency?: string;
  margin_call?: boolean;
  data?: unknown;
}

export interface AccountMessage {
  type: "account";
  timestamp?: Time;
  reconciled?: boolean;
  event: AccountEvent;
  account: Account;
  /** Configured name of the provider. */
  provider: string;
  /** Id of the event, unique in one run of the relay. */
  id: string;
  /** When the relay read it from its socket. */
  received_at: Time;
  /** Number of the event on its channel. */
  seq?: number;
}

/** A message of the provider to the account's owner. `level` is the provider's own word or number. */
export interface Notification {
  id?: string;
  level?: string;
  title?: string;
  message: string;
  data?: unknown;
}

export interface NotificationMessage {
  type: "notification";
  timestamp?: Time;
  /** Configured name of the account. */
  account?: string;
  reconciled?: boolean;
  notification: Notification;
  /** Configured name of the provider. */
  provider: string;
  /** Id of the event, unique in one run of the relay. */
  id: string;
  /** When the relay read it from its socket. */
  received_at: Time;
  /** Number of the event on its channel. */
  seq?: number;
}

/** A price alert the owner had set. */
export interface Alert {
  id: string;
  symbol: string;
  native_symbol?: string;
  condition: string;
  target_price?: Decimal;
  triggered_price?: Decimal;
  status: string;
  data?: unknown;
}

export interface AlertMessage {
  type: "alert";
  timestamp?: Time;
  /** Configured name of the account. */
  account?: string;
  reconciled?: boolean;
  alert: Alert;
  /** Configured name of the provider. */
  provider: string;
  /** Id of the event, unique in one run of the relay. */
  id: string;
  /** When the relay read it from its socket. */
  received_at: Time;
  /** Number of the event on its channel. */
  seq?: number;
}

/** The one answer to a command. `id` is the command's; `ok` is True only for ACCEPTED. */
export interface ReplyMessage {
  type: "reply";
  timestamp?: Time;
  /** Configured name of the account. */
  account?: string;
  reconciled?: boolean;
  command_id: string;
  ok: boolean;
  outcome: Outcome;
  result?: unknown;
  error?: unknown;
  /** Configured name of the provider. */
  provider: string;
  /** Id of the event, unique in one run of the relay. */
  id: string;
  /** When the relay read it from its socket. */
  received_at: Time;
  /** Number of the event on its channel. */
  seq?: number;
}

/**
 * State of a session with a provider. `gap_ms` is how long nothing could have been received.
 *
 * `upstream` is true where the provider tells of a connection of its own, as a gateway does of its broker's. `socket`
 * is the name of the provider's socket that this is about, where it has several and it is not the account's.
 */
export interface ConnectionMessage {
  type: "connection";
  timestamp?: Time;
  event: ConnectionEvent;
  reason?: string;
  error?: string;
  gap_ms?: number;
  upstream?: boolean;
  socket?: string;
  /** Configured name of the provider. */
  provider: string;
  /** Configured name of the account. */
  account?: string;
  /** Id of the event, unique in one run of the relay. */
  id: string;
  /** When the relay read it from its socket. */
  received_at: Time;
  /** Number of the event on its channel. */
  seq?: number;
}

/** A provider's request budget is nearly or wholly used. */
export interface RateLimitMessage {
  type: "rate_limit";
  timestamp?: Time;
  event: RateLimitEvent;
  requests_remaining?: number;
  reset_at?: Time;
  /** Configured name of the provider. */
  provider: string;
  /** Configured name of the account. */
  account?: string;
  /** Id of the event, unique in one run of the relay. */
  id: string;
  /** When the relay read it from its socket. */
  received_at: Time;
  /** Number of the event on its channel. */
  seq?: number;
}

/**
 * Data of the named symbols cannot be relied on (STALE) or can again (FRESH). Without symbols: of all of this kind.
 *
 * `of` and `timeframe` say which streams. `reason` is there when the provider refused them or tells of its own
 * sources, when no data have come since the subscription, and when the relay has no session with it: `session` is true
 * then, and FRESH comes with the first event behind the gap. `refused` is true when the provider does not serve them.
 */
export interface StalenessMessage {
  type: "staleness";
  timestamp?: Time;
  event: StalenessEvent;
  symbols: string[];
  of?: string;
  timeframe?: string;
  reason?: string;
  stale_since?: Time;
  session?: boolean;
  refused?: boolean;
  /** Configured name of the provider. */
  provider: string;
  /** Configured name of the account. */
  account?: string;
  /** Id of the event, unique in one run of the relay. */
  id: string;
  /** When the relay read it from its socket. */
  received_at: Time;
  /** Number of the event on its channel. */
  seq?: number;
}

/**
 * Something is missing on the channel this arrives on, here, in order.
 *
 * `from`/`to` bound the missing sequence numbers where they are known; `since`/`until` the missing time.
 * `of` and `symbol` say which stream. `refill` says what follows.
 */
export interface GapMessage {
  type: "gap";
  timestamp?: Time;
  of?: string;
  symbol?: string;
  timeframe?: string;
  from?: number;
  to?: number;
  since?: Time;
  until?: Time;
  refill: Refill;
  reason: string;
  /** Configured name of the provider. */
  provider: string;
  /** Configured name of the account. */
  account?: string;
  /** Id of the event, unique in one run of the relay. */
  id: string;
  /** When the relay read it from its socket. */
  received_at: Time;
  /** Number of the event on its channel. */
  seq?: number;
}

/**
 * The provider refused or failed something, or the relay noticed that it did.
 *
 * `account`: the account it is about. Only that account's channel has it then; the status says that
 * there was one (code `account_error`).
 */
export interface ErrorMessage {
  type: "error";
  timestamp?: Time;
  /** Configured name of the account. */
  account?: string;
  code: string;
  message: string;
  details?: unknown;
  /** Configured name of the provider. */
  provider: string;
  /** Id of the event, unique in one run of the relay. */
  id: string;
  /** When the relay read it from its socket. */
  received_at: Time;
  /** Number of the event on its channel. */
  seq?: number;
}

/** The JSON of an event by its kind. */
export interface Messages {
  quote: QuoteMessage;
  candle: CandleMessage;
  depth: DepthMessage;
  public_trade: PublicTradeMessage;
  signal: ProviderSignalMessage;
  reference: ReferenceMessage;
  instrument: InstrumentMessage;
  trade: TradeMessage;
  order: OrderMessage;
  position: PositionMessage;
  account: AccountMessage;
  notification: NotificationMessage;
  alert: AlertMessage;
  reply: ReplyMessage;
  connection: ConnectionMessage;
  rate_limit: RateLimitMessage;
  staleness: StalenessMessage;
  gap: GapMessage;
  error: ErrorMessage;
}

export type Kind = keyof Messages;

/** The JSON of any event; `type` tells which. */
export type Message = Messages[Kind];

export type MarketKind = "quote" | "candle" | "depth" | "public_trade" | "signal" | "reference" | "instrument";

/** Prefixes a stream may stand behind. */
export type Prefix = "" | "private-cache-" | "presence-cache-" | "private-" | "presence-" | "cache-";

/** The kinds of events on a channel, by its name; all kinds where the compiler does not know the name. */
export type KindsOf<Channel extends string> =
  string extends Channel ? Kind :
  Channel extends `${Prefix}quote.${string}` ? "quote" | "gap" | "staleness" :
  Channel extends `${Prefix}candle.${string}` ? "candle" | "gap" | "staleness" :
  Channel extends `${Prefix}depth.${string}` ? "depth" | "gap" | "staleness" :
  Channel extends `${Prefix}public_trade.${string}` ? "public_trade" | "gap" | "staleness" :
  Channel extends `${Prefix}signal.${string}` ? "signal" | "gap" | "staleness" :
  Channel extends `${Prefix}reference.${string}` ? "reference" | "gap" | "staleness" :
  Channel extends `${Prefix}instrument.${string}` ? "instrument" | "gap" | "staleness" :
  Channel extends `${Prefix}account.${string}` ? "trade" | "order" | "position" | "account" | "notification" | "alert" | "reply" | "gap" | "staleness" | "error" :
  Channel extends `${Prefix}status.${string}` ? "connection" | "rate_limit" | "staleness" | "gap" | "error" :
  never;

/**
 * Place one order. `client_order_id` makes it idempotent; prices are required as the order type requires them.
 *
 * It has either a `quantity` or a `notional`, an amount of money for which as much is bought or sold as that gives.
 */
export interface PlaceOrderCommand {
  command: "place_order";
  provider: string;
  within?: Decimal;
  dry_run?: boolean;
  id?: string;
  account?: string;
  symbol: string;
  side: Side;
  order_type: OrderType;
  quantity?: Decimal;
  notional?: Decimal;
  time_in_force?: TimeInForce;
  limit_price?: Decimal;
  stop_price?: Decimal;
  stop_loss?: Decimal;
  take_profit?: Decimal;
  trailing_distance?: Decimal;
  trailing_type?: TrailingType;
  good_till?: Time;
  client_order_id?: string;
  reduce_only?: boolean;
  post_only?: boolean;
  extended_hours?: boolean;
  position_intent?: PositionIntent;
  extra?: object;
}

/** Cancel an open order. */
export interface CancelOrderCommand {
  command: "cancel_order";
  provider: string;
  within?: Decimal;
  dry_run?: boolean;
  id?: string;
  account?: string;
  order_id: string;
  symbol?: string;
}

/** Change an order; a member that is absent stays as it is. */
export interface AmendOrderCommand {
  command: "amend_order";
  provider: string;
  within?: Decimal;
  dry_run?: boolean;
  id?: string;
  account?: string;
  order_id: string;
  symbol?: string;
  quantity?: Decimal;
  limit_price?: Decimal;
  stop_price?: Decimal;
  stop_loss?: Decimal;
  take_profit?: Decimal;
  trailing_distance?: Decimal;
  time_in_force?: TimeInForce;
  good_till?: Time;
}

/** Close a position; the whole of it where `quantity` is absent. */
export interface ClosePositionCommand {
  command: "close_position";
  provider: string;
  within?: Decimal;
  dry_run?: boolean;
  id?: string;
  account?: string;
  position_id: string;
  symbol?: string;
  quantity?: Decimal;
}

/** Change the stop loss or take profit of a position; a member that is absent stays as it is. */
export interface AmendPositionCommand {
  command: "amend_position";
  provider: string;
  within?: Decimal;
  dry_run?: boolean;
  id?: string;
  account?: string;
  position_id: string;
  symbol?: string;
  stop_loss?: Decimal;
  take_profit?: Decimal;
}

/** Past orders, those of a time or a symbol where given. */
export interface OrderHistoryCommand {
  command: "order_history";
  provider: string;
  within?: Decimal;
  dry_run?: boolean;
  id?: string;
  account?: string;
  since?: Time;
  until?: Time;
  symbol?: string;
}

/** Closed positions, those of a time or a symbol where given. */
export interface PositionHistoryCommand {
  command: "position_history";
  provider: string;
  within?: Decimal;
  dry_run?: boolean;
  id?: string;
  account?: string;
  since?: Time;
  until?: Time;
  symbol?: string;
}

/** Past fills, those of a time or a symbol where given. */
export interface TradeHistoryCommand {
  command: "trade_history";
  provider: string;
  within?: Decimal;
  dry_run?: boolean;
  id?: string;
  account?: string;
  since?: Time;
  until?: Time;
  symbol?: string;
}

/** The accounts the session reaches. */
export interface ListAccountsCommand {
  command: "list_accounts";
  provider: string;
  within?: Decimal;
  dry_run?: boolean;
  id?: string;
  account?: string;
}

/** The open positions. */
export interface ListPositionsCommand {
  command: "list_positions";
  provider: string;
  within?: Decimal;
  dry_run?: boolean;
  id?: string;
  account?: string;
}

/** The open orders. */
export interface ListOrdersCommand {
  command: "list_orders";
  provider: string;
  within?: Decimal;
  dry_run?: boolean;
  id?: string;
  account?: string;
}

/** The present quote of a symbol. */
export interface GetQuoteCommand {
  command: "get_quote";
  provider: string;
  within?: Decimal;
  dry_run?: boolean;
  id?: string;
  account?: string;
  symbol: string;
}

/**
 * A function of the provider's own, by the provider's name of it.
 *
 * Numbers with a point in `arguments` (and in `PlaceOrder.extra`) that came as JSON are `msgspec.Raw`, so that they leave
 * with the sender's digits.
 */
export interface CallCommand {
  command: "call";
  provider: string;
  within?: Decimal;
  dry_run?: boolean;
  id?: string;
  account?: string;
  function: string;
  arguments?: object;
}

/** A command by its name. */
export interface Commands {
  place_order: PlaceOrderCommand;
  cancel_order: CancelOrderCommand;
  amend_order: AmendOrderCommand;
  close_position: ClosePositionCommand;
  amend_position: AmendPositionCommand;
  order_history: OrderHistoryCommand;
  position_history: PositionHistoryCommand;
  trade_history: TradeHistoryCommand;
  list_accounts: ListAccountsCommand;
  list_positions: ListPositionsCommand;
  list_orders: ListOrdersCommand;
  get_quote: GetQuoteCommand;
  call: CallCommand;
}

export type CommandName = keyof Commands;
export type Command = Commands[CommandName];

/** The result of an accepted command by its name. */
export interface Results {
  place_order: { order_id?: string; [member: string]: unknown };
  cancel_order: { order_id?: string; [member: string]: unknown };
  amend_order: { order_id?: string; [member: string]: unknown };
  close_position: { order_id?: string; [member: string]: unknown };
  amend_position: { order_id?: string; [member: string]: unknown };
  order_history: { orders?: (Order & { account?: string; parent_order_id?: string })[]; data?: unknown; not_understood?: number };
  position_history: { positions?: (Position & { account?: string; parent_order_id?: string })[]; data?: unknown; not_understood?: number };
  trade_history: { trades?: (Trade & { account?: string; parent_order_id?: string })[]; data?: unknown; not_understood?: number };
  list_accounts: { accounts?: (Account)[]; data?: unknown; not_understood?: number };
  list_positions: { positions?: (Position & { account?: string; parent_order_id?: string })[]; data?: unknown; not_understood?: number };
  list_orders: { orders?: (Order & { account?: string; parent_order_id?: string })[]; data?: unknown; not_understood?: number };
  get_quote: { quote?: Quote; data?: unknown; not_understood?: number };
  call: { order_id?: string; [member: string]: unknown };
}

// --- the client ------------------------------------------------------------------------------------------------------

/** Return a symbol as it stands in a channel's name: `BTC/USD` becomes `BTC-USD`. */
export function quoteSymbol(symbol: string): string;

/** The names of channels. `provider` may be `"all"` for market data: the events of all providers of the symbol. */
export const channels: {
  quote<P extends Prefix = "">(provider: string, symbol: string, prefix?: P): `${P}quote.${string}`;
  candle<P extends Prefix = "">(provider: string, symbol: string, timeframe: string, prefix?: P): `${P}candle.${string}`;
  depth<P extends Prefix = "">(provider: string, symbol: string, prefix?: P): `${P}depth.${string}`;
  public_trade<P extends Prefix = "">(provider: string, symbol: string, prefix?: P): `${P}public_trade.${string}`;
  signal<P extends Prefix = "">(provider: string, symbol: string, prefix?: P): `${P}signal.${string}`;
  reference<P extends Prefix = "">(provider: string, symbol: string, prefix?: P): `${P}reference.${string}`;
  instrument<P extends Prefix = "">(provider: string, symbol: string, prefix?: P): `${P}instrument.${string}`;
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

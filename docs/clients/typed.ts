// Quotes, a book, an account and an order of a running relay (`tickrelay demo`), typed.
// Put tickrelay.js, tickrelay.d.ts and resume.js of the relay beside it.
import Pusher from "pusher-js";
import { channels, connect, OutcomeUnknown, RefusedByRelay } from "./tickrelay.js";

const url = (globalThis as any).process?.env.TICKRELAY_URL ?? "http://127.0.0.1:6001";
const apiKey = (globalThis as any).process?.env.TICKRELAY_API_KEY ?? "demo-api-key";
const relay = await connect(Pusher, { url, apiKey });

const quote = channels.quote("synthetic", "BTC/USD", "cache-");
await new Promise<void>((enough) => {
  const quotes = relay.subscribe(quote, {
    quote: ({ quote, seq }) => {
      console.log("quote", seq, quote.symbol, quote.bid, quote.ask);
      quotes.unsubscribe();
      enough();
    },
    staleness: ({ event, reason }) => console.log("staleness", event, reason),
    refused: ({ error }) => console.error("refused", error),
    missed: ({ reason }) => console.warn("events are missing:", reason),
  });
});

await new Promise<void>((enough) => {
  const depth = relay.book(channels.depth("synthetic", "BTC/USD"), (book) => {
    if (!book.isValid || book.stale) return;
    console.log("best", book.bids(1), book.asks(1));
    depth.unsubscribe();
    enough();
  });
});

const order = await new Promise<string>((found, failed) => {
  relay.subscribe(channels.account("helio", "main"), {
    order: ({ event, order }) => {
      console.log("order", event, order.status, order.limit_price);
      if (order.client_order_id === "typed-1") found(order.id);
    },
    subscribed: () =>
      relay
        .command({
          command: "place_order", provider: "helio", account: "main", client_order_id: "typed-1",
          symbol: "EUR/USD", side: "BUY", order_type: "LIMIT", quantity: "1000", limit_price: "0.5",
        })
        .then(({ reply }) => console.log("reply", reply?.outcome), failed),
  });
});

try {
  const { reply } = await relay.command({ command: "cancel_order", provider: "helio", account: "main", order_id: order });
  console.log("cancelled", reply?.outcome);
  await relay.command({ command: "cancel_order", provider: "nobody", order_id: order });
} catch (error) {
  if (error instanceof OutcomeUnknown) console.log("the order may be live; repeat the command under", error.key);
  else if (error instanceof RefusedByRelay) console.log("refused", error.status, error.field, error.message);
  else throw error;
}
relay.close();

// Prints the quotes of one channel of a relay. npm install pusher-js && node quotes.mjs
import Pusher from "pusher-js";

const { RELAY_HOST = "127.0.0.1", RELAY_PORT = "6001", RELAY_KEY = "web", RELAY_CHANNEL = "quote.binance.BTC-USDT" } = process.env;

const pusher = new Pusher(RELAY_KEY, { cluster: "", wsHost: RELAY_HOST, wsPort: RELAY_PORT, forceTLS: false, enabledTransports: ["ws"] });
pusher.connection.bind("error", (error) => console.error(error));
pusher.subscribe(RELAY_CHANNEL).bind("quote", ({ quote }) => console.log(quote.symbol, quote.bid, quote.ask));

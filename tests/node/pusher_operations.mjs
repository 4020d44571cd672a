// What a test asks of a pusher-js client, in Node.js and in a page. Commands are objects, and so is every report.
//
// in:  {"op": "connect", "key", "options", "resume"?} {"op": "subscribe", "channel"} {"op": "unsubscribe", "channel"}
//      {"op": "trigger", "channel", "event", "data"} {"op": "signin"} {"op": "members", "channel"} {"op": "books"}
//      {"op": "send", "text"} {"op": "disconnect"} {"op": "reconnect"}
// out: {"on": "state", "current", "socket_id"?} {"on": "event", "channel", "event", "data"} {"on": "error", "error"}
//      {"on": "sender", "channel", "user_id"?} of a client event, which pusher-js tells only where the event is bound by its name
//      {"on": "user", "event", "data"} {"on": "watchlist", ...} {"on": "members", ...} {"on": "books", ...}
//      {"on": "heartbeat", "event"} {"on": "resume_failed", "channel", "reason", "epoch"?, "seq"?}

export function pusherOperations(Pusher, tickrelayResume, report) {
  const books = {};
  let pusher;

  function rebuild(data) {
    const { symbol, bids, asks, snapshot } = data.depth;
    const key = `${data.provider} ${symbol}`;
    if (snapshot || !(key in books)) {
      if (!snapshot) report({ on: "error", error: `delta before a snapshot of ${key}` });
      books[key] = { bids: new Map(), asks: new Map() };
    }
    for (const [side, levels] of [["bids", bids], ["asks", asks]]) {
      for (const [price, size] of levels) {
        const level = Number(price);
        if (Number(size) === 0) books[key][side].delete(level);
        else books[key][side].set(level, [price, size]);
      }
    }
  }

  const sorted = (levels, order) => [...levels.entries()].sort((a, b) => order * (a[0] - b[0])).map(([, level]) => level);

  const operations = {
    connect({ key, options, resume }) {
      pusher = new Pusher(key, { cluster: "", forceTLS: false, disableStats: true, enabledTransports: ["ws"], ...options });
      if (resume) tickrelayResume(pusher, { rewind: resume.rewind, failed: (channel, why) => report({ on: "resume_failed", channel, ...why }) });
      pusher.connection.bind("state_change", ({ current }) => report({ on: "state", current, socket_id: pusher.connection.socket_id }));
      pusher.connection.bind("error", (error) => report({ on: "error", error }));
      pusher.connection.bind("message", ({ event }) => {
        if (event === "pusher:ping" || event === "pusher:pong") report({ on: "heartbeat", event });
      });
      pusher.user.bind_global((event, data) => report({ on: "user", event, data }));
      pusher.user.watchlist.bind_global((event, data) => report({ on: "watchlist", event, data }));
    },
    subscribe({ channel }) {
      const subscribed = pusher.subscribe(channel);
      subscribed.bind("client-typing", (data, { user_id }) => report({ on: "sender", channel, user_id }));
      subscribed.bind_global((event, data) => {
        if (event === "depth" && data?.depth) rebuild(data);
        report({ on: "event", channel, event, data });
      });
    },
    unsubscribe: ({ channel }) => pusher.unsubscribe(channel),
    trigger: ({ channel, event, data }) => report({ on: "triggered", sent: pusher.channel(channel).trigger(event, data) }),
    signin() {
      pusher.signin();
      pusher.user.signinDonePromise.then(() => report({ on: "signin", user: pusher.user.user_data }));
    },
    members({ channel }) {
      const members = {};
      pusher.channel(channel).members.each(({ id, info }) => { members[id] = info; });
      report({ on: "members", channel, members, me: pusher.channel(channel).members.me, count: pusher.channel(channel).members.count });
    },
    books: () => report({
      on: "books",
      books: Object.fromEntries(Object.entries(books).map(([key, { bids, asks }]) => [key, { bids: sorted(bids, -1), asks: sorted(asks, 1) }])),
    }),
    send: ({ text }) => pusher.connection.connection.transport.send(text),
    disconnect: () => pusher.disconnect(),
    reconnect: () => pusher.connect(),
  };

  return (command) => {
    try {
      operations[command.op](command);
    } catch (error) {
      report({ on: "error", error: String(error) });
    }
  };
}

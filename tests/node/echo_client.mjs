// A real laravel-echo over pusher-js, driven by lines of JSON on stdin, reporting lines of JSON on stdout as pusher_client.mjs does.
// It uses nothing but what Echo itself offers: its kinds of channels, whispers, presence callbacks, `on` and `signin`.
import { createInterface } from "node:readline";
import { createRequire } from "node:module";
import Echo from "laravel-echo";

const require = createRequire(import.meta.url);
const Pusher = require("pusher-js");
const tickrelayResume = require("../../relay/web/resume.js");
const report = (line) => process.stdout.write(JSON.stringify(line) + "\n");
const KINDS = [["private-encrypted-", "encryptedPrivate"], ["private-", "private"], ["presence-", "join"], ["", "channel"]];
let echo;

function joined(name) {
  const [prefix, kind] = KINDS.find(([prefix]) => name.startsWith(prefix));
  return [echo[kind](name.slice(prefix.length)), kind];
}

const operations = {
  connect({ key, options, resume }) {
    echo = new Echo({
      broadcaster: "pusher", Pusher, key, cluster: "", forceTLS: false, disableStats: true, enabledTransports: ["ws"], ...options,
    });
    const { pusher } = echo.connector;
    if (resume) tickrelayResume(pusher, { rewind: resume.rewind, failed: (channel, why) => report({ on: "resume_failed", channel, ...why }) });
    pusher.connection.bind("state_change", ({ current }) => report({ on: "state", current, socket_id: echo.socketId() }));
    pusher.connection.bind("error", (error) => report({ on: "error", error }));
    pusher.connection.bind("message", ({ event }) => {
      if (event === "pusher:ping" || event === "pusher:pong") report({ on: "heartbeat", event });
    });
    pusher.user.bind_global((event, data) => report({ on: "user", event, data }));
  },
  subscribe({ channel }) {
    const [subscribed, kind] = joined(channel);
    const tell = (event, data) => report({ on: "event", channel, event, data });
    subscribed.listenToAll((event, data) => tell(event.slice(1), data));
    if (kind === "join") {
      subscribed.here((members) => tell("pusher:subscription_succeeded", { members }));
      subscribed.joining((info) => tell("pusher:member_added", { info }));
      subscribed.leaving((info) => tell("pusher:member_removed", { info }));
    } else {
      subscribed.subscribed(() => tell("pusher:subscription_succeeded", {}));
    }
    subscribed.error((error) => tell("pusher:subscription_error", error));
    for (const event of ["pusher:cache_miss", "pusher:subscription_count"]) subscribed.on(event, (data) => tell(event, data));
  },
  unsubscribe: ({ channel }) => echo.leaveChannel(channel),
  trigger({ channel, event, data }) {
    joined(channel)[0].whisper(event.slice("client-".length), data);
  },
  signin() {
    echo.connector.signin();
    echo.connector.pusher.user.signinDonePromise.then(() => report({ on: "signin", user: echo.connector.pusher.user.user_data }));
  },
  disconnect: () => echo.disconnect(),
};

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  try {
    operations[command.op](command);
  } catch (error) {
    report({ on: "error", error: String(error) });
  }
}
process.exit(0);

// A real pusher-js client in Node.js, driven by lines of JSON on stdin, reporting lines of JSON on stdout.
// With the argument `ws` its sockets are those of `ws`, which compresses; pusher-js' own does not.
import { createInterface } from "node:readline";
import { createRequire } from "node:module";
import { pusherOperations } from "./pusher_operations.mjs";

const require = createRequire(import.meta.url);
const Pusher = require("pusher-js");
const WebSocket = require("ws");
if (process.argv[2] === "ws") Pusher.Runtime.createWebSocket = (url) => new WebSocket(url);
const operate = pusherOperations(
  Pusher,
  require("../../relay/web/resume.js"),
  (line) => process.stdout.write(JSON.stringify(line) + "\n"),
);

for await (const line of createInterface({ input: process.stdin })) operate(JSON.parse(line));
process.exit(0);

// A real pusher-js client in Node.js, driven by lines of JSON on stdin, reporting lines of JSON on stdout.
import { createInterface } from "node:readline";
import { createRequire } from "node:module";
import { pusherOperations } from "./pusher_operations.mjs";

const require = createRequire(import.meta.url);
const operate = pusherOperations(
  require("pusher-js"),
  require("../../docs/clients/resume.js"),
  (line) => process.stdout.write(JSON.stringify(line) + "\n"),
);

for await (const line of createInterface({ input: process.stdin })) operate(JSON.parse(line));
process.exit(0);

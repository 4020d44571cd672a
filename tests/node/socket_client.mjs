// A real `ws` in Node.js, driven by lines of JSON on stdin, reporting lines of JSON on stdout.
import { createInterface } from "node:readline";
import WebSocket from "ws";
import { socketOperations } from "./socket_operations.mjs";

const operate = socketOperations(WebSocket, (line) => process.stdout.write(JSON.stringify(line) + "\n"));

for await (const line of createInterface({ input: process.stdin })) operate(JSON.parse(line));
process.exit(0);

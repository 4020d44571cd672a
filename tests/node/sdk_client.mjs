// Shuriken's published SDK in front of the relay: connects, subscribes, and says what it hears, one JSON object a line.
// Arguments: the relay's URL, an API key, and streams as JSON [{stream, filter}]. Ends with its input.
import { createShurikenClient } from "@shuriken/sdk-ts";

const [url, apiKey, streams] = process.argv.slice(2);
const say = (what) => process.stdout.write(`${JSON.stringify(what)}\n`);
const client = createShurikenClient({ apiKey, apiBaseUrl: url });

try {
  await client.ws.connect();
} catch (error) {
  say({ failed: error.name, message: error.message });
  process.exit(1);
}
say({ connected: client.ws.getSession().connection });
for (const { stream, filter } of JSON.parse(streams)) {
  client.ws.subscribe({ stream, filter }, (data) => say({ stream, data }), (error) => say({ stream, error }));
}
process.stdin.resume();
process.stdin.on("end", () => { client.ws.disconnect(); process.exit(0); });

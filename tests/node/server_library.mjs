// The official server library for Node.js, driven by lines of JSON on stdin: {"call", "arguments"}; reports {"status", "body"}, or
// {"result"} where the library answers without a request. A refusal is {"status", "body"} too; anything else {"error"}.
import { createInterface } from "node:readline";
import Pusher from "pusher";

const [host, port, appId, key, secret, encryptionMasterKeyBase64] = process.argv.slice(2);
const pusher = new Pusher({ appId, key, secret, host, port, useTLS: false, encryptionMasterKeyBase64 });
const attributes = (names) => (names ? { info: names.join(",") } : {});

const calls = {
  trigger: ({ channels, name, data, socket_id, info }) => pusher.trigger(channels, name, data, { ...(socket_id && { socket_id }), ...attributes(info) }),
  batch: ({ events }) => pusher.triggerBatch(events),
  channels: ({ prefix, info }) => pusher.get({ path: "/channels", params: { filter_by_prefix: prefix, ...attributes(info) } }),
  channel: ({ channel, info }) => pusher.get({ path: `/channels/${channel}`, params: attributes(info) }),
  users: ({ channel }) => pusher.get({ path: `/channels/${channel}/users` }),
  send_to_user: ({ user_id, name, data }) => pusher.sendToUser(user_id, name, data),
  terminate: ({ user_id }) => pusher.terminateUserConnections(user_id),
  authorize: ({ socket_id, channel, member }) => ({ result: pusher.authorizeChannel(socket_id, channel, member ?? undefined) }),
  authenticate: ({ socket_id, user }) => ({ result: pusher.authenticateUser(socket_id, user) }),
  webhook({ headers, body }) {
    const webhook = pusher.webhook({ headers, rawBody: body });
    return { result: webhook.isValid() ? { events: webhook.getEvents(), time_ms: webhook.getTime().getTime() } : null };
  },
};

async function answer({ call, arguments: given }) {
  try {
    const answered = await calls[call](given);
    return "result" in answered ? answered : { status: answered.status, body: await answered.text() };
  } catch (error) {
    return error.status ? { status: error.status, body: error.body } : { error: String(error) };
  }
}

for await (const line of createInterface({ input: process.stdin })) process.stdout.write(JSON.stringify(await answer(JSON.parse(line))) + "\n");
process.exit(0);

// An event as an app's own server sends it: the Pusher HTTP API, signed with the app's secret in this page. The secret is not sent.

import { Refused, ask } from "./relay.js";

const hex = (bytes) => [...new Uint8Array(bytes)].map((byte) => byte.toString(16).padStart(2, "0")).join("");

/** POST /apps/ID/events. Throws for a refusal, with the relay's words. */
export async function sendAsServer({ id, key, secret }, channel, name, data) {
  if (!id || !key || !secret) throw new Refused(0, "The app's id, key and secret are needed.");
  if (!crypto.subtle) throw new Refused(0, "The browser signs only on https, or on localhost.");
  const path = `/apps/${encodeURIComponent(id)}/events`, body = { name, channels: [channel], data }, encode = (text) => new TextEncoder().encode(text);
  const query = `auth_key=${key}&auth_timestamp=${Math.floor(Date.now() / 1000)}&auth_version=1.0&body_md5=${md5(encode(JSON.stringify(body)))}`;
  const signer = await crypto.subtle.importKey("raw", encode(secret), { name: "HMAC", hash: "SHA-256" }, false, ["sign"]);
  const signature = hex(await crypto.subtle.sign("HMAC", signer, encode(`POST\n${path}\n${query}`)));
  await ask(`${path.slice(1)}?${query}&auth_signature=${signature}`, { method: "POST", body, key: null });
}

/** MD5 of bytes in hexadecimal (RFC 1321); browsers have none, and the protocol asks for it. */
export function md5(bytes) {
  const shifts = [7, 12, 17, 22, 5, 9, 14, 20, 4, 11, 16, 23, 6, 10, 15, 21];
  const table = Array.from({ length: 64 }, (_, n) => Math.floor(Math.abs(Math.sin(n + 1)) * 2 ** 32) >>> 0);
  const padded = new Uint8Array(((bytes.length + 72) >> 6) << 6), view = new DataView(padded.buffer);
  padded.set(bytes);
  padded[bytes.length] = 0x80;
  view.setUint32(padded.length - 8, bytes.length << 3, true);
  view.setUint32(padded.length - 4, Math.floor(bytes.length / 2 ** 29), true);
  let state = [0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476];
  for (let block = 0; block < padded.length; block += 64) {
    let [a, b, c, d] = state;
    for (let n = 0; n < 64; n++) {
      const round = n >> 4;
      const mix = [(b & c) | (~b & d), (d & b) | (~d & c), b ^ c ^ d, c ^ (b | ~d)][round];
      const word = view.getUint32(block + 4 * [n, 5 * n + 1, 3 * n + 5, 7 * n].map((index) => index % 16)[round], true);
      const added = (a + mix + table[n] + word) | 0, by = shifts[4 * round + (n % 4)];
      [a, d, c, b] = [d, c, b, (b + ((added << by) | (added >>> (32 - by)))) | 0];
    }
    state = [a, b, c, d].map((value, n) => (value + state[n]) | 0);
  }
  const out = new DataView(new ArrayBuffer(16));
  state.forEach((value, n) => out.setUint32(4 * n, value, true));
  return hex(out.buffer);
}

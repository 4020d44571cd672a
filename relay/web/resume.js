// No loss over a reconnect, for any page or program that uses pusher-js with tickrelay. pusher-js stays as it is.
//
//   <script src="pusher.min.js"></script> <script src="resume.js"></script>
//
//   const pusher = new Pusher(key, options);
//   tickrelayResume(pusher, { failed: (channel, { reason }) => console.warn(`${channel}: events are missing, ${reason}`) });
//
// Call it directly after `new Pusher`. pusher-js subscribes again by itself after a reconnect. This script adds to each
// subscription the position of the last event seen on the channel ({epoch, seq}). The relay then sends the missed events, in
// order and before any new one. A message that is no JSON ends the connection, because an event may be lost with it.
//
// `failed` is called if the relay cannot send them, because it was restarted (epoch_changed) or no longer stores the events
// (position_expired). Load the state again then. `rewind`, a number or a function of the channel's name, asks for that many past
// events when a channel is joined first. A channel that was unsubscribed has no position. `placed` is called with a channel's name
// once everything has come that was there when it was subscribed: the state with which it begins, or what was missed.
"use strict";

function tickrelayResume(pusher, { failed = () => {}, placed = () => {}, rewind = 0 } = {}) {
  const positions = new WeakMap(); // by channel object; a channel that was left and joined again is a new object
  const userChannels = {}; // pusher-js hides a signed-in user's own channel, and creates a new one with every connection
  const owner = (name) => pusher.channel(name) ?? (userChannels[name] ??= {});

  const send = pusher.send_event;
  pusher.send_event = function (event, data, channel) {
    if (event === "pusher:subscribe") {
      const past = typeof rewind === "function" ? rewind(data.channel) : rewind;
      data = { ...data, ids: true, resume: positions.get(owner(data.channel)), rewind: past || undefined };
    }
    return send.call(pusher, event, data, channel);
  };

  // pusher-js passes on only the data of a message, without the members beside them. So this reads the raw messages. It reads each
  // one after pusher-js has passed it on, because a position is the last event that the page has seen.
  function observe({ data: text }) {
    let message;
    try {
      message = JSON.parse(text);
    } catch {
      // Damaged on the way: the next event's number would hide that one is missing. pusher-js connects again within a second.
      pusher.connection.connection.close();
      return;
    }
    const { event, channel, data, seq } = message;
    if (!channel || event.startsWith("client-")) return;
    const key = owner(channel);
    if (/^(pusher_internal:subscription_|tickrelay:(resume_|position))/.test(event)) {
      const { epoch, seq, reason } = JSON.parse(data);
      const isResuming = event.startsWith("pusher_internal:") && positions.has(key); // how that went is said behind it
      if (epoch) positions.set(key, { epoch, seq });
      else if (reason) positions.delete(key); // there is no history, or the position comes behind the channel's state
      if (reason) failed(channel, { reason, epoch, seq });
      if (epoch && !isResuming) placed(channel);
    } else if (!event.startsWith("pusher") && positions.has(key)) {
      // An event of a stream has its number inside the data, an application's own event beside them.
      const number = seq ?? JSON.parse(data).seq;
      if (number !== undefined) positions.get(key).seq = number;
    }
  }

  const listen = () => pusher.connection.connection.transport.bind("message", observe);
  pusher.connection.bind("connected", listen);
  if (pusher.connection.state === "connected") listen();
  return pusher;
}

globalThis.tickrelayResume = tickrelayResume; // also where this is imported as a module
if (typeof module === "object") module.exports = tickrelayResume;

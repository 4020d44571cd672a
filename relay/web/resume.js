// No loss over a reconnect, for any page or program that uses pusher-js with tickrelay. pusher-js stays as it is.
//
//   <script src="pusher.min.js"></script> <script src="resume.js"></script>
//
//   const pusher = new Pusher(key, options);
//   tickrelayResume(pusher, { failed: (channel, { reason }) => console.warn(`${channel}: events are missing, ${reason}`) });
//
// Call it right behind `new Pusher`. pusher-js subscribes again by itself after a reconnect; each of its subscriptions now also
// says which of the channel's events were seen last ({epoch, seq}), and the relay sends what came since, in order and before
// anything new. `failed` hears when that cannot be given, because the relay began anew (epoch_changed) or keeps no events as old
// as that (position_expired): the moment to load the state anew. `rewind`, a number or a function of the channel's name, asks for
// that many past events when a channel is joined first. A channel that was unsubscribed begins anew.
"use strict";

function tickrelayResume(pusher, { failed = () => {}, rewind = 0 } = {}) {
  const positions = new WeakMap(); // by channel object: one that was left and joined again is a new object
  const userChannels = {}; // pusher-js hides a signed-in user's own channel, and makes it anew with every connection
  const owner = (name) => pusher.channel(name) ?? (userChannels[name] ??= {});

  const send = pusher.send_event;
  pusher.send_event = function (event, data, channel) {
    if (event === "pusher:subscribe") {
      const past = typeof rewind === "function" ? rewind(data.channel) : rewind;
      data = { ...data, ids: true, resume: positions.get(owner(data.channel)), rewind: past || undefined };
    }
    return send.call(pusher, event, data, channel);
  };

  // What pusher-js hands out of a message has lost what stands beside the data. So this reads the messages themselves, each after
  // pusher-js has handed it out: a position is what the page has seen.
  function observe({ data: text }) {
    const { event, channel, data, seq } = JSON.parse(text);
    if (!channel || event.startsWith("client-")) return;
    const key = owner(channel);
    if (/^(pusher_internal:subscription_|tickrelay:resume_)/.test(event)) {
      const { epoch, seq, reason } = JSON.parse(data);
      if (epoch) positions.set(key, { epoch, seq });
      else if (reason) positions.delete(key); // the relay keeps no history of this channel
      if (reason) failed(channel, { reason, epoch, seq });
    } else if (!event.startsWith("pusher") && positions.has(key)) {
      // Events of a stream have their number inside of the data, an application's own have it beside them.
      const number = seq ?? JSON.parse(data).seq;
      if (number !== undefined) positions.get(key).seq = number;
    }
  }

  const listen = () => pusher.connection.connection.transport.bind("message", observe);
  pusher.connection.bind("connected", listen);
  if (pusher.connection.state === "connected") listen();
  return pusher;
}

if (typeof module === "object") module.exports = tickrelayResume;

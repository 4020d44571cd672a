// What a test asks of a bare WebSocket, in Node.js (`ws`) and in a page. Commands are objects, and so is every report.
//
// in:  {"op": "open", "url", "options"?} {"op": "send", "text"} {"op": "binary", "size"} {"op": "close", "code", "reason"}
//      in Node.js only: {"op": "fragments", "parts"}, with a ping between them
// out: {"on": "open", "extensions"} {"on": "message", "text"} {"on": "pong", "data"} {"on": "close", "code", "reason"}

export function socketOperations(WebSocket, report) {
  let socket;

  const operations = {
    open({ url, options }) {
      socket = options ? new WebSocket(url, options) : new WebSocket(url);
      socket.onopen = () => report({ on: "open", extensions: socket.extensions });
      socket.onmessage = ({ data }) => report({ on: "message", text: data });
      socket.onclose = ({ code, reason }) => report({ on: "close", code, reason });
      socket.onerror = () => {};
      socket.on?.("pong", (data) => report({ on: "pong", data: data.toString() }));
    },
    send: ({ text }) => socket.send(text),
    binary: ({ size }) => socket.send(new Uint8Array(size)),
    fragments({ parts }) {
      parts.forEach((part, index) => {
        socket.send(part, { fin: index === parts.length - 1 });
        if (index === 0) socket.ping("between");
      });
    },
    close: ({ code, reason }) => socket.close(code, reason),
  };

  return (command) => operations[command.op](command);
}

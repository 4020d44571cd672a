"""Speak the server's side of WebSocket: handshake, frames and compression (RFC 6455, RFC 7692), sans-IO.

This is not wsproto, although wsproto judges it in the tests: it encodes a frame anew for every connection, and each of its
connections takes 1.7 kB, more than all of the relay's state of an idle subscriber (docs/performance.md). Here one encoded
frame serves all subscribers, a parser takes 0.1 kB, and reading a short message 1.5 us in place of 7.
"""

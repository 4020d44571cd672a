"""Serve subscribers quickly: epoll, io_uring, and a reader of ordinary upgrade requests."""

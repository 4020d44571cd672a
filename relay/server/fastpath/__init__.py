"""The quick paths of the port: epoll, io_uring, and the reader of ordinary upgrade requests."""

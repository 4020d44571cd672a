"""Serve the HTTP endpoints of the relay's port."""

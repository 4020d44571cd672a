"""The HTTP endpoints of the relay's port."""

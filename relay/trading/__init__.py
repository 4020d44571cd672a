"""Commands from request to reply."""

"""Trading commands, from request to reply."""

"""Between events and subscribers: topics, channels, members, history, outboxes. Pure."""

"""The hub: topics, channels, members, history and outboxes, between events and subscribers. No IO, no clock."""

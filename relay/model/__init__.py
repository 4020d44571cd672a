"""What is said: canonical events and commands, symbols, channel names, and their JSON. Pure."""

"""The canonical events and commands, symbols and channel names, and their JSON. Pure."""

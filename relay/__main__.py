"""``python -m relay`` is the ``tickrelay`` command."""

from relay.cli import main

if __name__ == "__main__":
    main()

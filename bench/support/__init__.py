"""Parts that the benches share: compiled helpers, pinned processes, the relay under test, tables."""

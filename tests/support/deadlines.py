"""Name the time for which a test waits for what must come.

Nothing is measured by it: it only ends a test that would hang. So it is far above what anything takes, on a machine that is ten
times slower than usual, or stands still for seconds, too. pytest's own timeout (pyproject.toml) is above it.
"""

WITHIN = 300.0
"""Seconds."""

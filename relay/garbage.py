"""The garbage collector of a process that serves: quiet about what stays, and seldom.

What the relay makes per message is freed by reference counts alone; cycles come with connections and errors. So the
collector looks after 10,000 new objects instead of 700, and what there is once the relay has started (modules, settings,
compiled patterns, some 200,000 objects) it need not look at again.
"""

import gc

_NEW_OBJECTS = 10_000


def settle() -> None:
    """Call once, when the process has started: everything that exists now is kept out of later collections."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS, 10, 10)

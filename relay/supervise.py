"""Keep a task running: what crashes is reported, restarted with backoff, and takes nothing else down."""

import random
from collections.abc import Awaitable, Callable

import trio

from relay.adapter import Backoff
from relay.provider.retry import Retry

#: Told of every crash: the task's name, what it raised, and the seconds until it is started again.
Report = Callable[[str, Exception, float], None]
_BACKOFF = Backoff(first=0.5, cap=30.0)


async def supervise(
    name: str,
    run: Callable[[], Awaitable[None]],
    *,
    report: Report,
    backoff: Backoff = _BACKOFF,
    uniform: Callable[[], float] = random.random,
) -> None:
    """Run ``run`` until it returns; when it raises, report that and start it again after a wait.

    Cancellation, KeyboardInterrupt and SystemExit go through.
    """
    retry = Retry(backoff)
    while True:
        retry.opened(trio.current_time())
        try:
            await run()
        except Exception as error:  # noqa: BLE001 - containing whatever a task raises is the purpose
            retry.lost(trio.current_time())
            wait = retry.wait(uniform())
            report(name, error, wait)
        else:
            return
        await trio.sleep(wait)

"""Many questions to one server at once, so that what was paid for is never lost.

Keeps a number of calls under way. After a stop, or an error that makes going on useless, nothing
new is begun; what is under way is waited for and yielded, and then the error is raised.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from charllm.core.judging.asking import Outcome
from charllm.data.errors import Text, UserError

Task = TypeVar("Task")

GIVE_UP_AFTER = 12
"""So many calls in a row that failed, and the server is taken to be down."""


def call_all(
    tasks: Sequence[Task],
    ask: Callable[[Task, threading.Event], Outcome | None],
    in_flight: int,
    stop: Callable[[], bool],
    server: str,
) -> Iterator[tuple[Task, Outcome]]:
    """Each task with its outcome, in the order of the answers.

    ``ask`` runs in threads and gives None where the event was set before the answer was complete.
    ``UserError`` from ``ask``, or where the server fails ``GIVE_UP_AFTER`` times in a row.
    """
    waiting, ended, failed = deque(tasks), threading.Event(), 0
    problem: UserError | None = None
    with ThreadPoolExecutor(in_flight, thread_name_prefix="judge") as pool:
        running: dict[Future[Outcome | None], Task] = {}
        try:
            while True:
                if stop():
                    ended.set()
                while waiting and not ended.is_set() and len(running) < in_flight:
                    task = waiting.popleft()
                    running[pool.submit(ask, task, ended)] = task
                if not running:
                    break
                # The timeout only lets ``stop`` be asked while everything waits for a server.
                for future in wait(running, 0.5, FIRST_COMPLETED).done:
                    task, outcome = running.pop(future), _result(future)
                    if isinstance(outcome, Outcome):
                        yield task, outcome
                        failed = 0 if outcome.reached else failed + 1
                        if failed == GIVE_UP_AFTER:
                            outcome = _down(server, outcome.parsed.reason)
                    if isinstance(outcome, UserError):
                        problem = problem or outcome
                        ended.set()
        finally:
            ended.set()
    if problem:
        raise problem


def _result(future: Future[Outcome | None]) -> Outcome | UserError | None:
    try:
        return future.result()
    except UserError as error:
        return error


def _down(server: str, why: Text | None) -> UserError:
    return UserError(
        f"{server} has failed {GIVE_UP_AFTER} times in a row: {why.en if why else ''}",
        f"{server} が{GIVE_UP_AFTER}回続けて応答しませんでした: {why.ja if why else ''}",
    )

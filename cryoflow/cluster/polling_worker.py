"""Base class of the workers: poll what they started, and stop on SIGTERM."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import anyio

from cryoflow.cluster.pool_runs import is_away

if TYPE_CHECKING:
    from prefect.workers.base import BaseWorker

    Base = BaseWorker[Any, Any, Any]
else:
    Base = object


class PollingWorker(Base):
    """A worker that polls. Subclasses define the steps of a round and the pause after it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._polling = False
        self._closing = False

    def _steps(self, turn: int) -> Sequence[Callable[[], Awaitable[None]]]:
        """Return the steps of a round, by its number from 0."""
        raise NotImplementedError

    def _pause_s(self) -> float:
        raise NotImplementedError

    def _waits(self) -> bool:
        """Return whether anything is still waited for."""
        raise NotImplementedError

    async def start(self, *args: Any, **options: Any) -> None:
        """Run until stopped. The first SIGTERM or SIGINT stops the worker and leaves what it started alone.

        Prefect turns SIGTERM into SIGINT, which a process started in the background of a script ignores; so the worker
        takes both itself.
        """
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, task.cancel)
        except (ValueError, RuntimeError, NotImplementedError):
            pass  # not in the main thread: whoever started it there stops it
        await super().start(*args, **options)

    async def _initialize_after_sync(self) -> None:
        await super()._initialize_after_sync()
        if self._work_pool is not None and not self._polling and self._runs_task_group is not None:
            self._polling = True
            self._runs_task_group.start_soon(self._poll_until_closed)

    async def teardown(self, *exc_info: Any) -> None:
        """Stop polling once nothing is waited for (`--run-once`), or at once where the worker was stopped."""
        self._closing = True
        await super().teardown(*exc_info)

    async def _poll_until_closed(self) -> None:
        turn, away = 0, False
        while not (self._closing and not self._waits()):
            error: Exception | None = None
            for step in self._steps(turn):  # a step that fails, as scancel for a forgotten job, delays no other
                try:
                    await step()
                except Exception as problem:
                    error = problem
                    if not is_away(problem):
                        self._logger.exception("Polling failed; it is tried again")
            if error is not None and is_away(error) and not away:
                self._logger.warning("The Prefect server does not answer, runs are left as they are: %r", error)
            away = error is not None and is_away(error)
            turn += 1
            await anyio.sleep(self._pause_s())

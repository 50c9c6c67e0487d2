"""An event loop in a thread of its own, for callers without one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from threading import Thread, current_thread
from typing import Any, TypeVar

T = TypeVar("T")
_CLOSING_S = 10.0


class Background:
    """Runs coroutines for any number of threads. The thread is a daemon: a program may end without stopping it."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._pid = os.getpid()
        self._thread = Thread(target=self._run, name="text2mask-client", daemon=True)
        self._thread.start()

    @property
    def is_mine(self) -> bool:
        """Whether the thread is in this process: a fork has none of its parent's."""
        return self._pid == os.getpid()

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The value of `work`; an interrupt of the caller, such as Ctrl-C, cancels it."""
        future = self.submit(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def stop(self, last: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Cancel what runs, run `last`, and end the thread. Once is enough; more does nothing."""
        if not self.is_mine or self._loop.is_closed():
            return
        self._last = last
        self._loop.call_soon_threadsafe(self._loop.stop)
        if current_thread() is not self._thread:  # a finaliser may run anywhere
            self._thread.join(_CLOSING_S)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            self._loop.run_until_complete(self._wind_up())
        finally:
            self._loop.close()

    async def _wind_up(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._last()
        await self._loop.shutdown_asyncgens()
        await self._loop.shutdown_default_executor()

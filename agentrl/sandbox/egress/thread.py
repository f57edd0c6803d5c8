"""The thread that all proxies of a process share. Owns its event loop, and ends it when no proxy uses it."""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor

_RESOLVERS = 32
NAME = "agentrl-sandbox-proxy"


class ProxyThread:
    """A thread with an event loop, which runs as long as a proxy holds it."""

    _lock = threading.Lock()
    _current: ProxyThread | None = None

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._holders = 0
        threading.Thread(target=self._run, name=NAME, daemon=True).start()

    @classmethod
    def hold(cls) -> ProxyThread:
        """The running thread, or a new one; call `release` when it is no longer needed."""
        with cls._lock:
            if cls._current is None:
                cls._current = cls()
            cls._current._holders += 1
            return cls._current

    def release(self) -> None:
        """Count one holder less, and end the thread if there is none; to be called in its loop."""
        with self._lock:
            self._holders -= 1
            if not self._holders:
                type(self)._current = None
                self.loop.stop()

    def _run(self) -> None:
        # Names are resolved by blocking calls; the end of the thread does not wait for them.
        names = ThreadPoolExecutor(_RESOLVERS, f"{NAME}-names")
        self.loop.set_default_executor(names)
        try:
            self.loop.run_forever()
        finally:
            names.shutdown(wait=False, cancel_futures=True)
            self.loop.close()

    @classmethod
    def forget(cls) -> None:
        """Forget the thread in a forked process: it runs in the parent only, and serves the parent's proxies."""
        cls._lock, cls._current = threading.Lock(), None


os.register_at_fork(after_in_child=ProxyThread.forget)

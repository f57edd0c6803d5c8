"""A lock on the folder of a run or a benchmark: one process at a time writes into it.

Owns the `.lock` file. The kernel holds the lock, so that it ends with its process, also after `kill -9`.
It does not keep out programs that do not ask for it, and does nothing on a file system without locks.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self
from weakref import WeakSet

from agentrl.errors import ConfigError, StoreError

LOCK_NAME = ".lock"
LITTER = (".DS_Store", ".localized", "Thumbs.db", "desktop.ini")
"""Files of macOS and Windows, which never make a folder count as somebody's."""
logger = logging.getLogger(__name__)
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
_HELD_ELSEWHERE = (errno.EWOULDBLOCK, errno.EACCES)


class FolderLock:
    """The right to write into one folder; a context manager.

    A process that is forked while the lock is held does not share it: the lock ends with the process that took it.

    Args: path: of the folder; `acquire` makes it if it does not exist.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file: int | None = None

    @property
    def held(self) -> bool:
        """Whether this process holds the lock; False also in a folder that cannot be written, which needs none."""
        return self._file is not None

    def acquire(self) -> Self:
        """Take the lock, without waiting for it. A folder that cannot be written is not locked.

        Raises:
            ConfigError: another run, here or in another process, holds it; or `.lock` is a file of something else.
            StoreError: the folder cannot be made.
        """
        while self._file is None:
            file = self._open()
            if file is None:
                return self
            try:
                if self._take(file):
                    self._file = file
            finally:
                if self._file is None:
                    os.close(file)
        _held.add(self)
        _close_in_forks()
        return self

    def release(self) -> None:
        """Give the lock back and remove its file; does nothing if it is not held."""
        if self._file is None:
            return
        # Removed while it is held: whoever opened it before then sees that it is gone, and makes a new one.
        with suppress(OSError):
            (self.path / LOCK_NAME).unlink()
        self._forget(unlock=True)

    def __enter__(self) -> Self:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _forget(self, *, unlock: bool) -> None:
        file, self._file = self._file, None
        _held.discard(self)
        if file is not None:
            if unlock:
                fcntl.flock(file, fcntl.LOCK_UN)
            os.close(file)

    def _open(self) -> int | None:
        """The lock's file; None in a folder that cannot be written."""
        path = self.path / LOCK_NAME
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            if error.errno not in _READ_ONLY or not self.path.is_dir():
                raise StoreError(f"cannot write {path}: {error.strerror}; choose another folder") from error
            return None

    def _take(self, file: int) -> bool:
        """Lock an open file. Returns: False if it was removed meanwhile, so that another one must be opened."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _HELD_ELSEWHERE:
                logger.warning("%s cannot be locked (%s): let only one run write into it", self.path, error.strerror)
                return True
            raise ConfigError(
                f"{self.path} is in use by {_holder(file)}: wait until that run ends, or choose another folder"
            ) from None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), os.stat(self.path / LOCK_NAME)):
                self._sign(file)
                return True
        return False

    def _sign(self, file: int) -> None:
        """Write down who holds the lock. Raises: ConfigError if the file is not a lock."""
        if os.fstat(file).st_size and _signature(file) is None:
            raise ConfigError(f"{self.path / LOCK_NAME} is no lock of AgentRL: choose another folder, or move it aside")
        with suppress(OSError):  # a full disk: the lock holds all the same
            os.ftruncate(file, 0)
            os.pwrite(file, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)


def entries_of(folder: str | Path) -> list[str]:
    """Names of what a folder holds, sorted, without a lock and what operating systems leave everywhere.

    Args: folder: a folder, or nothing.
    """
    folder = Path(folder)
    names = [entry.name for entry in folder.iterdir()] if folder.exists() else []
    return sorted(name for name in names if name not in (LOCK_NAME, *LITTER))


def is_empty(folder: str | Path) -> bool:
    """Whether a folder does not exist, or holds nothing that `entries_of` names."""
    folder = Path(folder)
    return not folder.exists() or (folder.is_dir() and not entries_of(folder))


def holder_of(folder: str | Path) -> tuple[int, str] | None:
    """Process and host that hold the lock of a folder, or were killed while they did; None if there is no lock."""
    try:
        file = os.open(Path(folder) / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        found = _signature(file)
    finally:
        os.close(file)
    return (int(str(found["pid"])), str(found["host"])) if found and str(found["pid"]).isdigit() else None


def _signature(file: int) -> dict[str, object] | None:
    """What a lock's file says about its holder; None if that cannot be read."""
    try:
        found = json.loads(os.pread(file, 4096, 0))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "pid" in found and "host" in found else None


def _holder(file: int) -> str:
    found = _signature(file)
    return f"process {found['pid']} on {found['host']}" if found else "another process"


_held: WeakSet[FolderLock] = WeakSet()
_forks_are_watched = False


def _close_in_forks() -> None:
    """See that forked processes do not keep a lock alive after the process that took it."""
    global _forks_are_watched
    if not _forks_are_watched:
        _forks_are_watched = True
        os.register_at_fork(after_in_child=_let_go)


def _let_go() -> None:
    for lock in list(_held):
        lock._forget(unlock=False)

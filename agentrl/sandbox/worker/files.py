"""The work folder from the worker's side. Owns how paths are opened; never follows a link.

Foreign code wrote the folder and may be changing it at this moment, so every path is opened with RESOLVE_BENEATH
and without links, only ordinary files are read, and every size has a cap.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import stat
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from agentrl.sandbox.worker.archive import MAX_PATH_BYTES, Writer, unpack
from agentrl.sandbox.worker.kernel import make_link, open_beneath, read_link

_FOLDER = os.O_RDONLY | os.O_DIRECTORY
_MAX_DEPTH, _SHOWN = 128, 80
_OVERHEAD_BYTES, _MARGIN_BYTES = 16 << 20, 1 << 20
"""Of an archive, more than its contents; and what one more entry without a file's content takes at most, generously."""
_MAX_PATHS_CHARS = 4 << 20
"""Of all paths in a list together: a program can make some that take a hundred times as much."""
_PAGE_BYTES = 4096
"""The work folder gives each file whole pages."""


class FileError(Exception):
    """A request that is refused; the text is for the caller."""


class Folder:
    """One folder, reached through a descriptor, so that renaming it changes nothing."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1

    def reopen(self) -> None:
        """Open the folder that is at the path now."""
        self.close()
        self._fd = os.open(self._path, _FOLDER | os.O_CLOEXEC)

    def close(self) -> None:
        """Close the folder, so that its mount can be freed."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def write(self, path: str, content: Any, mode: int = 0o644) -> None:
        """Write a file, and make the folders above it."""
        with _Told(path):
            parts = _parts(path)
            for depth in range(1, len(parts)):
                self._make_folder("/".join(parts[:depth]))
            # Opened without O_TRUNC and without blocking: it may be no ordinary file.
            fd = open_beneath(self._fd, "/".join(parts), os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK, mode)
            try:
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise FileError(f"{path!r} is no ordinary file")
                os.ftruncate(fd, 0)
                view = memoryview(content)
                while view:
                    view = view[os.write(fd, view) :]
                os.fchmod(fd, mode)
            finally:
                os.close(fd)

    def _make_folder(self, path: str) -> None:
        head, _, name = path.rpartition("/")
        parent = open_beneath(self._fd, head or ".", _FOLDER)
        try:
            os.mkdir(name, 0o755, dir_fd=parent)
        except FileExistsError:
            return
        finally:
            os.close(parent)

    def read(self, path: str, max_bytes: int) -> memoryview:
        """A file's content, to be zeroed after use."""
        with self._opened("/".join(_parts(path)), path) as fd:
            room = memoryview(bytearray(_size_of(fd, path, max_bytes)))
            return room[: _read_into(fd, room)]

    @contextlib.contextmanager
    def _opened(self, path: str, told: str) -> Iterator[int]:
        with _Told(told):
            fd = open_beneath(self._fd, path, os.O_RDONLY | os.O_NONBLOCK)
            try:
                yield fd
            finally:
                os.close(fd)

    def entries(self) -> list[tuple[str, str, int]]:
        """Path, kind and size of everything, sorted by path."""
        kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "link"}
        found = []
        for path, info, _ in self._walk():
            kind = kinds.get(stat.S_IFMT(info.st_mode), "other")
            found.append((path, kind, info.st_size if kind == "file" else 0))
        return sorted(found)

    def save(self, max_bytes: int) -> memoryview:
        """Everything in the folder, as bytes that `load` takes; sockets, pipes and devices are left out.

        Refused if it could not be loaded into a folder of `max_bytes`: holes in files are written as zeros. The result
        is mapped memory, which goes back to the kernel whole.
        """
        most = max_bytes + _OVERHEAD_BYTES + _MARGIN_BYTES
        room = mmap.mmap(-1, most, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with contextlib.suppress(OSError):  # a kernel without huge pages
            room.madvise(mmap.MADV_NOHUGEPAGE)  # the first byte would zero two megabytes
        out, pages = Writer(memoryview(room)), 0
        for path, info, parent in self._walk():
            if len(os.fsencode(path)) > MAX_PATH_BYTES:
                raise FileError(f"{path[:_SHOWN]!r}... is too long to be saved")
            if stat.S_ISDIR(info.st_mode):
                out.add(b"d", path, stat.S_IMODE(info.st_mode), 0)
            elif stat.S_ISLNK(info.st_mode):
                with _Told(path):
                    size = read_link(os.path.basename(path), parent, out.room_for(path)[:MAX_PATH_BYTES])
                out.add(b"l", path, stat.S_IMODE(info.st_mode), size)
            elif stat.S_ISREG(info.st_mode):
                pages += -(-info.st_size // _PAGE_BYTES)
                if pages * _PAGE_BYTES > max_bytes:
                    raise FileError(f"the work folder holds more than {max_bytes} bytes")
                self._save_file(path, stat.S_IMODE(info.st_mode), max_bytes, out)
            if len(out.content) > max_bytes + _OVERHEAD_BYTES:
                raise FileError(f"the work folder holds more than {max_bytes} bytes")
        return out.content

    def _save_file(self, path: str, mode: int, max_bytes: int, out: Writer) -> None:
        room = out.room_for(path)
        with self._opened(path, path) as fd:
            size = _size_of(fd, path, min(max_bytes, len(room)))
            out.add(b"f", path, mode, _read_into(fd, room[:size]))

    def load(self, archive: Any) -> None:
        """Write everything that `save` returned into this folder, which must be empty."""
        folders = []
        for kind, path, mode, content in unpack(archive):
            if kind == b"d":
                self._make_folder("/".join(_parts(path)))
                folders.append((path, mode))
            elif kind == b"f":
                self.write(path, content, mode)
            else:
                self._make_link(path, content)
        for path, mode in reversed(folders):  # last, because a folder may be read-only
            fd = open_beneath(self._fd, path, _FOLDER)
            os.fchmod(fd, mode)
            os.close(fd)

    def _make_link(self, path: str, target: memoryview) -> None:
        head, _, name = "/".join(_parts(path)).rpartition("/")
        parent = open_beneath(self._fd, head or ".", _FOLDER)
        try:
            make_link(target, name, parent)
        finally:
            os.close(parent)

    def _walk(self) -> Iterator[tuple[str, os.stat_result, int]]:
        """Path, result of lstat and descriptor of the parent folder of every entry; a folder before its entries."""
        size = 0
        for found in self._walk_from("", self._fd, 0):
            size += len(found[0])
            if size > _MAX_PATHS_CHARS:
                raise FileError(f"the paths in the work folder have more than {_MAX_PATHS_CHARS} characters together")
            yield found

    def _walk_from(self, prefix: str, fd: int, depth: int) -> Iterator[tuple[str, os.stat_result, int]]:
        if depth > _MAX_DEPTH:
            raise FileError(f"folders nested deeper than {_MAX_DEPTH} levels")
        for name in sorted(os.listdir(fd)):
            try:
                info = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                continue
            path = prefix + name
            yield path, info, fd
            if stat.S_ISDIR(info.st_mode):
                inner = _open_folder(name, fd)
                if inner >= 0:
                    try:
                        yield from self._walk_from(path + "/", inner, depth + 1)
                    finally:
                        os.close(inner)


def _open_folder(name: str, parent: int) -> int:
    try:
        return open_beneath(parent, name, _FOLDER)
    except OSError:  # it is gone, or is now a link, or cannot be read
        return -1


def _size_of(fd: int, path: str, max_bytes: int) -> int:
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode):
        raise FileError(f"{path!r} is no ordinary file")
    if info.st_size > max_bytes:
        raise FileError(f"{path!r} holds more than {max_bytes} bytes")
    return info.st_size


def _read_into(fd: int, room: memoryview) -> int:
    """Read a file of the size of `room`: one that grows meanwhile is cut, one that shrinks ends earlier.

    Returns: how many bytes were read.
    """
    at = 0
    while at < len(room):
        count = os.readv(fd, [room[at:]])
        if not count:
            break
        at += count
    return at


def _parts(path: str) -> list[str]:
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not parts or path.startswith("/") or ".." in parts or "\0" in path:
        raise FileError(f"{path!r} is no path inside the work folder")
    return parts


class _Told:
    """Turns the kernel's error about a path into a text for the caller."""

    _WORDS: ClassVar[dict[int, str]] = {
        errno.ENOENT: "does not exist",
        errno.ELOOP: "has a symbolic link on the way, which is never followed",
        errno.EXDEV: "leads out of the work folder",
        errno.ENOSPC: "does not fit: the work folder is full",
        errno.EISDIR: "is a folder",
        errno.ENOTDIR: "has something on the way that is no folder",
        errno.EACCES: "may not be opened",
        errno.ENXIO: "is no ordinary file",
        errno.ENAMETOOLONG: "is too long",
    }

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Callable[..., Any] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            words = self._WORDS.get(error.errno or 0, error.strerror or "failed")
            raise FileError(f"{self._path!r} {words}") from None

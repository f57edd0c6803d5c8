"""Which files of the host a sandbox sees: programs, libraries, one interpreter and its standard library.

Owns the choice and the options of bwrap for it. Packages of any Python are hidden: an environment that is installed
below /usr would otherwise show its answer key to the programs that it grades. `SandboxSpec.read_only` shows more.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

_ROOT_FOLDERS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_READABLE = ("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives", "/etc/localtime")
_CERTIFICATES = ("/etc/ssl/certs", "/etc/ssl/openssl.cnf", "/etc/pki/tls/certs", "/etc/pki/ca-trust/extracted")
_STANDARD = frozenset({"bin", "etc", "games", "include", "lib", "lib32", "lib64", "libexec", "libx32", "local", "man"})
_STANDARD |= {"sbin", "share"}
"""What stands below /usr and /usr/local (Filesystem Hierarchy Standard 3.0), without `src`."""
_BELOW_USR = ("lib*/python*/*-packages", "share/python*/*-packages")
_PACKAGES = (*_BELOW_USR, *(f"local/{pattern}" for pattern in _BELOW_USR), "python*/*-packages")
"""The last one is for the folder `lib` of an interpreter elsewhere."""
_AGENTRL = str(Path(__file__).resolve().parents[2])


def shown(python: str, read_only: Sequence[str], *, certificates: bool) -> list[str]:
    """Options of bwrap that show files of the host, and hide what is not for programs.

    Args:
        python: the interpreter inside.
        read_only: further folders, also ones that would be hidden.
        certificates: whether to show the certificates that this machine trusts.
    """
    argv = ["--ro-bind", "/usr", "/usr"]
    for name in _ROOT_FOLDERS:
        path = Path("/") / name
        if path.is_symlink():
            argv += ["--symlink", os.readlink(path), str(path)]
        elif path.is_dir():
            argv += ["--ro-bind", str(path), str(path)]
    own = interpreter_folders(python)
    under_usr, under_own = hidden([Path("/usr")]), hidden([Path(folder) for folder in own])
    argv += _hiding(under_usr)
    for folder in own:
        argv += ["--ro-bind", folder, folder]
    argv += _hiding(under_own)
    for text in (*_READABLE, *(_CERTIFICATES if certificates else ()), *read_only):
        if Path(text).exists():
            argv += ["--ro-bind", text, text]
    for hidden_folder in filter(
        os.path.isdir, (*under_usr, *under_own)
    ):  # last, because bwrap makes folders to mount on
        argv += ["--remount-ro", hidden_folder]
    return argv


def interpreter_folders(python: str) -> tuple[str, ...]:
    """The folders of its installation that an interpreter needs if it does not belong to /usr or /usr/local."""
    prefix = Path(os.path.realpath(python)).parent.parent
    if str(prefix) in ("/", "/usr", "/usr/local"):
        return ()
    return tuple(str(prefix / name) for name in ("bin", "lib", "lib64") if (prefix / name).is_dir())


def hidden(tops: Sequence[Path], import_path: Sequence[str] | None = None) -> list[str]:
    """Folders and files below `tops` that are hidden: packages, sources, and all that this process imports from.

    Args:
        tops: folders that are shown: /usr, or the folders of an interpreter elsewhere.
        import_path: where this process imports from; default: `sys.path`, the current folder, and AgentRL's folder.
    """
    imports = [*sys.path, ".", _AGENTRL] if import_path is None else import_path
    searched = [folder for top in tops for folder in (top, top / "lib", top / "local", top / "local" / "lib")]
    changes = [folder.stat().st_mtime_ns for folder in searched if folder.is_dir()]
    places = {place for entry in imports if entry and (place := _real(entry))}
    return list(_hidden(tuple(tops), tuple(sorted(places)), tuple(changes)))


def _real(path: str) -> str:
    """The path without links; empty if it is relative, and the current folder was removed."""
    try:
        return os.path.realpath(path)
    except OSError:
        return ""


@functools.lru_cache(maxsize=8)
def _hidden(tops: tuple[Path, ...], places: tuple[str, ...], changes: tuple[int, ...]) -> tuple[str, ...]:
    """As `hidden`. Looking takes longer than a hundredth of a start, so it is done once until a folder changes.

    Args:
        places: where this process imports from.
        changes: when the folders that are searched were changed.
    """
    found: set[str] = set()
    for top in tops:
        found.update(str(path) for pattern in _PACKAGES for path in top.glob(pattern))
        found.update(_unusual(top))
        found.update(place for place in places if _inside(place, top) and not _has_programs(Path(place), top))
    real = {os.path.realpath(path) for path in found if os.path.exists(path)}
    return tuple(sorted(path for path in real if not _inside_any(path, real - {path})))


def _unusual(top: Path) -> Iterator[str]:
    """What stands below /usr and /usr/local although no standard names it, such as `src` or a checkout."""
    for folder in (top, top / "local"):
        if top.name == "usr" and folder.is_dir():
            yield from (str(path) for path in folder.iterdir() if path.name not in _STANDARD and path.is_dir())


def _has_programs(place: Path, top: Path) -> bool:
    """Whether a folder of the import path is also one of programs, libraries or the standard library."""
    usual = place == top or (place.name in _STANDARD and place.parent in (top, top / "local"))
    return usual or (place / "os.py").exists() or any(".so" in path.suffixes for path in place.glob("*.so*"))


def _inside(path: str, folder: Path) -> bool:
    return Path(path).is_relative_to(folder)


def _inside_any(path: str, folders: Iterable[str]) -> bool:
    return any(_inside(path, Path(folder)) for folder in folders)


def _hiding(paths: Iterable[str]) -> list[str]:
    argv: list[str] = []
    for path in paths:
        argv += ["--ro-bind", "/dev/null", path] if os.path.isfile(path) else ["--tmpfs", path]
    return argv

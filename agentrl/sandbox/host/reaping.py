"""Ending the sandboxes of dead owners. Owns the proof that a process belongs to one; makes no sandbox.

A process is ended only if its command line carries our label, its program is bubblewrap, it belongs to this user
(or to a user that root lent to a sandbox), and the owner in the label is dead: it is of another boot, or no process
has its id and start time.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from agentrl.sandbox.host import cgroups
from agentrl.sandbox.host.owner import LENT_USERS, Owner


def reap_monitors() -> int:
    """End the bubblewrap processes of dead owners, with everything in them; returns how many."""
    return sum(_reap(int(entry.name)) for entry in os.scandir("/proc") if entry.name.isdigit())


def _reap(pid: int) -> bool:
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        # The descriptor was opened first, so what is read now cannot be about a later process with the same id.
        if not _is_remainder(pid):
            return False
        for child in _children(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(fd, signal.SIGKILL)
        return True
    except OSError:
        return False
    finally:
        os.close(fd)


def _is_remainder(pid: int) -> bool:
    folder = Path("/proc") / str(pid)
    words = folder.joinpath("cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    owner = next((found for word in words if (found := Owner.of_label(word))), None)
    if owner is None or owner.alive():
        return False
    if len(_field(folder / "status", "NSpid").split()) != 1:
        return False  # it is in a namespace below ours: a process inside a sandbox, not the monitor of one
    user = folder.stat().st_uid
    if user != os.getuid() and not (os.getuid() == 0 and user in LENT_USERS):
        return False
    return os.path.basename(words[0]) == "bwrap" and os.path.basename(os.readlink(folder / "exe")) == "bwrap"


def _field(path: Path, name: str) -> str:
    lines = path.read_text().splitlines()
    return next((line.partition(":")[2] for line in lines if line.startswith(name + ":")), "")


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


def remove_groups() -> int:
    """Remove empty control groups of dead owners; returns how many."""
    count = 0
    for group in cgroups.left_behind(""):
        fields = group.name.rsplit("-", 3)[1:]
        if len(fields) == 3 and all(field.isdigit() for field in fields):
            owner = Owner("", 0, int(fields[0]), int(fields[1]))
            if not owner.same_start():
                group.remove()
                count += 1
    return count

"""What bubblewrap needs of a machine, and the command that installs or allows what is missing. Changes nothing."""

from __future__ import annotations

import os
import platform
import re
import shutil
from pathlib import Path

from agentrl.sandbox.host import cgroups
from agentrl.sandbox.host.syscalls import NUMBERS
from agentrl.sandbox.report import Check

INSTALL = "sudo apt-get install -y bubblewrap"
_SETTINGS = (
    (
        "kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "AppArmor forbids user namespaces to ordinary programs",
        "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
    ),
    (
        "kernel/unprivileged_userns_clone",
        "0",
        "user namespaces are for root only",
        "sudo sysctl -w kernel.unprivileged_userns_clone=1",
    ),
    (
        "user/max_user_namespaces",
        "0",
        "no user namespace may be made",
        "sudo sysctl -w user.max_user_namespaces=15000",
    ),
)
_CONTAINER = "docker run --security-opt seccomp=unconfined --security-opt systempaths=unconfined --cap-add SYS_ADMIN …"
_PIDS_PER_NAMESPACE = (5, 14)


def look(sysctl: Path = Path("/proc/sys")) -> list[Check]:
    """What can be checked without starting a sandbox.

    Args:
        sysctl: where kernel settings are read.
    """
    return [_program(), *_user_namespaces(sysctl), *_root(), _machine(), _kernel(), _groups()]


def explain(failure: str) -> Check:
    """A failed start as a check, with the command that fixes it if the cause is known."""
    inside = Path("/.dockerenv").exists() or Path("/run/.containerenv").exists()
    refused = re.search(r"Operation not permitted|Permission denied|No permissions", failure)
    repair = _CONTAINER if inside and refused else ""
    return Check("start", False, failure, repair)


def _program() -> Check:
    path = shutil.which("bwrap")
    return Check("bwrap", bool(path), path or "not installed", "" if path else INSTALL)


def _user_namespaces(sysctl: Path) -> list[Check]:
    found = []
    for name, bad, detail, repair in _SETTINGS:
        try:
            value = (sysctl / name).read_text().strip()
        except OSError:
            continue
        if value == bad and not (os.getuid() == 0 and name.endswith("_clone")):
            found.append(Check("user namespaces", False, detail, repair))
    return found or [Check("user namespaces", True, "allowed")]


def _root() -> list[Check]:
    if os.getuid() != 0:
        return []
    path = shutil.which("setpriv")
    return [Check("setpriv", bool(path), path or "not installed", "" if path else "apt-get install -y util-linux")]


def _machine() -> Check:
    machine = platform.machine()
    return Check("system-call profile", machine in NUMBERS, machine)


def _kernel() -> Check:
    release = platform.release()
    version = tuple(int(part) for part in re.findall(r"\d+", release)[:2])
    if version >= _PIDS_PER_NAMESPACE:
        return Check("kernel", True, release)
    return Check("kernel", False, f"{release}: before 5.14, a user's processes elsewhere count against the limit")


def _groups() -> Check:
    if cgroups.place() is not None:
        return Check("control groups", True, "the kernel bounds memory and processes of a sandbox")
    detail = "not allowed: memory is bounded per process, and for all together by a check every 50 ms"
    return Check("control groups", False, detail, "systemd-run --user --scope -p Delegate=yes agentrl …")

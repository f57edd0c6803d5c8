"""The container's system-call profile in docker's form. Owns the conversion; `host.syscalls` holds the tables.

The profile allows what the worker needs to isolate requests; each child of the worker loads a stricter filter too.
"""

from __future__ import annotations

import errno
import json
from typing import Any

from agentrl.sandbox.base import SandboxFault
from agentrl.sandbox.host.syscalls import NUMBERS

_ARCHITECTURES = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}
_BY_ARGUMENT = {"clone3", "socket", "socketpair", "personality"}
_FAMILIES = {"socket": (1, 2, 10), "socketpair": (1,)}  # AF_UNIX, AF_INET, AF_INET6
_KINDS = (1, 2)  # SOCK_STREAM, SOCK_DGRAM
_KIND_MASK = 0xF
_PERSONALITIES = (0, 0xFFFFFFFF)


def container_profile(machine: str) -> str:
    """The profile as the daemon's interface takes it, in the option `seccomp=`.

    Args:
        machine: the daemon's architecture, as `uname -m` names it.
    Raises: SandboxFault for a machine without a table.
    """
    if machine not in NUMBERS:
        raise SandboxFault(f"no system-call profile for {machine}; there are ones for {', '.join(sorted(NUMBERS))}")
    rules: list[dict[str, Any]] = [_allow(sorted(set(NUMBERS[machine]) - _BY_ARGUMENT))]
    for name, families in _FAMILIES.items():
        rules += [
            _allow(
                [name], _equal(0, family), {"index": 1, "op": "SCMP_CMP_MASKED_EQ", "value": _KIND_MASK, "valueTwo": k}
            )
            for family in families
            for k in _KINDS
        ]
    rules += [_allow(["personality"], _equal(0, value)) for value in _PERSONALITIES]
    # Its flags are in memory, which a filter cannot read; if it fails, libraries use clone.
    rules.append({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS})
    document = {"defaultAction": "SCMP_ACT_ERRNO", "architectures": [_ARCHITECTURES[machine]], "syscalls": rules}
    return json.dumps(document)


def _allow(names: list[str], *arguments: dict[str, Any]) -> dict[str, Any]:
    return {"names": names, "action": "SCMP_ACT_ALLOW", "args": list(arguments)}


def _equal(index: int, value: int) -> dict[str, Any]:
    return {"index": index, "op": "SCMP_CMP_EQ", "value": value}

"""The daemon that answers at docker's interface: Docker or Podman. Owns what differs between them; sends nothing."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from typing import Any

from agentrl.sandbox.docker.seccomp import container_profile


@dataclass(frozen=True)
class Daemon:
    """What the daemon says about itself."""

    name: str
    machine: str
    runtimes: tuple[str, ...] = ()
    remaps_users: bool = False
    app_armor: bool = False
    podman: bool = False

    @classmethod
    def of(cls, info: dict[str, Any], version: dict[str, Any]) -> Daemon:
        """From the answers to `/info` and `/version`."""
        options = " ".join(info.get("SecurityOptions") or ())
        machine = info.get("Architecture", "")
        parts = [part.get("Name", "") for part in version.get("Components") or ()]
        return cls(
            name=info.get("Name", ""),
            machine={"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine),
            runtimes=tuple(info.get("Runtimes") or ()),
            remaps_users="name=userns" in options or "name=rootless" in options,
            app_armor="apparmor" in options,
            podman=any("podman" in name.lower() for name in parts),
        )

    def security_options(self) -> list[str]:
        """Options that give a container our system-call profile.

        Raises: SandboxFault for a machine without a profile.
        """
        if self.podman:  # Podman reads the profile from a file, and does not know docker's list of masked paths
            return ["no-new-privileges", f"seccomp={_profile_path(self.machine)}", "unmask=ALL"]
        return ["no-new-privileges", f"seccomp={container_profile(self.machine)}"]


def _profile_path(machine: str) -> str:
    """A path at which a daemon on this machine can read the profile; the file is in memory."""
    return f"/proc/{os.getpid()}/fd/{_profile_file(machine)}"


@functools.cache
def _profile_file(machine: str) -> int:
    fd = os.memfd_create("profile")
    os.write(fd, container_profile(machine).encode("ascii"))
    return fd

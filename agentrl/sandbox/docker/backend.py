"""The docker backend: a worker in a hardened container. Owns how the container is started, found and removed.

The container has no network, a read-only root, our system-call profile, caps on memory, processes, processors and
files, and no capability after the worker has started. docs/security.md says what it protects against.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import random
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal

from agentrl.sandbox.base import Backend, Sandbox, SandboxError, SandboxFault, SandboxSpec
from agentrl.sandbox.host.channel import Channel
from agentrl.sandbox.host.owner import LENT_USERS, Owner, told_if_too_many_open
from agentrl.sandbox.host.sandbox import RemoteSandbox
from agentrl.sandbox.host.seccomp import profile
from agentrl.sandbox.host.worker_zip import WORKER_ENV, WORKER_OPTIONS
from agentrl.sandbox.report import Check, Report

try:
    import docker
    from docker import APIClient
    from docker.errors import APIError, DockerException, ImageNotFound, NotFound

    from agentrl.sandbox.docker.process import ContainerProcess, remove
except ImportError:  # the extra `docker` is not installed; `doctor` and `start` say so
    docker = None

from agentrl.sandbox.docker.channel import (
    CONTROL_FOLDER,
    SOCKET_PROGRAM,
    STDIO_PROGRAM,
    Listener,
    StdioChannel,
    remove_folders,
    socket_reaches,
)
from agentrl.sandbox.docker.daemon import Daemon

IMAGE = "agentrl-sandbox:latest"
LABEL = "org.agentrl.sandbox.owner"
INSTALL_SDK = "pip install 'agentrl[docker]'"
INSTALL_DAEMON = "sudo apt-get install -y docker.io && sudo systemctl start docker"
BUILD_SCRIPT = Path(__file__).parent / "image" / "build.sh"

_DAEMON_SOCKET = "/var/run/docker.sock"
"""Where docker's SDK looks for the daemon if DOCKER_HOST does not name another address."""

Transport = Literal["auto", "socket", "stdio"]
_CAPABILITIES = ("SETGID", "SETUID")
_ULIMITS = {"core": 0, "nofile": 1024, "nproc": 8192}
"""A daemon's defaults may be higher than it is allowed to set. The limits of a request are stricter than these."""
_WORKER_BYTES = 64 << 20
_SPARE_TASKS = 32
_USERS = range(1 << 20, 1 << 31)
_ANSWER_S, _START_S = 30, 15.0


class Docker(Backend):
    """Sandboxes in containers.

    Args:
        image: an image with Python 3.11 or newer as `python3`; it needs nothing of AgentRL.
        runtime: a runtime of the daemon, such as `runsc`; default: the daemon's own choice.
        cpus: processors that one sandbox may use at a time.
        transport: how the worker is reached; `auto` takes a unix socket if the daemon runs on this machine.
        base_url: address of the daemon, or of `podman system service` on this machine; default: DOCKER_HOST, or
            docker's usual socket.
    """

    name = "docker"

    def __init__(
        self,
        image: str = IMAGE,
        *,
        runtime: str | None = None,
        cpus: float = 1.0,
        transport: Transport = "auto",
        base_url: str | None = None,
    ) -> None:
        if cpus <= 0:
            raise ValueError(f"cpus must be above 0, got {cpus!r}")
        self._image = image
        self._runtime = runtime
        self._cpus = cpus
        self._transport: Transport = transport
        self._base_url = base_url
        self._owner = Owner.this_process()
        self._connecting = threading.Lock()
        self._connected: tuple[APIClient, Daemon] | None = None

    @classmethod
    def works_here(cls) -> bool:
        """Whether the SDK is installed and there is an address where a daemon may answer; does not ask it."""
        return docker is not None and (bool(os.environ.get("DOCKER_HOST")) or os.access(_DAEMON_SOCKET, os.W_OK))

    def _connect(self) -> tuple[APIClient, Daemon]:
        """The daemon's client, made at first use.

        Raises: SandboxFault if there is no SDK or no daemon answers.
        """
        if docker is None:
            raise SandboxFault(f"the docker backend needs docker's SDK; run: {INSTALL_SDK}")
        with self._connecting:
            if self._connected is None:
                address = self._base_url or os.environ.get("DOCKER_HOST")
                try:
                    if self._base_url:
                        client = docker.DockerClient(base_url=address, version="auto", timeout=_ANSWER_S)
                    else:
                        client = docker.DockerClient.from_env(version="auto", timeout=_ANSWER_S)
                    self._connected = (client.api, Daemon.of(client.api.info(), client.api.version()))
                except DockerException as error:
                    raise SandboxFault(f"no docker daemon answers: {error}. On Debian: {INSTALL_DAEMON}") from error
            return self._connected

    async def start(self, spec: SandboxSpec) -> Sandbox:
        spec.without_links(self.name)
        return await self._start(spec, functools.partial(self._start, spec))

    async def _start(self, spec: SandboxSpec, fresh: Callable[[], Awaitable[Sandbox]] | None = None) -> Sandbox:
        api, daemon = await asyncio.to_thread(self._connect)
        over_socket = self._over_socket(api, daemon)
        if not (over_socket or spec.network.off):
            raise SandboxError(
                f"this backend cannot let {', '.join(spec.network.allow)} through: that takes a daemon on this Linux"
                " machine, which reaches the worker over a unix socket, and not runsc; leave Network() off"
            )
        begin = self._start_over_socket if over_socket else self._start_over_stdio
        with told_if_too_many_open():
            channel, process = await begin(api, daemon, spec)
        sandbox = RemoteSandbox(spec, channel, process, fresh)
        user = random.choice(LENT_USERS if daemon.remaps_users else _USERS)
        try:
            await sandbox.set_up(
                "container", profile(machine=daemon.machine), user=user, privileged_start=daemon.app_armor
            )
        except BaseException:
            await sandbox.close()
            raise
        return sandbox

    def _over_socket(self, api: APIClient, daemon: Daemon) -> bool:
        if self._transport != "auto":
            return self._transport == "socket"
        # gVisor lets a container use no socket of the host unless it is configured to.
        return self._runtime != "runsc" and socket_reaches(daemon.name, api.base_url)

    async def _start_over_socket(
        self, api: APIClient, daemon: Daemon, spec: SandboxSpec
    ) -> tuple[Channel, ContainerProcess]:
        with Listener() as listener:
            options = self._options(api, daemon, spec, SOCKET_PROGRAM, {listener.folder: CONTROL_FOLDER})
            process = await _not_lost(self._launch, api, options)
            try:
                return await listener.accept(_START_S), process
            except BaseException as error:
                process.kill()
                await process.ended()
                if isinstance(error, TimeoutError):
                    raise SandboxFault(
                        f"the container of {self._image!r} did not call back within {_START_S:g} s; does it hold"
                        f" python3, and does the daemon share this machine's files? Docker(transport='stdio') may work"
                    ) from error
                raise

    async def _start_over_stdio(
        self, api: APIClient, daemon: Daemon, spec: SandboxSpec
    ) -> tuple[Channel, ContainerProcess]:
        options = self._options(api, daemon, spec, STDIO_PROGRAM, {})
        process = await _not_lost(self._launch, api, {**options, "stdin_open": True})
        channel = StdioChannel(process.connection)
        process.said = lambda: channel.said
        try:
            async with asyncio.timeout(_START_S):
                await channel.hand_over()
        except BaseException:
            channel.close()
            process.kill()
            await process.ended()
            raise
        return channel, process

    def _launch(self, api: APIClient, options: dict[str, Any]) -> ContainerProcess:
        """Create and start a container, and attach to it if it has a stdin.

        Raises: SandboxFault.
        """
        try:
            container = api.create_container(self._image, **options)["Id"]
        except ImageNotFound as error:
            raise SandboxFault(f"there is no image {self._image!r}; run: {build_command(self._image)}") from error
        except DockerException as error:
            raise SandboxFault(f"docker cannot create a container: {error}") from error
        process = ContainerProcess(api, container)
        try:
            if options.get("stdin_open"):
                process.attach()
            api.start(container)
            process.adopt(api.inspect_container(container)["State"]["Pid"])
        except BaseException as error:
            with contextlib.suppress(DockerException):
                remove(api, container)
            if isinstance(error, DockerException):
                raise SandboxFault(f"docker cannot start a container: {error}") from error
            raise
        return process

    def _options(
        self, api: APIClient, daemon: Daemon, spec: SandboxSpec, program: str, shared: dict[str, str]
    ) -> dict[str, Any]:
        limits = spec.limits
        memory_bytes = int(limits.memory_bytes) + int(limits.disk_bytes) + _WORKER_BYTES
        binds = {folder: {"bind": folder, "mode": "ro"} for folder in spec.read_only}
        binds |= {folder: {"bind": place, "mode": "ro"} for folder, place in shared.items()}
        security = daemon.security_options()
        capabilities = list(_CAPABILITIES)
        if daemon.app_armor:
            # The stock profile forbids mounts, and some hosts let only privileged processes make a user namespace.
            security.append("apparmor=unconfined")
            capabilities.append("SYS_ADMIN")
        host_config = api.create_host_config(
            auto_remove=True,
            binds=binds,
            cap_add=capabilities,
            cap_drop=["ALL"],
            ipc_mode="private",
            log_config={"Type": "none"},
            mem_limit=memory_bytes,
            memswap_limit=memory_bytes,
            nano_cpus=int(self._cpus * 1e9),
            network_mode="none",
            pids_limit=2 * int(limits.pids) + _SPARE_TASKS,
            read_only=True,
            runtime=self._runtime,
            security_opt=security,
            shm_size="64k",
            tmpfs=dict.fromkeys(("/box", "/work"), "ro,size=64k,mode=755"),
            ulimits=[{"Name": name, "Soft": limit, "Hard": limit} for name, limit in _ULIMITS.items()],
        )
        # With a masked /proc, a user namespace could not mount its own. Only root could read what is masked.
        host_config |= {"MaskedPaths": [], "ReadonlyPaths": []}
        return {
            "command": [*WORKER_OPTIONS, "-P", "-c", program],
            "entrypoint": ["python3"],
            "environment": {"LANG": "C.UTF-8", **WORKER_ENV},
            "host_config": host_config,
            "hostname": "sandbox",
            "labels": {LABEL: self._owner.label},
            "user": "0:0",
            "working_dir": "/",
        }

    async def doctor(self) -> Report:
        checks: list[Check] = []
        with contextlib.suppress(_Missing):
            await self._examine(checks)
        return Report(self.name, all(check.ok for check in checks), tuple(checks))

    async def _examine(self, checks: list[Check]) -> None:
        """Add a check for each thing that is needed, up to the first one that is missing."""

        def say(name: str, ok: bool, detail: str, repair: str = "") -> None:
            checks.append(Check(name, ok, detail, "" if ok else repair))
            if not ok:
                raise _Missing

        say("sdk", docker is not None, "docker's SDK for Python", INSTALL_SDK)
        try:
            api, daemon = await asyncio.to_thread(self._connect)
        except SandboxFault as fault:
            say("daemon", False, str(fault), INSTALL_DAEMON)
            raise
        say("daemon", True, f"{'podman' if daemon.podman else 'docker'} on {daemon.name}, {daemon.machine}")
        if self._runtime:
            known = self._runtime in daemon.runtimes
            detail = f"{self._runtime} {'is' if known else 'is not'} one of {', '.join(daemon.runtimes)}"
            say("runtime", known, detail, "sudo runsc install && sudo systemctl restart docker")
        try:
            await asyncio.to_thread(api.inspect_image, self._image)
        except NotFound:
            say("image", False, f"there is no {self._image}", build_command(self._image, daemon.podman))
        say("image", True, self._image)
        over = "a unix socket" if self._over_socket(api, daemon) else "stdin and stdout"
        try:
            async with await self.start(SandboxSpec()) as sandbox:
                result = await sandbox.run_python("print(1)")
        except SandboxFault as fault:
            say("start", False, str(fault))
        say("start", result.ok and result.stdout == b"1\n", result.detail or f"a snippet runs, over {over}")

    async def reap(self) -> int:
        return await asyncio.to_thread(self._reap)

    def _reap(self) -> int:
        api, _ = self._connect()
        remove_folders()
        count = 0
        for row in api.containers(all=True, filters={"label": LABEL}):
            owner = Owner.of_label(row["Labels"].get(LABEL, ""))
            if owner is not None and _left_behind(owner, row["State"], self._owner.boot):
                with contextlib.suppress(APIError):
                    remove(api, row["Id"])
                    count += 1
        return count


class _Missing(Exception):
    """Something is missing, so the doctor stops here."""


def _left_behind(owner: Owner, state: str, boot: str) -> bool:
    """Whether a container's owner is certainly dead. A running container of another boot may be another machine's."""
    if owner.boot != boot:
        return state in ("exited", "dead")
    return not owner.alive()


def build_command(image: str = IMAGE, podman: bool = False) -> str:
    """The command that builds the image without a registry."""
    return f"sudo {'ENGINE=podman ' if podman else ''}bash {BUILD_SCRIPT} debian {image}"


async def _not_lost(launch: Any, *arguments: Any) -> ContainerProcess:
    """Run a launch in a thread. If the wait is cancelled, the container is ended as soon as it has started."""
    task = asyncio.get_running_loop().run_in_executor(None, launch, *arguments)
    try:
        process: ContainerProcess = await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(lambda done: None if done.cancelled() or done.exception() else done.result().kill())
        raise
    return process

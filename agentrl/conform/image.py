"""An image of a Dockerfile and a container of it, by the docker command. Leaves neither behind."""

from __future__ import annotations

import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from agentrl.conform.process import serving
from agentrl.serving.env_image import PORT

WHEELS = "wheels"
"""The folder below the one of the tools whose wheels an image is given."""
_BUILD_S, _ANSWER_S = 1800, 60


def no_docker() -> str:
    """Why no image can be built; empty where one can."""
    try:
        done = _docker("info")
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"docker does not answer ({type(error).__name__})"
    return "" if done.returncode == 0 else "no docker daemon answers"


def folder_for(text: str, folder: Path, tools: str) -> Path:
    """Make the folder that is built: the Dockerfile, and the wheels in the tools' folder."""
    folder.mkdir()
    (folder / "Dockerfile").write_text(text)
    for wheel in sorted(Path(tools, WHEELS).glob("*.whl")) if tools else ():
        shutil.copy(wheel, folder)
    return folder


@contextmanager
def built(folder: Path, base: str = "") -> Iterator[str]:
    """Build an image, which is removed at the end. Gives: its name.

    Args: base: image to begin with; by default the Dockerfile's.
    Raises: RuntimeError with the end of what docker said.
    """
    name = f"agentrl-conform-{secrets.token_hex(4)}"
    chosen = ["--build-arg", f"BASE={base}"] if base else []
    host = [] if _has_bridge() else ["--network", "host"]
    done = _docker("build", "--tag", name, *chosen, *host, str(folder), timeout_s=_BUILD_S)
    if done.returncode:
        raise RuntimeError(f"docker build: {(done.stdout + done.stderr).strip()[-400:]}")
    try:
        yield name
    finally:
        _docker("image", "rm", "--force", name)


@contextmanager
def container(image: str, folder: Path, options: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """Run an image that serves an environment. Gives: its URL and token.

    Its port is published on loopback. Where docker has no bridge, the container shares this machine's network.

    Args:
        folder: for what it prints.
        options: of `docker run`.
    Raises: RuntimeError if it ends first; TimeoutError.
    """
    name = f"{image}-run"
    run = ["docker", "run", "--rm", "--name", name, "--env", "AGENTRL_ENV_TOKEN", *options]
    if _has_bridge():
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        address = f"http://127.0.0.1:{port}"
        command = [*run, "--publish", f"127.0.0.1:{port}:{PORT}", image]
    else:
        address, command = "", [*run, "--network", "host", image, "--host", "127.0.0.1", "--port", "0"]
    try:
        with serving(command, folder, address) as found:
            yield found
    finally:
        _docker("rm", "--force", name)


def _has_bridge() -> bool:
    return _docker("network", "inspect", "bridge").returncode == 0


def _docker(*arguments: str, timeout_s: float = _ANSWER_S) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, errors="replace", check=False, timeout=timeout_s
    )

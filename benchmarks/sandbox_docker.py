"""The ways of benchmarks/sandbox.py that need docker: our sandbox, and `docker exec` and `docker run` by its SDK.

`docker exec` and `docker run` start a new interpreter in a container of the same image, without further limits.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import docker

from agentrl.sandbox import Sandbox, SandboxFault, SandboxSpec
from agentrl.sandbox.docker.backend import IMAGE, Docker

Way = Callable[[int], Awaitable[str]]


@asynccontextmanager
async def docker_ways(code: str, lanes: int, pool: ThreadPoolExecutor) -> AsyncIterator[dict[str, Way]]:
    """Ways by name, usable inside the `with`; none if there is no docker.

    Args:
        code: one line of Python.
        lanes: the most requests at one time.
        pool: threads for docker's SDK, which blocks.
    """
    try:
        client = docker.DockerClient.from_env(version="auto", max_pool_size=lanes + 4)
        boxes = await started(Docker(transport="socket"), lanes)
    except (SandboxFault, docker.errors.DockerException) as error:
        print(f"docker is not measured, because it does not work here: {error}")
        yield {}
        return
    slow_boxes = await started(Docker(transport="stdio"), lanes)
    beside = client.containers.run(IMAGE, ["sleep", "100000"], detach=True, remove=True, network_mode="none")
    try:
        yield {
            "docker run --rm": in_thread(pool, lambda: run(client, code)),
            "docker exec": in_thread(pool, lambda: execute(client, beside.id, code)),
            "docker sandbox": lambda lane: said(boxes[lane], code),
            "docker over stdio": lambda lane: said(slow_boxes[lane], code),
            "docker session": lambda lane: said(boxes[lane], code, session="s"),
        }
    finally:
        await asyncio.gather(*(box.close() for box in (*boxes, *slow_boxes)))
        beside.remove(force=True)
        client.close()


async def started(backend: Docker, count: int) -> list[Sandbox]:
    """Start `count` sandboxes, four at a time."""
    gate = asyncio.Semaphore(4)

    async def start() -> Sandbox:
        async with gate:
            return await backend.start(SandboxSpec())

    return await asyncio.gather(*(start() for _ in range(count)))


def run(client: Any, code: str) -> bytes:
    """Run the code in a new container."""
    said: bytes = client.containers.run(IMAGE, ["python3", "-I", "-c", code], remove=True, network_mode="none")
    return said


def execute(client: Any, container: str, code: str) -> bytes:
    """Run the code in a container that is running already."""
    asked = client.api.exec_create(container, ["python3", "-I", "-c", code])
    said: bytes = client.api.exec_start(asked["Id"])
    return said


def in_thread(pool: ThreadPoolExecutor, work: Callable[[], bytes]) -> Way:
    """A way whose work blocks, run in a thread."""

    async def way(_: int) -> str:
        return (await asyncio.get_running_loop().run_in_executor(pool, work)).decode()

    return way


async def said(sandbox: Sandbox, code: str, **more: Any) -> str:
    """Run the code in a sandbox; returns what it prints."""
    return (await sandbox.run_python(code, **more)).text

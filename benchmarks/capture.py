"""The cost of a captured turn: `agentrl capture`'s proxy over HTTP against `LocalPolicy.act` in process.

The same conversations through both, so many at once; the client is a process of its own and speaks plain HTTP. Printed
are milliseconds a turn: CPU of the process that samples, and wall time.

    python benchmarks/capture.py [--at-once 32] [--turns 3] [--rounds 3] [--model DIR] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from agentrl.env import registry
from agentrl.messages import Message
from agentrl.policy.base import SamplingParams
from agentrl.policy.local import LocalPolicy
from agentrl.policy.tiny import build_tiny
from agentrl.serving.capture.episode import Episode
from agentrl.serving.capture.server import CaptureServer
from agentrl.serving.capture.session import Session
from agentrl.serving.chat_model import ChatModel

ENV = "agentrl/Shop-v0"
RESULT = "ada 3\nbea 5\ncleo 8"
SAMPLING = SamplingParams(max_tokens=16)


async def direct(policy: LocalPolicy, question: str, tools: Any, turns: int, name: str) -> None:
    """One conversation in process."""
    messages = [Message("user", question)]
    for _ in range(turns):
        action = await policy.act(messages, tools, episode_id=name, sampling=SAMPLING)
        messages += [action.to_message(), Message("user", RESULT)]
    await policy.release(name)


async def client(url: str, turns: int, names: list[str], keys: list[str], question: str) -> None:
    """All conversations over HTTP; runs in another process."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    tools = [dict(tool) for tool in registry.make(ENV).tool_schemas]

    async def one(name: str, key: str) -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        messages: list[Any] = [{"role": "user", "content": question}]
        for _ in range(turns):
            body = json.dumps({"model": "any", "messages": messages, "tools": tools}).encode()
            head = f"POST /s/{name}/v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {key}\r\n"
            writer.write(f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            size = int(head.partition("content-length:")[2].partition("\r")[0])
            answer = json.loads(await reader.readexactly(size))
            messages += [answer["choices"][0]["message"], {"role": "user", "content": RESULT}]
        writer.close()

    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    await asyncio.gather(*map(one, names, keys))
    print("done", flush=True)


async def captured(
    policy: LocalPolicy, server: CaptureServer, question: str, turns: int, at_once: int
) -> tuple[float, float]:
    """The same conversations through the proxy. Returns: as `timed`."""
    model, env = ChatModel(policy, "agentrl"), registry.make(ENV)
    task = env.tasks.split("train")[0]
    sessions = [Session(model, SAMPLING, max_turns=turns, name=str(number)) for number in range(at_once)]
    for session in sessions:
        server.proxy.add(Episode(session, env, task))
    asked = json.dumps([server.url, turns, [s.name for s in sessions], [s.key for s in sessions], question])
    pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE}
    process = await asyncio.create_subprocess_exec(sys.executable, __file__, "--client", asked, **pipes)
    await process.stdout.readline()
    found = await timed(lambda: _until_done(process), at_once * turns)
    await process.wait()
    for session in sessions:
        assert len(session.nodes) == turns
        server.proxy.remove(session)
    return found


async def _until_done(process: asyncio.subprocess.Process) -> None:
    process.stdin.write(b"go\n")
    assert await process.stdout.readline() == b"done\n"


async def timed(work: Callable[[], Awaitable[None]], turns: int) -> tuple[float, float]:
    """Milliseconds a turn: CPU of this process, and wall time."""
    cpu, wall = time.process_time(), time.perf_counter()
    await work()
    return 1e3 * (time.process_time() - cpu) / turns, 1e3 * (time.perf_counter() - wall) / turns


async def measure(policy: LocalPolicy, at_once: int, turns: int, rounds: int) -> dict[str, float]:
    """Medians over the rounds, which alternate."""
    tools = list(registry.make(ENV).tool_schemas)
    found: dict[str, list[tuple[float, float]]] = {"direct": [], "captured": []}
    async with CaptureServer() as server:
        for number in range(rounds + 1):
            question = f"Buy {number} tea."

            async def all_direct(question: str = question) -> None:
                names = [f"{question}{i}" for i in range(at_once)]
                await asyncio.gather(*(direct(policy, question, tools, turns, name) for name in names))

            policy.forget()
            one = await timed(all_direct, at_once * turns)
            policy.forget()
            other = await captured(policy, server, question, turns, at_once)
            if number:  # the first round warms up
                found["direct"].append(one)
                found["captured"].append(other)
    medians = {
        f"{name}_{what}_ms": statistics.median(times[place] for times in all_times)
        for name, all_times in found.items()
        for place, what in enumerate(("cpu", "wall"))
    }
    over = {
        f"over_{what}_ms": medians[f"captured_{what}_ms"] - medians[f"direct_{what}_ms"] for what in ("cpu", "wall")
    }
    return {**medians, **over}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--at-once", type=int, default=32)
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", help="a model folder; by default a tiny model without training")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--client", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.client:
        asyncio.run(client(*json.loads(given.client)))
        return
    policy = (
        LocalPolicy.from_folder(given.model) if given.model else LocalPolicy(*build_tiny([RESULT, "Buy 3 tea."] * 50))
    )
    result = {"at_once": given.at_once, **asyncio.run(measure(policy, given.at_once, given.turns, given.rounds))}
    print(json.dumps(result) if given.json else "\n".join(f"{name:>20}  {value:.2f}" for name, value in result.items()))


if __name__ == "__main__":
    main()

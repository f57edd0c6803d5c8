"""verifiers' own evaluation and validation of an environment of ours. Reads a job as JSON, writes what they saw.

The model is a server on this machine that says what was said before; verifiers' evaluation asks it through its own
interception, as it asks any model.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from verifiers.v1.cli.eval.runner import run_eval
from verifiers.v1.cli.validate import run_validate
from verifiers.v1.configs.cli.eval import EvalConfig
from verifiers.v1.configs.cli.validate import ValidateConfig

_PLUGIN = "agentrl_verifiers"
_RUNTIME = {"type": "subprocess"}
logging.getLogger("verifiers").setLevel(logging.ERROR)
Json = dict[str, Any]


class Said(BaseHTTPRequestHandler):
    """Answers the N-th turn of a conversation with the N-th message."""

    messages: tuple[Json, ...] = ()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        turn = sum(message["role"] == "assistant" for message in body["messages"])
        message = self.messages[min(turn, len(self.messages) - 1)]
        finish = "tool_calls" if message.get("tool_calls") else "stop"
        choice = {"index": 0, "message": message, "finish_reason": finish}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        answer = {"id": "c", "object": "chat.completion", "created": 0, "model": "said", "usage": usage}
        sent = json.dumps({**answer, "choices": [choice]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, format: str, *_: Any) -> None:
        """Standard error is for what fails."""


def taskset(job: Json, episode: Json) -> Json:
    shared = {"env": job["env"], "kwargs": job["kwargs"]}
    return {"id": _PLUGIN, **shared, "split": episode["split"], "seed": episode["seed"]}


async def played(job: Json, episode: Json, url: str, folder: str) -> Json:
    """Messages, reward and what the harness recorded of one episode."""
    Said.messages = tuple(episode["messages"])
    config = EvalConfig(
        env={"taskset": taskset(job, episode), "agent": {"runtime": _RUNTIME}},
        model="said",
        client={"base_url": url, "api_key_var": "NO_KEY"},
        select={"include": {"ids": [episode["task"]]}},
        rich=None,
        push=False,
        output_dir=folder,
        run={"dir": episode["id"]},
    )
    (found,) = await run_eval(config)
    (trace,) = found.traces
    if not found.ok:
        raise RuntimeError(f"episode {episode['id']}: {(found.errors or trace.errors)[0]}")
    shown = trace.branches[-1].messages
    contents = [
        [m.role, m.content or "", *([[c.name, c.arguments] for c in getattr(m, "tool_calls", None) or []])]
        for m in shown
    ]
    return {
        "messages": contents,
        "tools": sorted(tool.name for tool in trace.tools),
        "reward": trace.reward,
        "info": trace.info["agentrl"],
    }


async def validated(job: Json, folder: str) -> Json:
    """Outcomes of vf-validate: the oracle solves each task, and doing nothing does not."""
    first = job["episodes"][0]
    config = ValidateConfig(
        taskset=taskset(job, first),
        runtime=_RUNTIME,
        select={"limit": job["tasks"]},
        rich=False,
        output_dir=folder,
        run={"dir": "validate"},
    )
    rows = await run_validate(config)
    return {row["name"]: [row["gold"]["reason"], row["noop"]["reason"], row["error"]] for row in rows}


async def main(job: Json) -> Json:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Said)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/v1"
    with tempfile.TemporaryDirectory() as folder:
        episodes = [await played(job, episode, url, folder) for episode in job["episodes"]]
        return {"episodes": episodes, "validated": await validated(job, str(Path(folder) / "v"))}


if __name__ == "__main__":
    result = asyncio.run(main(json.load(sys.stdin)))
    json.dump(result, sys.stdout)

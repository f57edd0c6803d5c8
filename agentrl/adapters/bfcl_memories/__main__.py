"""Let a policy write its memories: `python -m agentrl.adapters.bfcl_memories --policy openai:NAME --out DIR`."""

from __future__ import annotations

import argparse
import asyncio
import sys

from agentrl.adapters.bfcl_memories.conversations import write_memories
from agentrl.adapters.bfcl_memory import BACKENDS
from agentrl.errors import AgentRLError
from agentrl.policy.by_name import PolicySetup, resolve


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m agentrl.adapters.bfcl_memories", description=__doc__)
    parser.add_argument("--policy", required=True, help="as in agentrl bench, such as openai:NAME or local:DIR")
    parser.add_argument("--base-url", help="address of its server")
    parser.add_argument("--api-key-env", help="environment variable with its key")
    parser.add_argument("--category", default="memory_kv", choices=[*BACKENDS, "memory_vector"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", required=True, help="folder of the memories")
    given = parser.parse_args()
    try:
        asyncio.run(_write(given))
    except* (AgentRLError, ValueError) as errors:
        first: BaseException = errors
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        parser.exit(1, f"{type(first).__name__}: {first}\n")
    sys.stdout.write(
        f"agentrl bench suites/BFCLMemory-v4 --kwarg category={given.category} --kwarg memory={given.out}\n"
    )


async def _write(given: argparse.Namespace) -> None:
    setup = PolicySetup(base_url=given.base_url, api_key_env=given.api_key_env, seed=given.seed)
    policy = resolve(given.policy, setup)
    try:
        await write_memories(
            policy,
            given.out,
            name=given.policy,
            category=given.category,
            seed=given.seed,
            on_progress=_said,
        )
    finally:
        await policy.aclose()


def _said(name: str) -> None:
    sys.stderr.write(f"{name}\n")


if __name__ == "__main__":
    main()

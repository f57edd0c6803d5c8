"""Playing sandboxed environments in tests: scripts of shell commands or other actions."""

from __future__ import annotations

from agentrl.env.tool_env import call
from agentrl.messages import Action


def shell(*commands):
    """Commands, one a turn, and the word that ends the episode."""
    return [*(call("shell", command=command) for command in commands), Action(text="done")]


async def play(env, task, actions=None):
    """Play a script (the oracle's by default) to the end.

    Returns: the reward of all turns, and the messages that the environment sent.
    """
    messages = list((await env.areset(seed=3, options={"task": task}))[0])
    total, ended, script = 0.0, False, None if actions is None else iter(actions)
    while not ended:
        action = env.oracle(messages) if script is None else next(script)
        observation, reward, terminated, truncated, _ = await env.astep(action)
        messages += [action.to_message(), *observation]
        total, ended = total + reward, terminated or truncated
    return total, messages


async def rewards(make, pairs):
    """Rewards of (task, script) pairs on one instance."""
    env = make()
    try:
        return [(await play(env, task, script))[0] for task, script in pairs]
    finally:
        await env.aclose()

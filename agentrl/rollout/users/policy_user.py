"""A policy as a simulated user: it has a goal, hears the assistant, and leaves by a word that the assistant never sees.

Owns the prompt, the stop rule and whose failure it is where the user's server fails: the environment's.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import replace
from weakref import WeakSet

from msgspec import structs

from agentrl.env.author_code import waiting_for
from agentrl.env.users.user import Heard, LastWords, Move, User
from agentrl.errors import ConfigError, EnvFault, ModelError, PolicyFault
from agentrl.messages import Action, Message, Role
from agentrl.policy.base import Policy, SamplingParams
from agentrl.policy.by_name import PolicySetup, resolve

SAMPLING = SamplingParams(temperature=0.0, max_tokens=512)
"""How a user is sampled unless it is said otherwise. Each reply has a seed of its own, which follows the episode's."""
_numbers = itertools.count()
_ROLES: Mapping[Role, Role] = {"assistant": "user", "user": "assistant"}
_BEGIN = "(The assistant waits for your first message.)"
_STOP_BYTES = 4
_PROMPT = """You play a user who talks with an assistant. {instructions}

What you want: {goal}

Write what the user says next, and nothing else. One short message at a time; tell only what is asked for. Do not help
the assistant with its work, and do not tell it these lines. When you have what you want, or it is clear that you will
not get it, end your message with {stop}"""


class PolicyUser(User):
    """Asks a policy what the user says.

    Args:
        policy: any policy, or its name, such as `openai:NAME`; one made of a name is made at the first reply, and
            closed with the last environment that asked it.
        instructions: how the user behaves, for all episodes; the goal comes from the episode.
        setup: what the policy of a name needs.
        max_replies: it leaves after as many, the first message included.
        sampling: of every reply.
    """

    def __init__(
        self,
        policy: Policy | str,
        instructions: str = "",
        *,
        setup: PolicySetup | None = None,
        max_replies: int = 20,
        sampling: SamplingParams = SAMPLING,
    ) -> None:
        if max_replies < 1:
            raise ValueError(f"max_replies must be at least 1, got {max_replies}")
        if not isinstance(policy, (str, Policy)):
            raise TypeError(f"policy must be a policy or its name, such as 'openai:NAME', got {policy!r}")
        self._named = policy if isinstance(policy, str) else None
        self._policy = policy if isinstance(policy, Policy) else None
        self._setup, self._asked_by = setup, WeakSet[object]()
        self.instructions, self.max_replies, self.sampling = instructions, max_replies, sampling

    @property
    def policy(self) -> Policy:
        if self._policy is None:
            assert self._named is not None
            self._policy = resolve(self._named, self._setup)
        return self._policy

    async def reply(self, heard: Heard) -> Move:
        if heard.turn >= self.max_replies:
            return None
        stop = _stop_of(heard)
        action = await self.ask(self._messages(heard, stop), heard)
        if action.tool_calls:
            return action
        text = action.text.strip()
        said, left, _ = text.partition(stop)
        if not left:
            return text
        return LastWords(said.strip()) if said.strip() else None

    def _messages(self, heard: Heard, stop: str) -> list[Message]:
        prompt = _PROMPT.format(instructions=self.instructions, goal=heard.goal or "a conversation", stop=stop)
        spoken = seen_by_the_user(heard)
        first = [] if spoken and spoken[0].role == "user" else [Message("user", _BEGIN)]
        return [Message("system", prompt), *first, *spoken]

    async def ask(self, messages: list[Message], heard: Heard) -> Action:
        """What the policy says or calls. Raises: EnvFault if its server fails or it does neither."""
        sampling = replace(self.sampling, seed=heard.seed)
        key = f"user#{next(_numbers)}"
        late = EnvFault(
            "the simulated user said nothing before the time of the hook was over: raise the environment's "
            "hook_timeout_s, or lower timeout_s and max_retries of the user",
            who="server",
        )
        try:
            policy = self.policy
            try:
                with waiting_for(late):
                    action = await policy.act(messages, heard.tools, episode_id=key, sampling=sampling)
            finally:
                await policy.release(key)
        except PolicyFault as fault:
            raise EnvFault(f"the simulated user failed: {fault}", who=fault.at, answers=fault.answers) from fault
        except (ConfigError, ModelError) as error:
            raise EnvFault(f"the simulated user failed: {error}", who="server") from error
        if action.finish_reason == "abort" or not (action.text.strip() or action.tool_calls):
            raise EnvFault(f"the simulated user said nothing (finish_reason {action.finish_reason})", who="server")
        return action

    def join(self, env: object) -> None:
        self._asked_by.add(env)

    async def leave(self, env: object) -> None:
        self._asked_by.discard(env)
        if self._named is not None and self._policy is not None and not self._asked_by:
            policy, self._policy = self._policy, None
            await policy.aclose()


def seen_by_the_user(heard: Heard) -> list[Message]:
    """The conversation as the policy of a user sees it: the user's words and calls are those of an assistant."""
    return [structs.replace(m, role=_ROLES.get(m.role, m.role)) for m in heard.messages]


def _stop_of(heard: Heard) -> str:
    """The word that ends an episode. It depends on the goal, so that an assistant cannot make the user repeat it."""
    digest = hashlib.blake2b(f"stop/{heard.goal}".encode(), digest_size=_STOP_BYTES).hexdigest()
    return f"[END-{digest}]"

"""Whose failure a fault is that comes again.

A fault discards its episode, so a policy that could bring faults about could remove its losing episodes from the count.
Owns the evidence (what is known to work in an environment, tried again in a new instance, and what other episodes under
way may show) and the ruling.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from agentrl.env.base import Env
from agentrl.env.blame import host_gives_it, is_addressed, is_authors
from agentrl.errors import EnvFault, JudgeFault, PolicyFault
from agentrl.messages import Action, Message, ToolCall
from agentrl.policy.base import Policy, SamplingParams
from agentrl.policy.scripted import OraclePolicy
from agentrl.rollout.env_pool import EnvPool
from agentrl.rollout.episode import run_episode
from agentrl.schemas.values import draw_arguments
from agentrl.trajectory import CAPTURED, Ending, Task, Trajectory, Turn

logger = logging.getLogger(__name__)
_ERROR = "Error:"
_WHOLE = ""
_CONTROL_TIMEOUT_S = 120.0
_DRAWN_CALLS = 4
_LOOKS = 3
# What an episode can take from all others, other than a server.
_SPOILT = ("author", "host")


@dataclass(frozen=True, slots=True)
class _Known:
    """The beginning of an episode in which a tool worked in its last action; or a whole episode."""

    task: Task
    seed: int
    actions: tuple[Action, ...]


class KnownToWork:
    """For each tool of an environment the shortest beginning of an episode in which it answered without an error."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}
        self._looks_left = _LOOKS

    def may_be_spoilt(self) -> bool:
        """Whether to look if what worked still does, where an episode cannot even begin; true a few times."""
        if not self.knows(frozenset()) or self._looks_left <= 0:
            return False
        self._looks_left -= 1
        return True

    def tell_of_spoilt(self, fault: EnvFault | PolicyFault) -> None:
        """Say once that what worked earlier in this run works no more, in a new instance either."""
        if self._looks_left < 0:
            return
        self._looks_left = -1
        logger.warning(
            "what worked earlier in this run fails now, in a new instance too, so that episodes are discarded: %s. "
            "Instances share whatever is outside of them (folders, quotas, module globals, services), and an episode "
            "may have spoilt it for all others: give each instance its own",
            fault,
        )

    def note(self, trajectory: Trajectory) -> None:
        """Learn from an episode, of one that ended in a fault from what went before.

        Not from one whose turns another program played.
        """
        if trajectory.env.id.startswith(CAPTURED):
            return
        for index, turn in enumerate(trajectory.turns):
            for call in turn.action.tool_calls:
                former = self._known.get(call.name)
                if (former is None or len(former.actions) > index + 1) and _worked(call, turn.next_observation):
                    self._known[call.name] = _beginning(trajectory, index + 1)
        whole = self._known.get(_WHOLE)
        scored = trajectory.ending.kind in ("answer", "tool", "environment")
        if scored and (whole is None or len(whole.actions) > len(trajectory.turns)):
            self._known[_WHOLE] = _beginning(trajectory, len(trajectory.turns))

    def knows(self, tools: Set[str]) -> bool:
        """Whether there is a control for these tools; for none of them: a whole episode."""
        return all(name in self._known for name in tools or (_WHOLE,))

    async def works(self, env: Env, tools: Set[str]) -> bool | None:
        """Whether what is known to work still does, in a new instance.

        Args:
            env: is reset.
            tools: which are in question; none of them: whole episodes, with their scores.
        Returns: None if one of these tools has never been seen to work.
        """
        wanted = [self._known.get(name) for name in tools or (_WHOLE,)]
        for known in wanted:
            if known is None:
                return None
            if not await _plays(env, known):
                return False
        return True


class UnderWay:
    """The episodes of a runner that are being played. One that met a fault can wait for what the others show."""

    def __init__(self) -> None:
        self._playing, self._waiting = set[object](), set[object]()
        self._change = asyncio.Event()

    def __len__(self) -> int:
        return len(self._playing)

    @contextmanager
    def episode(self) -> Iterator[object]:
        """While one is played. Yields: what names it."""
        name = object()
        self._playing.add(name)
        try:
            yield name
        finally:
            self._playing.remove(name)
            self._changed()

    async def show(self, name: object, is_known: Callable[[], bool]) -> None:
        """Wait until something is known, or all others that are under way now have ended, or wait for the same."""
        others = self._playing - {name}
        self._waiting.add(name)
        self._changed()
        try:
            while (others & self._playing) - self._waiting and not is_known():
                await self._change.wait()
        finally:
            self._waiting.remove(name)

    def _changed(self) -> None:
        self._change.set()
        self._change = asyncio.Event()


def acts_otherwise(former: Trajectory, now: Trajectory) -> bool:
    """Whether the model acted in another way where it had acted before: it got a second choice.

    An attempt that stops earlier gives none.
    """
    pairs = zip(_acts(former), _acts(now), strict=False)
    return any((a.text, a.tool_calls) != (b.text, b.tool_calls) for a, b in pairs)


def longest(former: Trajectory, now: Trajectory) -> Trajectory:
    """The attempt whose actions the next one takes again: the newer, unless it stopped within what was done before."""
    is_beginning = len(_acts(now)) < len(_acts(former)) and not acts_otherwise(former, now)
    return former if is_beginning else now


def _acts(trajectory: Trajectory) -> list[Action]:
    return [turn.action for turn in trajectory.turns if turn.action.finish_reason != "abort"]


def _beginning(trajectory: Trajectory, num_turns: int) -> _Known:
    actions = tuple(Action(text=t.action.text, tool_calls=t.action.tool_calls) for t in trajectory.turns[:num_turns])
    return _Known(trajectory.task, trajectory.seed, actions)


def _worked(call: ToolCall, observation: tuple[Message, ...]) -> bool:
    return any(m.tool_call_id == call.id and m.name == call.name and not _is_error(m) for m in observation)


def _is_error(message: Message) -> bool:
    return message.role == "tool" and message.content.startswith(_ERROR)


async def _plays(env: Env, known: _Known) -> bool:
    """Whether the actions can be taken again. An error that the model would read is an answer too."""
    try:
        async with asyncio.timeout(_CONTROL_TIMEOUT_S):
            await env.areset(seed=known.seed, options={"task": known.task})
            for action in known.actions:
                await env.astep(action)
    except BaseException as error:
        if not is_authors(error):
            raise
        return False
    return True


async def _answers_drawn(env: Env, trajectory: Trajectory, tool: str) -> bool:
    """Whether a tool answers one of a few calls with drawn arguments at the beginning of the episode."""
    if not callable(getattr(type(env.unwrapped), tool, None)):
        return False
    for number in range(_DRAWN_CALLS):
        rng = np.random.default_rng((trajectory.seed, number))
        try:
            async with asyncio.timeout(_CONTROL_TIMEOUT_S):
                await env.areset(seed=trajectory.seed, options={"task": trajectory.task})
                schemas = {schema["function"]["name"]: schema["function"] for schema in env.tool_schemas}
                arguments = draw_arguments(schemas[tool].get("parameters", {}), rng)
                (answer, *_), *_ = await env.astep(Action(tool_calls=(ToolCall(tool, arguments, "control"),)))
        except BaseException as error:
            if not is_authors(error):
                raise
        else:
            if not _is_error(answer):
                return True
    return False


class Repeated:
    """The faults of one episode's attempts, and what follows from them.

    Attributes:
        count: faults so far that the model may have brought about.
        readable: tools whose faults the model reads as errors in the next attempt.

    Args:
        pool: of the episode's environment; gives the instance for a control episode.
        known: what works in that environment.
        policy: plays the episode.
        under_way: the episodes that are being played.
        name: of the episode among these.
    """

    def __init__(self, pool: EnvPool, known: KnownToWork, policy: Policy, under_way: UnderWay, name: object) -> None:
        self._pool, self._known, self._policy = pool, known, policy
        self._under_way, self._name = under_way, name
        self.count = 0
        self.readable: frozenset[str] = frozenset()
        self._acted: tuple[Trajectory, EnvFault | PolicyFault] | None = None

    def ruled_on(
        self, trajectory: Trajectory, fault: EnvFault | PolicyFault | None, *, last: bool
    ) -> tuple[Trajectory, EnvFault | PolicyFault | None]:
        """The attempt that is ruled on, and its fault.

        It is the newest one, unless the attempts are used up and it failed before the model had acted, where an earlier
        one failed after that: what an episode left behind, such as a folder, may keep it from being begun again, and
        the model would then remove it by whatever makes a tool fail.
        """
        if fault is None:
            return trajectory, None
        if _brought_about(fault):
            self._acted = trajectory, fault
        elif last and self._acted is not None:
            earlier, fault = self._acted
            labels = replace(trajectory.labels, asked_anew=earlier.labels.asked_anew)
            return replace(earlier, labels=labels), fault
        return trajectory, fault

    async def again(self, trajectory: Trajectory, fault: EnvFault | PolicyFault, *, last: bool) -> bool:
        """Whether to play the episode once more; may let it count as failed instead.

        The ruling comes when the attempts are used up. The first fault that the model may have brought about is tried
        again in any case. See docs/faults.md.

        Args: last: the attempts are used up.
        """
        acted = _brought_about(fault)
        self.count += acted
        if not last and not (fault.is_late and self.count >= 2):  # code that hangs holds up every other episode
            return True
        if not acted:
            await self._look_if_spoilt(trajectory, fault)
            return False
        if self.count < 2:
            return True
        tools = _tools_of(trajectory, fault)
        if not await self._is_the_models(trajectory, fault, tools):
            return False
        if fault.at == "author" or not tools or tools <= self.readable:
            trajectory.ending = Ending("error", trajectory.ending.detail, fault.at)
            return False
        self.readable |= tools
        return True

    async def _is_the_models(self, trajectory: Trajectory, fault: EnvFault | PolicyFault, tools: Set[str]) -> bool:
        """Whether the model brought a fault about that came again.

        Author code that raises is its doing, unless what is known to work fails as well. Anything else that fails is
        its doing only if what is known to work works. A judge's server that fails never is: the verdict on an episode
        is not the episode, and what a cached verdict proves is nothing. A text on which a judge says what is no verdict
        is, if the judge gives one on another text.
        """
        if isinstance(fault, JudgeFault):
            return fault.is_of_the_text
        if isinstance(fault, PolicyFault):
            if fault.answers is None and fault.at == "server":
                return await self._serves_others(trajectory)
            return bool(fault.answers)
        self._known.note(trajectory)  # what the tool did earlier in this episode
        works = await self._environment_works(trajectory, tools)
        if works is False and fault.at in _SPOILT:
            self._known.tell_of_spoilt(fault)
        if works is None and (fault.at == "author" or fault.answers or (fault.at == "host" and host_gives_it(fault))):
            return True
        if works is None:
            # Whoever fails at once would otherwise be ruled on before any other episode can have shown that it works.
            await self._under_way.show(self._name, lambda: self._known.knows(tools))
            if self._known.knows(tools):
                works = await self._environment_works(trajectory, tools)
            elif fault.at in ("network", "server"):  # a machine that is short of something may give others less
                works = _is_steered(trajectory, fault, tools) or await self._takes_others(trajectory, tools)
        return bool(works)

    async def _look_if_spoilt(self, trajectory: Trajectory, fault: EnvFault | PolicyFault) -> None:
        """Look whether an episode that cannot begin is one of many: the author's code may fail on its task alone."""
        if fault.at not in _SPOILT or isinstance(fault, (PolicyFault, JudgeFault)) or not self._known.may_be_spoilt():
            return
        if await self._environment_works(trajectory, frozenset()) is False:
            self._known.tell_of_spoilt(fault)

    async def _environment_works(self, trajectory: Trajectory, tools: Set[str]) -> bool | None:
        try:
            env = await self._pool.lend()
        except EnvFault:
            return False
        try:
            works = await self._known.works(env, tools)
            if works is None and callable(getattr(env.unwrapped, "oracle", None)):
                shown = await run_episode(env, OraclePolicy(), trajectory.task, trajectory.seed)
                if shown.status == "fault":
                    return False
                self._known.note(shown)
                works = await self._known.works(env, tools)
            return works
        finally:
            await self._pool.discard(env)

    async def _takes_others(self, trajectory: Trajectory, tools: Set[str]) -> bool:
        """Whether tools that nobody has used well answer other arguments, drawn from their schemas, at once.

        Of methods of the environment alone, which `agentrl check` calls so too: what another tool does to a service is
        not known.
        """
        if not tools:
            return False
        try:
            env = await self._pool.lend()
        except EnvFault:
            return False
        try:
            return all([await _answers_drawn(env, trajectory, name) for name in sorted(tools)])
        finally:
            await self._pool.discard(env)

    async def _serves_others(self, trajectory: Trajectory) -> bool:
        """Whether the policy's server answers the beginning of this episode, where it fails on what the model added."""
        sampling = getattr(self._policy, "sampling", None)
        short = replace(sampling, max_tokens=1) if isinstance(sampling, SamplingParams) else None
        key = f"{trajectory.episode_id}#control"
        try:
            beginning = list(trajectory.turns[0].observation)
            action = await self._policy.act(beginning, trajectory.tools, episode_id=key, sampling=short)
        except PolicyFault:
            return False
        finally:
            await self._policy.release(key)
        return action.finish_reason != "abort"


def _is_steered(trajectory: Trajectory, fault: EnvFault | PolicyFault, tools: Set[str]) -> bool:
    """Whether the model named the machine that could not be reached, or its port, in a call of the last turn."""
    calls = trajectory.turns[-1].action.tool_calls if trajectory.turns else ()
    return is_addressed(fault, [call.arguments for call in calls if call.name in tools])


def _brought_about(fault: EnvFault | PolicyFault) -> bool:
    """Whether the model may have brought a fault about.

    A server that begins the model's first answer and never ends it failed on what the model says.
    """
    return fault.after_action or (isinstance(fault, PolicyFault) and bool(fault.answers))


def _tools_of(trajectory: Trajectory, fault: EnvFault | PolicyFault) -> frozenset[str]:
    """The tool that failed; else the tools that the last turn called. Of a policy's fault: none."""
    if isinstance(fault, PolicyFault):
        return frozenset()
    if fault.tool:
        return frozenset((fault.tool,))
    last: Turn | None = trajectory.turns[-1] if trajectory.turns else None
    return frozenset(call.name for call in last.action.tool_calls) if last is not None else frozenset()

"""A judge: any policy that scores conversations by a rubric. Owns asking, asking again, and the count of failures."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

from agentrl.env.author_code import acting_env, waiting_for
from agentrl.errors import ConfigError, JudgeFault, ModelError, PolicyFault
from agentrl.messages import Action, Message
from agentrl.policy.base import Policy, SamplingParams
from agentrl.policy.by_name import PolicySetup, parse_spec, resolve
from agentrl.rollout.judging.cache import VerdictCache
from agentrl.rollout.judging.prompt import NoVerdict, Question, comparison, question, read_verdict, transcript
from agentrl.rollout.judging.rubric import JudgeRubric, rubric_of
from agentrl.safe_json import shown

SAMPLING = SamplingParams(temperature=0.0, max_tokens=1024, seed=0)
"""How a judge is sampled unless it is said otherwise: greedily, so that the same words get the same score."""
_ROOM = (1, 4, 16)
"""Times `max_tokens` that a judge gets, once its answers are cut off: a long text takes longer thoughts."""
K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
_numbers = itertools.count()
_CONTROL = (Message("user", "Say hello."), Message("assistant", "Hello."))
_NO_JUDGES = ("oracle", "null", "random", "human", "scripted")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge says of one conversation.

    Attributes:
        score: from 0 (worst) to 1 (best).
        passed: the score is at least the rubric's `pass_at`.
        reason: the judge's own words.
        cached: it was given before, for the same words.
    """

    score: float
    passed: bool
    reason: str = ""
    cached: bool = False


@dataclass
class JudgeCounts:
    """What a judge was asked so far.

    Attributes:
        asked: verdicts that were asked of the policy.
        cached: verdicts that were known.
        reasked: requests after an answer that could not be read.
        failed: verdicts that were not given, by cause: `unreadable`, or what failed.
    """

    asked: int = 0
    cached: int = 0
    reasked: int = 0
    failed: Counter[str] = field(default_factory=Counter)


class Judge:
    """Scores conversations by a rubric.

    One judge serves any number of episodes at once, and keeps nothing of them but verdicts: copies of an environment
    share it. Use it under `async with`, or call `aclose`.

    Args:
        policy: any policy, or its name, such as `openai:NAME`; one made of a name is closed with the judge.
        rubric: an object, a text, or a file.
        setup: what the policy of a name needs.
        cache: of verdicts, or its file; None remembers them while the judge lives.
        attempts: requests for a verdict that can be read.
        sampling: of the policy.
    """

    def __init__(
        self,
        policy: Policy | str,
        rubric: str | Path | JudgeRubric,
        *,
        setup: PolicySetup | None = None,
        cache: VerdictCache | str | Path | None = None,
        attempts: int = 3,
        sampling: SamplingParams = SAMPLING,
    ) -> None:
        if attempts < 1:
            raise ValueError(f"attempts must be at least 1, got {attempts}")
        self.rubric = rubric_of(rubric)
        self._owned = isinstance(policy, str)
        self.policy = resolve(policy, setup) if isinstance(policy, str) else policy
        self.cache = cache if isinstance(cache, VerdictCache) else VerdictCache(cache)
        self.attempts, self.sampling = attempts, sampling
        self.counts = JudgeCounts()

    @property
    def name(self) -> str:
        return self.policy.name

    def __deepcopy__(self, memo: Mapping[int, Any]) -> Self:
        return self

    async def __call__(self, conversation: Sequence[Message], *, reference: str = "") -> Verdict:
        """Judge a conversation.

        Args: reference: a right answer that the judge may compare with.
        Raises: JudgeFault if the judge's server fails, or gives no verdict that can be read: `is_of_the_text` says
            whose doing that is. ConfigError if the server can never answer, such as for a wrong key; in an
            environment that is a JudgeFault.
        """
        score, reason, cached = await self._answer(question(self.rubric, conversation, reference))
        share = self.rubric.share(score)
        return Verdict(share, share >= self.rubric.passing, reason, cached)

    async def answer(self, asked: str, answered: str | None, *, reference: str = "") -> Verdict:
        """Judge one answer to one question, as an environment's `score` has them. Raises: as a call."""
        return await self([Message("user", asked), Message("assistant", answered or "")], reference=reference)

    async def prefer(self, first: Sequence[Message], second: Sequence[Message], *, reference: str = "") -> int:
        """Which of two conversations is better: 1, 2, or 0 for neither. Raises: as a call."""
        score, _, _ = await self._answer(comparison(self.rubric, first, second, reference))
        return round(score)

    async def _answer(self, asked: Question) -> tuple[float, str, bool]:
        key = f"{self.name}/{self.policy.address}/{self.sampling}/{asked.key}"
        known = self.cache.get(key)
        if known is not None:
            self.counts.cached += 1
            return *known, True
        self.counts.asked += 1
        try:
            score, reason = await self._ask(asked)
        except JudgeFault as fault:
            self.counts.failed[fault.cause] += 1
            raise
        self.cache.put(key, score, reason)
        return score, reason, False

    async def _ask(self, asked: Question, *, is_control: bool = False) -> tuple[float, str]:
        """Ask, and ask again while the answer cannot be read. Raises: JudgeFault."""
        messages, problem, action = asked.messages, "", Action()
        rooms, tries = self._rooms(), 0
        while tries < self.attempts or (action.finish_reason == "length" and len(rooms) > 1):
            if action.finish_reason == "length":  # the room may have gone into thinking on a long text
                rooms = rooms[1:] or rooms
            elif tries:
                messages = asked.again(action.text, problem)
            self.counts.reasked += tries > 0
            tries += 1
            try:
                action = await self._act(messages, replace(self.sampling, max_tokens=rooms[0]))
                return read_verdict(action.text, asked)
            except NoVerdict as error:
                problem = str(error)
            except (JudgeFault, ConfigError) as error:  # a server may take no more than its own most tokens
                if action.finish_reason != "length" or not isinstance(error.__cause__, ConfigError):
                    raise
                break
        cut = f" (cut off at max_tokens = {rooms[0]})" if action.finish_reason == "length" else ""
        answers = f"{tries} answer{'s' if tries > 1 else ''}"
        why = f"the judge {self.name} gave no verdict in {answers}: {problem}, in {shown(action.text)}{cut}"
        answers_others = None if is_control else await self._reads_others()
        raise JudgeFault(why, answers=answers_others, cause=JudgeFault.UNREADABLE)

    def _rooms(self) -> list[int]:
        """Most tokens of an answer, and of the next ones after each that was cut off."""
        return [self.sampling.max_tokens * times for times in _ROOM]

    async def _reads_others(self) -> bool:
        """Whether this judge gives a verdict, now, on a conversation that no model had a hand in."""
        try:
            await self._ask(question(self.rubric, _CONTROL, ""), is_control=True)
        except JudgeFault:
            return False
        return True

    async def _act(self, messages: Sequence[Message], sampling: SamplingParams) -> Action:
        key = f"judge#{next(_numbers)}"
        late = JudgeFault(
            f"the judge {self.name} gave no verdict before the time of the hook was over: raise the environment's "
            "hook_timeout_s, or lower timeout_s and max_retries of the judge"
        )
        try:
            with waiting_for(late):
                action = await self.policy.act(list(messages), (), episode_id=key, sampling=sampling)
            if action.finish_reason == "abort":
                raise PolicyFault("it stopped in the middle of an answer")
        except PolicyFault as fault:
            raise JudgeFault(f"the judge {self.name} failed: {fault}", who=fault.at, answers=fault.answers) from fault
        except (ConfigError, ModelError) as error:
            if acting_env() is not None:  # an episode is under way, and a key that is refused is not its failure
                raise JudgeFault(f"the judge {self.name}: {error}") from error
            raise type(error)(f"the judge {self.name}: {error}") from error
        finally:
            await self.policy.release(key)
        return action

    async def disconnect(self) -> None:
        """Close the running event loop's connections, if the policy was made of a name; the judge can be used again."""
        if self._owned:
            await self.policy.aclose()

    async def aclose(self) -> None:
        """Close the cache and, if it was made of a name, the policy."""
        self.cache.close()
        await self.disconnect()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()


def check_name(policy: str, given: str) -> None:
    """Refuse a policy that reads no rubric.

    Args: given: what stands before the name where it is given, for the message.
    Raises: ConfigError.
    """
    if parse_spec(policy).kind in _NO_JUDGES:
        raise ConfigError(f"{given}{policy} reads no rubric: name a model, such as openai:NAME")


async def judged(
    judge: Judge,
    conversations: Sequence[Sequence[Message]],
    *,
    references: Sequence[str] = (),
    max_concurrency: int = 8,
) -> list[Verdict | JudgeFault]:
    """A verdict for each conversation, or the fault that there is none. Equal conversations are asked about once.

    Args: references: a right answer for each, or none at all.
    """
    given = list(zip(conversations, references or [""] * len(conversations), strict=True))
    asked = {(transcript(one), reference): partial(judge, one, reference=reference) for one, reference in given}
    found = await _all_of(asked, max_concurrency)
    return [found[transcript(one), reference] for one, reference in given]


async def preferred(
    judge: Judge, pairs: Sequence[tuple[Sequence[Message], Sequence[Message]]], *, max_concurrency: int = 8
) -> list[int | JudgeFault]:
    """Which of each two conversations is better, as `Judge.prefer` says, or the fault that there is no verdict."""
    asked = {number: partial(judge.prefer, *pair) for number, pair in enumerate(pairs)}
    found = await _all_of(asked, max_concurrency)
    return [found[number] for number in asked]


async def _all_of(asked: Mapping[K, Callable[[], Awaitable[T]]], max_concurrency: int) -> dict[K, T | JudgeFault]:
    """The answers, or the faults, of questions that are asked at the same time."""
    slots = asyncio.Semaphore(max_concurrency)

    async def one(ask: Callable[[], Awaitable[T]]) -> T | JudgeFault:
        async with slots:
            try:
                return await ask()
            except JudgeFault as fault:
                return fault

    tasks = [asyncio.create_task(one(ask)) for ask in asked.values()]
    try:
        found = await asyncio.gather(*tasks)
    finally:  # after an error, such as a wrong key, nothing more is asked
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return dict(zip(asked, found, strict=True))

"""Environments' identities, tasks, turns, trajectories and groups: what a rollout produces. Plain values.

`Turn.action` holds the sampled ids; they are immutable from here to the gradient. The JSON form is
`agentrl.rollout.records`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from msgspec import Struct

from agentrl.errors import PolicyFault, Who
from agentrl.messages import Action, Message
from agentrl.sampling import SamplingParams

Status = Literal["terminated", "truncated", "fault"]
Mode = Literal["sampled", "greedy", "demonstration", "captured"]
EndingKind = Literal["answer", "tool", "environment", "limit", "error", "fault"]
_SUCCESS_REWARD = 1.0 - 1e-9
CAPTURED = "capture:"
"""Begins the id of an environment as an agent of its own played it: a record names it, and nothing can make it."""


@dataclass(frozen=True, slots=True)
class EnvRef:
    """An environment's identity; `agentrl.env.registry.make` builds the environment.

    Attributes:
        id: a registered id, `package.module:Class` or `./file.py:Class`.
        kwargs: given to the constructor.
        limits: those that differ from the environment's own, such as `max_turns`.
        version: of the installed package, or a hash of the file; empty where it is not resolved yet.
        url: of a server that has the environment; empty where it is made in this process. It is no part of the
            identity, and no record holds it.
    """

    id: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)
    version: str = ""
    url: str = field(default="", compare=False)

    @property
    def key(self) -> str:
        """A text that is equal for references to the same environment; the version is not part of it."""
        return json.dumps([self.id, self.kwargs, self.limits], sort_keys=True, default=repr)

    def __str__(self) -> str:
        given = {**self.kwargs, **self.limits}
        return f"{self.id}({', '.join(f'{k}={v!r}' for k, v in given.items())})" if given else self.id


@dataclass(frozen=True, slots=True)
class Task:
    """One problem of an environment.

    `data` is JSON-serialisable and is all that `start` needs; `id` is unique within the environment. Tasks that
    resemble each other, such as variants of one template, name their family in it: `data["family"]`.
    """

    id: str
    split: str = "train"
    data: Mapping[str, Any] = field(default_factory=dict)

    @property
    def family(self) -> str:
        """The family that the data name; empty where they name none."""
        named = self.data.get("family")
        return named if isinstance(named, str) else ""

    @property
    def fingerprint(self) -> str:
        """A hash of the data: 16 hexadecimal digits. A task is its content; the id only names it."""
        plain = json.loads(json.dumps(self.data, default=repr))  # as a record holds it: keys are text
        text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class Labels:
    """What the run says about an episode; `info` belongs to the environment alone.

    Attributes:
        stage: name of the stage that played it.
        step: of the stage.
        mode: how its actions came about.
        attempt: number of the try, from 0.
        superseded: another attempt followed, so this one does not count.
        asked_anew: an earlier attempt ended in a fault after the model had acted, and in this one the environment
            answered otherwise, so that the model acted in another way: it had a second choice.
    """

    stage: str = ""
    step: int = 0
    mode: Mode = "sampled"
    attempt: int = 0
    superseded: bool = False
    asked_anew: bool = False


@dataclass(frozen=True, slots=True)
class Ending:
    """Why an episode stopped.

    Attributes:
        kind: `answer` and `tool`: what the model did ended it; `environment`: the environment did; `limit`: cut off;
            `error`: the model's doing made going on impossible, which is scored as a failure; `fault`: something failed
            that is not the model's, which is never scored.
        detail: which limit, or the cause.
        who: what failed, in a fault, and in an error where the model's actions made it fail.
    """

    kind: EndingKind = "environment"
    detail: str = ""
    who: Literal[""] | Who = ""


_STATUS: Mapping[EndingKind, Status] = {"limit": "truncated", "fault": "fault"}


def succeeded(info: Mapping[str, Any], reward: float) -> bool:
    """The one rule for success: the environment's verdict `info["success"]`, else a reward of at least 1.

    Args:
        info: of the last step.
        reward: of the whole episode.
    """
    verdict = info.get("success")
    return bool(verdict) if verdict is not None else reward >= _SUCCESS_REWARD


class Turn(Struct, gc=False):
    """One model call and what came back.

    Attributes:
        observation: the messages that were new to the model at this turn.
        action: what it answered, with prompt ids, sampled ids and logprobs where known.
        reward: the environment's reward for this step, unit-free.
        reward_components: the named parts of that reward before weighting.
        next_observation: messages that the step produced: the next turn's observation.
        state_key: name of the environment's state before the action, for step-level baselines
            (GiGPO's anchor states); None where the environment has none.
        policy_s, env_s: wall seconds spent in the policy and in the environment.
        trainer_logprobs: (T,) log-probability in nats that the model had for each sampled id when it began to learn
            from the turn; None where that was not recorded.
    """

    observation: tuple[Message, ...]
    action: Action
    reward: float = 0.0
    reward_components: Mapping[str, float] = {}
    next_observation: tuple[Message, ...] = ()
    state_key: str | None = None
    policy_s: float = 0.0
    env_s: float = 0.0
    trainer_logprobs: tuple[float, ...] | None = None


@dataclass(slots=True)
class Trajectory:
    """The turns of one episode.

    Attributes:
        env: which environment.
        task, seed: what it started from.
        turns: model calls, in order.
        ending: why it stopped; an episode that ended in a fault has no meaningful reward and never trains or scores.
        group_id: names the task and seed it shares with others.
        episode_id: names the episode in its run; attempts share it.
        labels: what the run says about it.
        info: what the environment said at the end.
        tools: definitions that the model was shown.
        fork: (episode_id, turn) that it continues; turns before that one are context and do not train.
        sampling: what each turn was asked of the policy with; None where the policy samples nothing.
    """

    env: EnvRef
    task: Task
    seed: int
    turns: list[Turn] = field(default_factory=list)
    ending: Ending = Ending()
    group_id: str = ""
    episode_id: str = ""
    labels: Labels = Labels()
    info: Mapping[str, Any] = field(default_factory=dict)
    tools: Sequence[Mapping[str, Any]] = ()
    fork: tuple[str, int] | None = None
    sampling: SamplingParams | None = None

    @property
    def status(self) -> Status:
        """The status that follows from the ending, in Gymnasium's words."""
        return _STATUS.get(self.ending.kind, "terminated")

    @property
    def error(self) -> str | None:
        """The cause, if the episode ended in a fault."""
        return self.ending.detail if self.ending.kind == "fault" else None

    @property
    def reward(self) -> float:
        """The sum of the turns' rewards."""
        total = 0.0
        for turn in self.turns:
            total += turn.reward
        return total

    @property
    def success(self) -> bool:
        """Whether the episode solved its task; one that ended in an error or a fault did not."""
        return self.ending.kind not in ("error", "fault") and succeeded(self.info, self.reward)

    @property
    def reward_components(self) -> dict[str, float]:
        """Named reward parts, summed over the turns."""
        total: dict[str, float] = {}
        for turn in self.turns:
            for name, value in turn.reward_components.items():
                total[name] = total.get(name, 0.0) + value
        return total

    @property
    def trains(self) -> bool:
        """Whether it may train and enter statistics of training: no fault, and no greedy episode, which measures."""
        return self.ending.kind != "fault" and self.labels.mode != "greedy"

    @property
    def first_own_turn(self) -> int:
        """The first turn that was played here; the turns before it belong to the episode that this one continues."""
        return self.fork[1] if self.fork is not None else 0

    @property
    def num_sampled_tokens(self) -> int:
        """Tokens that were sampled in this episode, without those of the episode that it continues."""
        return sum(len(turn.action.token_ids or ()) for turn in self.turns[self.first_own_turn :])

    def messages(self) -> list[Message]:
        """The whole conversation: observations and actions in order, the final observation included."""
        conversation: list[Message] = []
        for turn in self.turns:
            conversation.extend(turn.observation)
            conversation.append(turn.action.to_message())
        if self.turns:
            conversation.extend(self.turns[-1].next_observation)
        return conversation


@dataclass(slots=True)
class TrajectoryGroup:
    """Trajectories of the same task and seed, compared with each other; any size from 1.

    `preferences` are (better, worse) indices into them; `margins` holds a number for each preference, by how much the
    score of a reward model should differ, or nothing, and then that is the difference in reward.
    """

    group_id: str
    trajectories: list[Trajectory]
    preferences: tuple[tuple[int, int], ...] = ()
    margins: tuple[float, ...] = ()

    @property
    def rewards(self) -> list[float]:
        return [trajectory.reward for trajectory in self.trajectories]


def context_after(action: Action) -> tuple[int, ...]:
    """Ids the model has seen or sampled up to the end of this action."""
    return (*(action.prompt_ids or ()), *(action.token_ids or ()))


def follows_actions(episode: Trajectory) -> bool:
    """Whether an episode is discarded after an action of the model reached the environment.

    The model may then have brought the fault about. A fault of the policy's own server is no such case, nor is one
    before the first action.
    """
    if episode.ending.kind != "fault" or not episode.turns:
        return False
    if not episode.ending.detail.startswith(PolicyFault.__name__):
        return any(turn.action.finish_reason != "abort" for turn in episode.turns)
    # A server that the environment asks, such as that of a simulated user, fails in a step, which stays unfinished.
    last = episode.turns[-1]
    return last.action.finish_reason != "abort" and not last.next_observation and last.env_s == 0.0


def counted_successes(episodes: Iterable[Trajectory]) -> list[bool]:
    """Success of each sampled episode, for pass rates that decide what is played, trained on or stopped.

    One that was discarded after the model had acted counts as failed, and so does one with a second choice: a policy
    could otherwise remove its losing episodes. Greedy ones, and what was discarded before, are left out.
    """
    sampled = [t for t in episodes if t.trains or (t.labels.mode != "greedy" and follows_actions(t))]
    return [t.success and not t.labels.asked_anew for t in sampled]

"""Forks: a recorded episode is taken up again at one of its turns, and a person or a policy plays on.

Environments may be anybody's code, which may block: forks live in a thread with an event loop of its own, so that the
page stays alive. A fork is kept in memory until it is saved, to a store of its own, never into a run.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import threading
from collections.abc import Coroutine, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self, TypeVar

from agentrl.env import registry
from agentrl.env.base import Env
from agentrl.errors import AgentRLError, ConfigError
from agentrl.messages import Action
from agentrl.policy.base import Policy
from agentrl.policy.by_name import PolicySetup, resolve
from agentrl.rollout.episode import run_episode
from agentrl.rollout.replay import naming_rule
from agentrl.trajectory import EnvRef, Labels, Mode, Trajectory
from agentrl.viewer.forks.player import Fork, Make, Player
from agentrl.viewer.forks.store import STAGE, ForkStore, check_out

T = TypeVar("T")
_PLAIN = ("oracle", "null", "random")
_MOST_FORKS, _MOST_KEPT = 16, 64
_ASK_S = 30.0
_LATER_S = 0.01


@dataclass(frozen=True)
class ForkOptions:
    """What forks may use, as the user said when the page was started.

    Attributes:
        out: folder of the store in which forks are saved.
        policies: name -> set-up of those that may play on, besides the plain ones; a request chooses among these alone.
        trust_record: the record may name code to import and a place to run it.
    """

    out: Path = Path("forks")
    policies: Mapping[str, PolicySetup] = field(default_factory=dict)
    trust_record: bool = False

    @property
    def names(self) -> list[str]:
        """Policies that may play on."""
        return list(dict.fromkeys((*self.policies, *_PLAIN)))


class Forks:
    """The forks of one page; a context manager that owns their thread.

    Args: options: what they may use.
    """

    def __init__(self, options: ForkOptions) -> None:
        self.options = options
        self.all: dict[str, Fork] = {}
        self._numbers = itertools.count(1)
        self._policies: dict[str, asyncio.Future[Policy]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="agentrl-view-forks", daemon=True)
        self._store = ForkStore(options.out)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        ended = asyncio.run_coroutine_threadsafe(self._end(), self._loop)
        try:
            ended.result(_ASK_S)
        except TimeoutError:  # author code holds the loop: the thread is a daemon, and ends with the process
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        tasks = [fork.task for fork in self.all.values() if fork.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for made in await asyncio.gather(*self._policies.values(), return_exceptions=True):
            if isinstance(made, Policy):
                await made.aclose()
        self._store.close()

    async def _ask(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something in the thread of the forks. Raises: AgentRLError if it does not answer in time."""
        asked: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(asked), _ASK_S)
        except TimeoutError:
            raise AgentRLError(
                f"no answer within {_ASK_S:g} seconds: an environment or a policy of a fork holds the thread"
            ) from None

    def begin(self, source: str, line: int, recorded: Trajectory, turn: int) -> Fork:
        """Take up an episode before its action of a turn. Raises: AgentRLError if that cannot be."""
        if not 0 <= turn < len(recorded.turns):
            raise AgentRLError(f"the episode has turns 0 to {len(recorded.turns) - 1}, not {turn}")
        check_out(self.options.out)  # before anybody plays for nothing
        over = [fork.id for fork in self.all.values() if fork.state in ("ended", "failed")]
        if len(self.all) - len(over) >= _MOST_FORKS:
            raise AgentRLError(f"{_MOST_FORKS} forks are open: end one first")
        for name in over[:-_MOST_KEPT]:
            del self.all[name]
        fork = Fork(f"fork-{next(self._numbers)}", (source, line, turn), recorded)
        self.all[fork.id] = fork
        self._loop.call_soon_threadsafe(self._start, fork)  # it is not waited for: author code may block
        return fork

    def _start(self, fork: Fork) -> None:
        fork.player = Player(fork)
        fork.task = self._loop.create_task(self._play(fork, fork.player))

    async def _play(self, fork: Fork, player: Player) -> None:
        recorded = fork.recorded
        env: Env | None = None
        try:
            with naming_rule(recorded.env, given=False, trusts=self.options.trust_record):
                env = registry.make(replace(recorded.env, version=""))
                fork.note = _other_version(recorded.env, env)
                fork.result = await run_episode(
                    env,
                    player,
                    recorded.task,
                    recorded.seed,
                    group_id=recorded.group_id,
                    episode_id=f"fork-{secrets.token_hex(6)}",
                    labels=Labels(stage=STAGE),
                    earlier=_beginning(recorded, fork.turn),
                    fork=(recorded.episode_id, fork.turn) if fork.turn else None,
                )
            fork.state = "failed" if fork.result.ending.kind == "fault" else "ended"
            fork.problem = fork.result.error or ""
            fork.messages = tuple(fork.result.messages())
        except Exception as error:  # author code can raise anything: the person is told
            fork.state, fork.problem = "failed", f"{type(error).__name__}: {error}"
        finally:
            if env is not None:
                await env.aclose()

    async def act(self, fork: Fork, action: Action) -> None:
        """Play one action of a person. Raises: AgentRLError if nobody waits for one."""
        await self._ask(self._sent(fork, action))

    async def play_on(self, fork: Fork, name: str) -> None:
        """Let a policy play to the end. Raises: AgentRLError if there is no such policy, or nobody waits for one."""
        if name not in self.options.names:
            raise ConfigError(f"no policy {name!r}: choose one of {', '.join(self.options.names)}")
        await self._ask(self._sent(fork, lambda: self._policy(name)))

    async def _sent(self, fork: Fork, wanted: Action | Make) -> None:
        if fork.state != "waiting" or fork.player is None:
            raise AgentRLError(f"the fork is {fork.state}: it takes no action now")
        fork.state = "playing"
        # Later, so that the answer is out before the environment's code runs, which may block.
        self._loop.call_later(_LATER_S, fork.player.send, wanted)

    async def _policy(self, name: str) -> Policy:
        """The policy of a name that the user gave: it is made once, in a thread, as loading a model takes a while."""
        found = self._policies.get(name)
        if found is None or (found.done() and found.exception() is not None):
            setup = self.options.policies.get(name) or PolicySetup()
            # Unlike `asyncio.to_thread`, this does not take along the rule for what a record may name.
            found = self._policies[name] = self._loop.run_in_executor(None, lambda: resolve(name, setup))
        return await asyncio.shield(found)

    async def save(self, fork: Fork) -> str:
        """Append an ended fork to the store of forks. Returns: its path. Raises: AgentRLError."""
        if fork.result is None or fork.state != "ended":
            raise AgentRLError(f"the fork is {fork.state}: only an episode that ended is saved")
        if not fork.saved:
            await self._ask(self._save(fork, fork.result))
        return fork.saved

    async def _save(self, fork: Fork, result: Trajectory) -> None:
        mode: Mode = "demonstration" if fork.by_person else "sampled"
        fork.saved = str(self._store.append(replace(result, labels=replace(result.labels, mode=mode))))

    async def end(self, fork: Fork) -> None:
        """Stop a fork and forget it."""
        self.all.pop(fork.id, None)
        await self._ask(self._cancelled(fork))

    async def _cancelled(self, fork: Fork) -> None:
        if fork.task is not None:
            fork.task.cancel()
            await asyncio.gather(fork.task, return_exceptions=True)


def _other_version(recorded: EnvRef, env: Env) -> str:
    here: EnvRef | None = env.unwrapped.ref  # type: ignore[attr-defined]
    if here is None or not recorded.version or not here.version or here.version == recorded.version:
        return ""
    return f"{recorded.id} was recorded with version {recorded.version!r}, here it is {here.version!r}"


def _beginning(recorded: Trajectory, turn: int) -> Trajectory | None:
    """What an episode did before a turn."""
    return replace(recorded, turns=recorded.turns[:turn]) if turn else None

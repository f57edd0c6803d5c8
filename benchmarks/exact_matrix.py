"""Are 96 of 96 episodes sampled with the same bits, whatever else is going on? Tokens and log-probabilities.

    OMP_NUM_THREADS=1 nice -n 10 python benchmarks/exact_matrix.py [--out OUT] [--table]

`live`: 96 episodes of three turns by a tiny model, with 1, 7, 64 and 256 at once, at temperatures 1 and 2.5, all from
their beginning or with a continuation from each later turn (`forks`), in one process and by 1 and 2 samplers
(processes). All are compared with those of one process that plays them one at a time. `killed`: a training run without
lag samples 96 episodes in four steps, is killed with SIGKILL at a random time after its second step and goes on; it is
compared with the run of one process that nobody killed. `cost`: CPU seconds with exact shapes over those without, in
one process, both played in turns, medians of five.

Each finished cell is a line of OUT/cells.jsonl and is not computed again. Exit code 1 if an episode differs.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import multiprocessing
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from agentrl.distributed.local import LocalWorkers
from agentrl.distributed.samplers import Samplers
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv
from agentrl.learning.credit.forked import Forked
from agentrl.learning.learner import LearnerSettings
from agentrl.policy.local import LocalPolicy
from agentrl.rollout.requests import GroupRequest
from agentrl.rollout.runner import Rollouts
from agentrl.rollout.sources.forked import Forks, request_of
from agentrl.rollout.store import TrajectoryStore
from agentrl.sampling import SamplingParams
from agentrl.training.model_setup import ModelConfig
from agentrl.training.plan import TrainConfig
from agentrl.training.progress import Progress
from agentrl.training.settings import EnvConfig, RunConfig, SamplingConfig, ScaleConfig
from agentrl.training.stages.playing import Playing
from agentrl.training.stages.reinforce import Reinforce
from agentrl.training.stages.supervise import Supervise
from agentrl.training.train import resume, train
from agentrl.trajectory import EnvRef, Task, Trajectory, TrajectoryGroup

EPISODES, TURNS, TOKENS, AT_MOST = 96, 3, 24, 256
AT_ONCE, TEMPERATURES, SAMPLERS = (1, 7, 64, 256), (1.0, 2.5), (0, 1, 2)
COST_ROUNDS, COST_AT_ONCE = 5, (7, 64, 256)
WARM = LearnerSettings(lr=0.03, optimizer="muon")
KEPT = Path(__file__).resolve().parent / "results" / "exact-matrix"
ENV = f"{Path(__file__).resolve()}:Asked"
Bits = dict[str, list[tuple[Any, Any]]]
Keep = Callable[[dict[str, Any]], None]
Wanted = dict[tuple[float, bool], Bits]
_FORK = multiprocessing.get_context("fork")


class Asked(ToolEnv):
    """Three questions; half of the first ones begin alike. Whatever is said is an answer."""

    max_turns = TURNS
    tasks = Tasks.of(train=[{"n": n} for n in range(EPISODES)], eval=[{"n": EPISODES}])

    def start(self, task: Task) -> str:
        number = task.data["n"]
        self._left = TURNS
        words = random.Random(number % 7 if number % 2 else number)
        return " ".join(f"item {words.randrange(400)} costs" for _ in range(words.randrange(3, 25)))

    def respond(self, text: str) -> str | None:
        self._left -= 1
        return f"and item {len(text)} in shop {self.task.data['n']}?" if self._left else None

    def score(self, answer: str | None) -> float:
        return float(len(answer or "") % 2)

    def seller(self, messages: Any) -> str:
        """Some words, of a length that the model can keep to."""
        words = random.Random(f"{self.task.id} {len(messages)}")
        return f"item {words.randrange(400)} in shop {words.randrange(9)}"[: words.randrange(4, 20)]


def bits(episodes: list[Trajectory]) -> Bits:
    """What each episode sampled, by its name."""
    return {
        f"{t.group_id} {t.episode_id} {t.fork}": [(turn.action.token_ids, turn.action.logprobs) for turn in t.turns]
        for t in episodes
    }


def made(folder: Path) -> ModelConfig:
    """A tiny model that has learned to end its turns."""
    stage = Supervise({"seller": 1.0}, num_episodes=384, epochs=2, batch_episodes=16, learner=WARM)
    config = TrainConfig(
        env=EnvConfig(ENV),
        model=ModelConfig(hidden_size=64, num_layers=2),
        stages={"warm": stage},
        run=RunConfig(evaluate_every=0, tensorboard=False),
    )
    child = _FORK.Process(target=train, args=(config, folder))
    child.start()
    child.join()
    return ModelConfig(path=str(folder / "model"))


@asynccontextmanager
async def players(policy: LocalPolicy, count: int) -> AsyncIterator[Any]:
    """Runs requests at a temperature: in this process, or by samplers that are started once."""
    ref = EnvRef(ENV)
    async with policy:
        if count:
            own = Rollouts(ref, policy, max_concurrency=AT_MOST)
            workers = LocalWorkers(policy, "auto", [ref], AT_MOST, ScaleConfig(samplers=count))
            async with Samplers(own, workers, count, restarts=3, version=policy.version) as samplers:
                yield lambda asked, sampling: samplers.run(asked, judged=False, sampling=sampling)
            return

        async def play(asked: list[GroupRequest], sampling: SamplingParams) -> list[TrajectoryGroup]:
            async with Rollouts(ref, policy, sampling=sampling, max_concurrency=AT_MOST) as rollouts:
                return await rollouts.run(asked, judged=False)

        yield play


async def sample(play: Any, at_once: int, temperature: float, forks: bool) -> Bits:
    """96 episodes and their continuations, of which `at_once` are under way."""
    sampling, gate = SamplingParams(temperature, max_tokens=TOKENS), asyncio.Semaphore(at_once)
    tasks = Asked.tasks.split("train")

    async def played(request: GroupRequest) -> Trajectory:
        async with gate:
            (group,) = await play([request], sampling)
        return group.trajectories[0]

    async def all_of(request: GroupRequest) -> list[Trajectory]:
        whole = await played(request)
        turns = range(1, len(whole.turns)) if forks else ()
        return [whole, *await asyncio.gather(*(played(request_of(whole, turn, 1)) for turn in turns))]

    asked = [GroupRequest(task, seed=number) for number, task in enumerate(tasks)]
    found = await asyncio.gather(*map(all_of, asked))
    return bits([episode for of_request in found for episode in of_request])


async def live(model: ModelConfig, count: int, wanted: Wanted, done: set[str], keep: Keep) -> None:
    """The cells of one number of samplers. All must equal the first ones: one at a time in this process."""
    async with players(LocalPolicy.from_folder(model.path or "", slots=64, exact=True), count) as play:
        for at_once, temperature, forks in itertools.product(AT_ONCE, TEMPERATURES, (False, True)):
            name = f"live/{count} samplers/{at_once} at once/{temperature}/{'forks' if forks else 'whole'}"
            is_first = count == 0 and at_once == 1
            if name in done and not is_first:
                continue
            found = await sample(play, at_once, temperature, forks)
            if is_first:
                wanted[temperature, forks] = found
            if name not in done:
                keep(row(name, found, wanted[temperature, forks]))


def row(name: str, found: Bits, wanted: Bits) -> dict[str, Any]:
    """How many episodes have the same bits."""
    equal = sum(found.get(episode) == sampled for episode, sampled in wanted.items())
    return {"cell": name, "equal": equal, "of": len(wanted), "whole": found == wanted and len(wanted) >= EPISODES}


def plan(model: ModelConfig, count: int, temperature: float, forks: bool) -> TrainConfig:
    """A run that samples 96 episodes in four steps, and their continuations."""
    playing = Playing(3, 8, forks=Forks(1, "every") if forks else None)
    given: dict[str, Any] = {"credit": Forked()} if forks else {}
    stage = Reinforce(steps=4, playing=playing, checkpoint_every=1, learner=LearnerSettings(lr=1e-3), **given)
    return TrainConfig(
        env=EnvConfig(ENV),
        model=replace(model, slots=64),
        sampling=SamplingConfig(temperature, max_tokens=TOKENS, exact=True),
        stages={"rl": stage},
        run=RunConfig(evaluate_every=0, tensorboard=False),
        scale=ScaleConfig(samplers=count),
    )


def sampled_by(run: Path) -> Bits:
    """The training episodes of a run."""
    return bits([t for t in TrajectoryStore(run / "trajectories.jsonl") if t.labels.stage == "rl"])


def killed(config: TrainConfig, run: Path, rng: random.Random) -> str:
    """Begin a run, kill it after its second step, and let it go on. Returns: when it was killed."""
    ours, theirs = _FORK.Pipe(duplex=False)

    def told(progress: Progress) -> None:
        if progress.stage == "rl" and progress.metrics:
            theirs.send(progress.step)

    child = _FORK.Process(target=train, args=(config, run), kwargs={"on_progress": told})
    child.start()
    theirs.close()
    while ours.recv() < 2:
        pass
    delay_s = rng.uniform(0.0, 0.3)
    time.sleep(delay_s)
    child.kill()
    child.join()
    again = _FORK.Process(target=resume, args=(run,))
    again.start()
    again.join()
    if again.exitcode:
        raise SystemExit(f"{run}: the resumed run ended with exit code {again.exitcode}")
    return f"step 2 + {1000 * delay_s:.0f} ms"


def killed_cells(model: ModelConfig, root: Path, done: set[str]) -> Iterator[dict[str, Any]]:
    for temperature, forks in itertools.product(TEMPERATURES, (False, True)):
        names = {n: f"killed/{n} samplers/{temperature}/{'forks' if forks else 'whole'}" for n in SAMPLERS}
        if set(names.values()) <= done:
            continue
        whole = root / f"whole-{temperature}-{forks}"
        unhurt = _FORK.Process(target=train, args=(plan(model, 0, temperature, forks), whole))
        unhurt.start()
        unhurt.join()
        for count, name in names.items():
            if name not in done:
                run = root / name.replace("/", "-").replace(" ", "-")
                when = killed(plan(model, count, temperature, forks), run, random.Random(name))
                yield {**row(name, sampled_by(run), sampled_by(whole)), "killed": when}
                shutil.rmtree(run)


def cost(model: ModelConfig, done: set[str]) -> Iterator[dict[str, Any]]:
    """CPU seconds with exact shapes and without, in turns."""
    for at_once in COST_AT_ONCE:
        name = f"cost/{at_once} at once"
        if name in done:
            continue
        taken: dict[bool, list[float]] = {True: [], False: []}
        for _, exact in itertools.product(range(COST_ROUNDS), (True, False)):
            taken[exact].append(asyncio.run(_cpu_s(model, at_once, exact)))
        ratio = statistics.median(a / b for a, b in zip(taken[True], taken[False], strict=True))
        seconds = {"exact_s": statistics.median(taken[True]), "otherwise_s": statistics.median(taken[False])}
        yield {"cell": name, "ratio": round(ratio, 3), **{key: round(value, 3) for key, value in seconds.items()}}


async def _cpu_s(model: ModelConfig, at_once: int, exact: bool) -> float:
    async with players(LocalPolicy.from_folder(model.path or "", slots=64, exact=exact), 0) as play:
        started = time.process_time()
        await sample(play, at_once, 1.0, False)
        return time.process_time() - started


def measure(done: set[str], root: Path, keep: Keep) -> None:
    """Hand over each cell that is not done yet."""
    model, wanted = made(root / "model"), Wanted()
    for one in cost(model, done):
        keep(one)
    for count in SAMPLERS:
        asyncio.run(live(model, count, wanted, done, keep))
    for one in killed_cells(model, root, done):
        keep(one)


def table(rows: list[dict[str, Any]]) -> str:
    """Equal episodes: a line for each temperature and kind of episode, a column for each number at once."""
    found = {one["cell"]: one for one in rows}
    heads = ["samplers", "temperature", "episodes", *(f"{n} at once" for n in AT_ONCE), "killed and resumed"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for count, temperature, kind in itertools.product(SAMPLERS, TEMPERATURES, ("whole", "forks")):
        names = [f"live/{count} samplers/{n} at once/{temperature}/{kind}" for n in AT_ONCE]
        names.append(f"killed/{count} samplers/{temperature}/{kind}")
        shown = [f"{found[name]['equal']}/{found[name]['of']}" if name in found else "" for name in names]
        lines.append("| " + " | ".join([str(count), str(temperature), kind, *shown]) + " |")
    lines += ["", "| at once | CPU s, exact | CPU s, otherwise | ratio |", "|---|---|---|---|"]
    for one in (one for one in rows if "ratio" in one):
        at_once = one["cell"].split("/")[1].split()[0]
        lines.append(f"| {at_once} | {one['exact_s']:.2f} | {one['otherwise_s']:.2f} | {one['ratio']:.2f} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=KEPT, help="where finished cells are kept")
    parser.add_argument("--table", action="store_true", help="only print the table of the finished cells")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    log = given.out / "cells.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = {one["cell"] for one in rows}

    def keep(one: dict[str, Any]) -> None:
        rows.append(one)
        with log.open("a") as lines:
            lines.write(json.dumps(one) + "\n")
        print(json.dumps(one), flush=True)

    if not given.table:
        with tempfile.TemporaryDirectory() as scratch:
            measure(done, Path(scratch), keep)
    print(table(rows))
    return int(not all(one.get("whole", True) for one in rows))


if __name__ == "__main__":
    raise SystemExit(main())

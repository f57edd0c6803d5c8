"""A suite: several environments that one policy is measured on, as a TOML file names them, each a benchmark of its own.

Owns the file's form, the mean over environments, and the folder of a suite: a benchmark's folder for each environment,
and `suite.json`. Comparing two of them belongs to `agentrl.bench.suites.comparison`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from agentrl.bench.estimates import Estimate
from agentrl.bench.folder import SUITE
from agentrl.bench.measures.cost import Price
from agentrl.bench.result import BenchConfig, BenchResult
from agentrl.bench.runner import run_bench
from agentrl.config import Count, Positive, Whole, load_config
from agentrl.env import registry
from agentrl.errors import AgentRLError, ConfigError, EnvNotFound
from agentrl.policy.base import SamplingParams
from agentrl.policy.by_name import PolicySetup, parse_spec
from agentrl.policy.remote.apis import APIS
from agentrl.policy.remote.options import ChatOptions
from agentrl.rollout.lock import is_empty
from agentrl.rollout.store import write_summary
from agentrl.trajectory import EnvRef, Trajectory

OnProgress = Callable[[str, int, int, Trajectory], None]


@dataclass(frozen=True)
class SuiteEnv:
    """One environment of a suite, `[envs.NAME]`.

    Attributes:
        id: a registered id, `package.module:Class`, or `./file.py:Class`.
        kwargs: given to its constructor.
        max_turns: overrides the environment's own limit.
        split: whose tasks are played.
        num_tasks: how many; None takes all.
        trials: episodes of each task; None is the suite's.
        weight: of its score in the mean over environments.
    """

    id: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    max_turns: Count | None = None
    split: str = "eval"
    num_tasks: Count | None = None
    trials: Count | None = None
    weight: Positive = 1.0

    @property
    def ref(self) -> EnvRef:
        limits = {} if self.max_turns is None else {"max_turns": self.max_turns}
        return registry.reference(self.id, **self.kwargs, **limits)


@dataclass(frozen=True)
class Spending:
    """What a suite may cost: the price of the policy's tokens, and the most USD for all environments together."""

    price: Price | None = None
    budget_usd: float | None = None

    def after(self, results: Iterable[BenchResult]) -> Spending:
        """What is left after some environments; not above 0 where all is spent."""
        if self.budget_usd is None:
            return self
        return replace(self, budget_usd=self.budget_usd - sum(result.cost_usd or 0.0 for result in results))


@dataclass(frozen=True)
class Suite:
    """What a suite's file says.

    Attributes:
        envs: by name.
        trials: episodes of each task.
        seed: of tasks, environments and sampling.
        max_concurrency: episodes alive at the same time.
        references: also play the null policy and, where there is one, the oracle.
        measures: further measures, by name.
        chat: settings of requests, for a policy behind a server; what the caller sets counts before them.
        base_url, api_key_env: address and key of the server, likewise.
    """

    envs: Mapping[str, SuiteEnv]
    trials: Count = 1
    seed: Whole = 0
    max_concurrency: Count = 64
    references: bool = True
    measures: tuple[str, ...] = ()
    chat: ChatOptions = ChatOptions()
    base_url: str | None = None
    api_key_env: str | None = None

    def __post_init__(self) -> None:
        if not self.envs:
            raise ValueError("a suite names at least one environment: [envs.NAME] with id = ...")
        unfit = [name for name in self.envs if not name.replace("-", "").replace("_", "").isalnum()]
        if unfit:
            raise ValueError(f"an environment's name is made of letters, digits, - and _, got {unfit[0]!r}")

    def setup_of(self, policy: str, given: PolicySetup) -> PolicySetup:
        """The set-up of a policy: what the caller gave, and what it left open as the file says."""
        if parse_spec(policy).kind not in APIS:
            return given
        return replace(
            given,
            chat={**self.chat.given, **given.chat},
            base_url=given.base_url or self.base_url,
            api_key_env=given.api_key_env or self.api_key_env,
        )

    def config_of(self, name: str, sampling: SamplingParams | None, spending: Spending) -> BenchConfig:
        """What is measured on one of the environments, and what it may cost."""
        env = self.envs[name]
        return BenchConfig(
            env.split,
            env.num_tasks,
            env.trials or self.trials,
            self.seed,
            sampling,
            self.max_concurrency,
            self.references,
            spending.price,
            spending.budget_usd,
        )


def load_suite(path: str | Path, overrides: Sequence[str] = ()) -> Suite:
    """Read a suite's TOML file. Raises: ConfigError for a wrong key or value; EnvNotFound."""
    suite = load_config(Suite, path, overrides)
    for name, env in suite.envs.items():
        try:
            registry.spec(env.id)
        except EnvNotFound as error:
            raise EnvNotFound(f"{path}, [envs.{name}]: {error}") from None
    return suite


@dataclass(frozen=True)
class SuiteResult:
    """What a policy scored on a suite.

    Attributes:
        results: by environment; those that could not be played are in `errors`.
        weights: of the environments in the mean.
        errors: why an environment could not be played.
    """

    policy: str
    results: Mapping[str, BenchResult]
    weights: Mapping[str, float]
    errors: Mapping[str, str]

    @property
    def status(self) -> str:
        if self.errors:
            return "failed"
        unfinished = [r.status for r in self.results.values() if r.status != "finished"]
        missing = self.weights.keys() - self.results.keys()
        return unfinished[0] if unfinished else "interrupted" if missing else "finished"

    @property
    def cost_usd(self) -> float | None:
        """What the episodes on record cost; None where no price is known."""
        costs = [result.cost_usd for result in self.results.values() if result.cost_usd is not None]
        return math.fsum(costs) if costs else None

    @property
    def mean(self) -> Estimate | None:
        """Success, averaged over environments by their weights; None where one of them has no score."""
        if self.errors or self.results.keys() != self.weights.keys():
            return None
        return weighted_mean({name: r.score.success for name, r in self.results.items()}, self.weights)

    @property
    def lowest(self) -> tuple[str, Estimate] | None:
        """The environment with the lowest success."""
        rates = {name: r.score.success for name, r in self.results.items()}
        name = min(rates, key=lambda name: rates[name].mean, default=None)
        return None if name is None else (name, rates[name])

    @property
    def warnings(self) -> list[str]:
        """Why scores cannot be trusted; empty where they can."""
        return [f"{name}: {warning}" for name, result in self.results.items() for warning in result.warnings]

    def to_json(self) -> dict[str, Any]:
        """A dictionary that JSON can hold; each environment's own result stands in its folder."""
        lowest = self.lowest
        return {
            "status": self.status,
            "policy": self.policy,
            "mean": None if self.mean is None else self.mean.to_json(),
            "lowest": None if lowest is None else {"env": lowest[0], **lowest[1].to_json()},
            "weights": dict(self.weights),
            "errors": dict(self.errors),
            "cost_usd": self.cost_usd,
            "warnings": self.warnings,
            "envs": {name: {k: v for k, v in r.to_json().items() if k != "tasks"} for name, r in self.results.items()},
        }


def weighted_mean(estimates: Mapping[str, Estimate], weights: Mapping[str, float]) -> Estimate:
    """m = sum w_k m_k / sum w_k over independent estimates; half-widths add as squares, below and above separately."""
    total = sum(weights.values())
    shares = {name: weights[name] / total for name in estimates}
    mean = sum(shares[name] * e.mean for name, e in estimates.items())
    low = math.sqrt(sum((shares[name] * (e.mean - e.low)) ** 2 for name, e in estimates.items()))
    high = math.sqrt(sum((shares[name] * (e.high - e.mean)) ** 2 for name, e in estimates.items()))
    return Estimate(mean, mean - low, mean + high, len(estimates))


def run_suite(
    suite: Suite,
    policy: str,
    out: str | Path,
    *,
    setup: PolicySetup | None = None,
    on_progress: OnProgress | None = None,
    spending: Spending | None = None,
) -> SuiteResult:
    """Measure a policy on each environment of a suite, one after another.

    Another call with the same `out` plays only what is missing or was discarded. An environment that cannot be played
    stops none of the others.

    Args:
        policy: its name, such as `local:DIR` or `openai:NAME`.
        out: folder of the suite; each environment's records stand in `out/NAME`.
        on_progress: called as each episode ends, with the environment's name.
        spending: prices, and a budget that ends the suite once it is spent.
    Raises: ConfigError if `out` holds something else.
    """
    setup, root = suite.setup_of(policy, setup or PolicySetup()), Path(out)
    if not is_empty(root) and not (root / SUITE).exists():
        raise ConfigError(f"{root} holds files, but no suite: choose another folder")
    weights = {name: env.weight for name, env in suite.envs.items()}
    write_summary(root / SUITE, {"status": "running", "policy": policy, "weights": weights})
    results: dict[str, BenchResult] = {}
    errors: dict[str, str] = {}
    for name, env in suite.envs.items():
        told = None if on_progress is None else _named(on_progress, name)
        left = (spending or Spending()).after(results.values())
        if left.budget_usd is not None and left.budget_usd <= 0:
            break
        try:
            results[name] = run_bench(
                env.ref,
                policy,
                config=suite.config_of(name, setup.sampling, left),
                out=root / name,
                setup=setup,
                on_progress=told,
                measures=suite.measures,
            )
        except AgentRLError as error:
            errors[name] = f"{type(error).__name__}: {error}"
            continue
        if results[name].status == "interrupted":
            break
    result = SuiteResult(policy, results, weights, errors)
    write_summary(root / SUITE, result.to_json())
    return result


def _named(on_progress: OnProgress, name: str) -> Callable[[int, int, Trajectory], None]:
    return lambda done, total, episode: on_progress(name, done, total, episode)

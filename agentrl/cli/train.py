"""`agentrl train`: start, continue or resume a training run. Owns which folder and configuration; the run is
`agentrl.training.train`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agentrl.bench.measures.endings import by_cause
from agentrl.bench.verdicts import choices
from agentrl.bench.views.environments import environment_lines
from agentrl.bench.views.run_report import write_report
from agentrl.cli.boundary import json_option, note, print_json, say
from agentrl.cli.policy_options import CHAT_FORMAT, CHAT_TEMPLATE
from agentrl.cli.progress import TrainProgress
from agentrl.cli.train_grid import train_arms, train_grid
from agentrl.config import load_config
from agentrl.env import registry
from agentrl.errors import AgentRLError, ConfigError
from agentrl.training.folder import RunFolder, free_path, is_run, move_aside

if TYPE_CHECKING:
    from agentrl.training.plan import TrainConfig
    from agentrl.training.sweeps.arms import Arm


@click.command("train")
@click.argument("config_or_env", required=False)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key, such as stages.rl.steps=30."
)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Run folder; runs/NAME by default.")
@click.option("--seed", type=click.IntRange(0), help="Short for --set seed=N.")
@CHAT_FORMAT
@CHAT_TEMPLATE
@click.option("--resume", "resume_dir", type=click.Path(path_type=Path), help="Continue an interrupted run.")
@click.option(
    "--continue", "go_on", is_flag=True, help="Resume the run in --out if it is unfinished; start it if there is none."
)
@click.option("--fresh", is_flag=True, help="Start from the beginning; a run already in --out is moved aside.")
@click.option("--seeds", metavar="N,N", help="One run for each seed, in folders below --out.")
@click.option("--grid", multiple=True, metavar="KEY=A,B", help="Runs for each value; several make every combination.")
@click.option("--controls", is_flag=True, help="Run each [controls.NAME] of the file as well, and compare all.")
@click.option("--control", "control", multiple=True, metavar="NAME", help="As --controls, but this one; repeatable.")
@click.option("--jobs", type=click.IntRange(1), help="Most runs of --seeds, --grid and --controls at once.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    config_or_env: str | None,
    overrides: tuple[str, ...],
    out: Path | None,
    seed: int | None,
    chat_format: str | None,
    chat_template: str | None,
    resume_dir: Path | None,
    go_on: bool,
    fresh: bool,
    seeds: str | None,
    grid: tuple[str, ...],
    controls: bool,
    control: tuple[str, ...],
    jobs: int | None,
    as_json: bool,
) -> None:
    """Train an agent as CONFIG (a TOML file) says, or on an environment with the default settings.

    \b
    agentrl train quickstart.toml --set stages.rl.steps=30 --seed 7
    agentrl train agentrl/Shop-v0 --out runs/shop
    agentrl train --resume runs/shop
    agentrl train quickstart.toml --set scale.samplers=2 --set stages.rl.playing.max_lag=1
    agentrl train quickstart.toml --seeds 0,1,2 --grid stages.rl.learner.lr=3e-4,7e-4 --out runs/rates
    agentrl train arms.toml --seeds 0,1,2 --controls
    """
    overrides = (*overrides, *_chat_overrides(chat_format, chat_template))
    many = _Many(seeds, grid, controls or bool(control), control, jobs)
    if many.asked:
        many.check(config_or_env, mode=resume_dir is not None or go_on or fresh)
        if not many.train(config_or_env or "", overrides, out, seed or 0, as_json=as_json):
            ctx.exit(1)
        return
    if resume_dir is not None:
        _only_resume(config_or_env, overrides, out, seed, go_on or fresh)
        summary = _resume(resume_dir)
        out = resume_dir
    else:
        if config_or_env is None:
            raise click.UsageError("give a CONFIG file or an environment, or --resume RUN")
        given = (*overrides, *([f"seed={seed}"] if seed is not None else []))
        config = read_config(config_or_env, given)
        out = out or free_path(Path("runs") / _run_name(config_or_env))
        if go_on and is_run(out):
            summary = _continue(out, config, seed_given=any(item.split("=")[0].strip() == "seed" for item in given))
        else:
            if fresh and is_run(out):
                _move_aside(out)
            summary = _train(config, out)
    if as_json:
        print_json(summary)
    else:
        say(summary_text(summary, out))


def _chat_overrides(chat_format: str | None, chat_template: str | None) -> list[str]:
    """The keys that --chat-format and --chat-template stand for."""
    given = {"model.chat_format": chat_format, "model.chat_template": chat_template}
    return [f"{key}={quoted(value)}" for key, value in given.items() if value is not None]


def quoted(text: str) -> str:
    """A text as TOML writes it."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _only_resume(
    config: str | None, overrides: tuple[str, ...], out: Path | None, seed: int | None, mode: bool
) -> None:
    if config is not None or overrides or out is not None or seed is not None or mode:
        raise click.UsageError("--resume takes all settings from the run: give no other argument or option with it")


@dataclass(frozen=True)
class _Many:
    """The options that ask for more than one run."""

    seeds: str | None
    grid: tuple[str, ...]
    controls: bool
    only: tuple[str, ...]
    jobs: int | None

    @property
    def asked(self) -> bool:
        return self.seeds is not None or bool(self.grid) or self.controls or self.jobs is not None

    def check(self, config: str | None, *, mode: bool) -> None:
        """Refuse options that do not go together. Args: mode: whether --resume, --continue or --fresh is given."""
        if config is None or mode:
            raise click.UsageError(
                "--seeds, --grid, --controls and --jobs need a CONFIG file or an environment, and no --resume, "
                "--continue or --fresh: the same command goes on with unfinished runs"
            )
        if self.controls and (self.grid or not config.endswith(".toml")):
            raise click.UsageError("--controls needs a CONFIG file that ends in .toml, and no --grid")
        if self.seeds is None and not self.grid and not self.controls:
            raise click.UsageError(
                "--jobs says how many runs of --seeds, --grid or --controls go on at once: give one of those"
            )

    def train(self, source: str, overrides: tuple[str, ...], out: Path | None, seed: int, *, as_json: bool) -> bool:
        """Run all, and print the table. Returns: whether all runs succeeded."""
        seeds = self.seeds or str(seed)
        name = f"{_run_name(source)}-{'arms' if self.controls else 'grid'}"
        out = out or Path("runs") / name
        if self.controls:
            return train_arms(self._arms(source, overrides), out, seeds, self.jobs, as_json=as_json)

        def read(more: Sequence[str]) -> TrainConfig:
            return read_config(source, (*overrides, *more))

        return train_grid(read, out, seeds, self.grid, self.jobs, as_json=as_json)

    def _arms(self, config: str, overrides: tuple[str, ...]) -> list[Arm]:
        from agentrl.training.sweeps.arms import read_arms  # loads torch

        arms = read_arms(config, overrides, only=self.only or None)
        if len(arms) == 1:
            raise ConfigError(
                f"{config} has no [controls.NAME]: there is nothing to compare with; leave out --controls"
            )
        registry.spec(arms[0].config.env.id)
        return arms


def read_config(config_or_env: str, overrides: tuple[str, ...]) -> TrainConfig:
    """The configuration of a file, or of an environment with defaults; its environment must load.

    Raises: ConfigError, EnvNotFound.
    """
    from agentrl.training.plan import TrainConfig  # loads torch

    if config_or_env.endswith(".toml") or (Path(config_or_env).is_file() and ".py" not in config_or_env):
        config = load_config(TrainConfig, config_or_env, overrides)
        registry.spec(config.env.id)
        return config
    found = registry.spec(config_or_env)
    base = [f"env.id={quoted(config_or_env)}", *overrides]
    config = load_config(TrainConfig, None, base)
    if config.model.path is None and not any(s.teaches_from_nothing for s in config.planned().values()):
        if not callable(getattr(found.env_class, "oracle", None)):
            note("A tiny model from scratch knows nothing, and this environment has no oracle to learn from:")
            note("set model.path to a model of yours, or give the environment an oracle(messages) method.")
        elif not any(item.startswith("stages.warm_start.demonstrators") for item in overrides):
            note("Warm start: a tiny model from scratch first learns from the environment's oracle.")
            config = load_config(TrainConfig, None, [*base, "stages.warm_start.demonstrators.oracle=1.0"])
    return config


# Which folder.


def _run_name(config_or_env: str) -> str:
    name = config_or_env.rpartition(":")[2] if ".py:" in config_or_env else config_or_env
    return Path(name).stem.lower()


def _move_aside(folder: Path) -> None:
    note(f"The run that was in {folder} is now in {move_aside(folder)}")


def _continue(out: Path, config: TrainConfig, *, seed_given: bool) -> dict[str, Any]:
    """Resume, show or start a run, depending on what the folder holds."""
    from agentrl.training.train import open_run

    folder, recorded = open_run(out)
    if not seed_given:
        config = replace(config, seed=recorded.seed)
    if recorded != config.like(recorded):
        note(f"{out} holds a run with another configuration")
        _move_aside(out)
        return _train(config, out)
    if folder.is_finished:
        note(f"{out} holds this run, finished. Use --fresh (make: FRESH=1) or another seed to run again.")
        return _read_summary(folder)
    return _resume(out)


def _read_summary(folder: RunFolder) -> dict[str, Any]:
    """The summary of a finished run; its report is written now if a full disk prevented that before."""
    report = folder.path / "report.html"
    if not report.exists() or report.stat().st_mtime < folder.summary_path.stat().st_mtime:
        write_report(folder.path)
    summary: dict[str, Any] = json.loads(folder.summary_path.read_text(encoding="utf-8"))
    return summary


# Running. The functions import the training code themselves, because it loads torch.


def _say_preset(config: TrainConfig) -> None:
    """Say which defaults the model chose, and what the main settings are."""
    from agentrl.training.presets import words_of

    learners = {name: getattr(stage, "learner", None) for name, stage in config.planned().items()}
    rates = {name: learner.lr for name, learner in learners.items() if learner is not None}
    note(words_of(config.model.path, config.model.lora.rank, config.sampling.max_tokens, rates))


def _train(config: TrainConfig, out: Path) -> dict[str, Any]:
    from agentrl.training.train import train

    _say_preset(config)
    note(f"Training on {', '.join(config.trained) or config.env.id}, seed {config.seed}, in {out}")
    if config.scale.samplers and config.scale.engine == "ray" and config.scale.address is None:
        note("Ray starts on this machine before the first episode is sampled: some seconds, about 400 MB")
    if config.scale.learners > 1:
        note(f"{config.scale.learners} processes learn; the others start before the first update, in some seconds")
    with TrainProgress() as progress, _Rescue(out):
        return train(config, out, on_progress=progress)


def _resume(out: Path) -> dict[str, Any]:
    from agentrl.training.train import open_run, resume

    folder, _ = open_run(out)
    if folder.is_finished:
        note(f"{out} is finished already")
        return _read_summary(folder)
    note(f"Resuming {out}")
    with TrainProgress() as progress, _Rescue(out):
        return resume(out, on_progress=progress)


class _Rescue:
    """Writes a report when a run ends early, and prints how to continue. A run that was refused is not touched."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, ConfigError) or not is_run(self.out):
            return

        # A report that fails must not hide the error that ended the run.
        with suppress(AgentRLError, OSError, ValueError):
            write_report(self.out)
        if any((self.out / "checkpoints").glob("step-*")):
            note(f"\nEverything up to the last checkpoint is kept. Continue with: agentrl train --resume {self.out}")
        else:
            note(f"\nThere was no checkpoint yet. Begin again with: agentrl train --resume {self.out}")


def summary_text(summary: dict[str, Any], out: Path) -> str:
    """The before/after table, what it says in words, and where the report is."""
    env_id = summary["env"]["id"]
    names = [name for name, of in ((summary.get("after") or {}).get("environments") or {}).items() if of["trains"]]
    title = f"trained on {', '.join(names)}" if names else env_id
    lines = ["", f"{title}, seed {summary['seed']}: success on held-out tasks, with 95% intervals", ""]
    lines.append(f"{'':<10}{'before':<26}after")
    before, after = summary.get("before") or {}, summary.get("after") or {}
    for mode in ("greedy", "sampled"):
        lines.append(f"{mode:<10}{_cell(before.get(mode)):<26}{_cell(after.get(mode)):<26}".rstrip())
    lines += environment_lines(summary)
    lines += _discarded({"before": before, "after": after})
    said = [*(one["text"] for one in summary.get("verdicts", [])), *choices(summary)]
    lines += ["", *said] if said else []
    n_tasks = (after or before).get("n_tasks", 0)
    lines += ["", f"{n_tasks} tasks, {summary['wall_s']:.0f} s wall, {summary['cpu_s']:.0f} s CPU"]
    if (out / "model").is_dir():
        lines.append(
            f"Model:  {out / 'model'}  (agentrl bench {env_id} --policy local:{out / 'model'}{_format_of(summary)})"
        )
    lines.append(f"Report: {out / 'report.html'}")
    return "\n".join(lines)


def _format_of(summary: dict[str, Any]) -> str:
    """The option for a chat format that is not found from the model's template."""
    chosen = summary.get("settings", {}).get("model", {}).get("chat_format", "auto")
    return "" if chosen == "auto" else f" --chat-format {chosen}"


def _discarded(tables: dict[str, dict[str, Any]]) -> list[str]:
    """One line for each cell of the table with discarded episodes: how many, and the success rate that counts them."""
    lines = []
    for when, table in tables.items():
        for mode in ("greedy", "sampled"):
            cell = table.get(mode) or {}
            causes = {cause: number for cause, number in cell.get("discarded", {}).items() if number}
            if causes:
                counted = f"{by_cause(causes)} of {cell['n_attempted']} episodes were discarded"
                lines.append(f"{when}, {mode}: {counted}; with those as failures {_cell(cell['success_of_attempted'])}")
            after = cell.get("n_discarded_after_actions")
            if after:
                lines.append(f"warning: {after} of them after the model had acted: do not trust this success rate")
    return ["", *lines] if lines else []


def _cell(cell: dict[str, Any] | None) -> str:
    if not cell or cell.get("mean") is None:
        return "-"
    low, high = cell["ci95"]
    interval = "" if low is None or high is None else f"  [{low:.3f}, {high:.3f}]"
    return f"{cell['mean']:.3f}{interval}"

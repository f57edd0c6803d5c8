"""`agentrl capture`: an agent's own program plays, in front of a model; recorded, or trained. Owns the options."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from agentrl.bench.folder import default_out
from agentrl.bench.result import BenchConfig, BenchResult
from agentrl.bench.runner import run_bench
from agentrl.bench.views.table import render
from agentrl.cli import train
from agentrl.cli.boundary import EXIT_INTERRUPTED, json_option, note, print_json, print_tables
from agentrl.cli.env_options import kwarg_option
from agentrl.cli.policy_options import CHAT_FORMAT, CHAT_TEMPLATE, read_template
from agentrl.cli.progress import Counter
from agentrl.config import arguments_of
from agentrl.env import registry
from agentrl.policy.base import SamplingParams
from agentrl.policy.by_name import PolicySetup
from agentrl.serving.capture.settings import AgentConfig
from agentrl.trajectory import EnvRef, Trajectory

# Options that are keys of a configuration too.
_KEYS = {
    "agent": "agent.command",
    "processes": "agent.processes",
    "timeout_s": "agent.timeout_s",
    "concurrency": "agent.at_once",
    "seed": "seed",
    "temperature": "sampling.temperature",
    "max_tokens": "sampling.max_tokens",
    "max_context": "model.max_context",
    "chat_format": "model.chat_format",
}
_TASKS = "agentrl.serving.capture.tasks:AgentTasks"
_WIDTH = 120
_TIMEOUT = "Seconds that the program may run in an episode, without those in which it waits for the model."
_AGENT = (
    "The agent's program, for `sh -c`; OPENAI_BASE_URL, OPENAI_API_KEY, AGENTRL_TASK and others tell it what to do."
)
_PROCESSES = "Copies of the program that are started once and play many episodes each; 0 starts one for each episode."


@click.command("capture")
@click.argument("config_or_model", metavar="CONFIG.toml|MODEL")
@click.option("--agent", metavar="COMMAND", help=_AGENT)
@click.option("--processes", type=click.IntRange(0), default=0, show_default=True, help=_PROCESSES)
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(0, min_open=True), default=600.0, show_default=True, help=_TIMEOUT
)
@click.option(
    "--env",
    "env_id",
    metavar="ENV",
    help="Environment with the tasks, tools and scores; without it, give --tasks and --reward.",
)
@kwarg_option
@click.option(
    "--tasks", type=click.Path(path_type=Path, dir_okay=False, exists=True), help="JSON lines with a text each."
)
@click.option("--reward", default="exit", show_default=True, metavar="exit|URL", help="What scores the agent's end.")
@click.option("--split", help="Which tasks; eval of an environment, train of a file.")
@click.option("--num-tasks", type=click.IntRange(1), help="How many of them; all by default.")
@click.option("--trials", type=click.IntRange(1), default=1, show_default=True, help="Episodes of each task.")
@click.option("--concurrency", type=click.IntRange(1), default=8, show_default=True, help="Episodes at a time.")
@click.option("--temperature", type=click.FloatRange(0), default=1.0, show_default=True, help="0 is greedy.")
@click.option("--max-tokens", type=click.IntRange(1), default=256, show_default=True, help="Most tokens of one turn.")
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the episodes and of sampling."
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of CONFIG.")
@CHAT_FORMAT
@CHAT_TEMPLATE
@click.option("--max-context", type=click.IntRange(1), help="Most tokens of a conversation.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder of the run or of the records.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    config_or_model: str,
    overrides: tuple[str, ...],
    out: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Let an agent's own program play in front of a model: train it as CONFIG says, or record what it does with MODEL.

    The program speaks OpenAI's Chat Completions or Responses, or Anthropic's Messages, and needs no change but a base
    URL, which the variables of its environment hold.

    \b
    agentrl capture shop.toml --agent "python my_agent.py" --out runs/shop-agent
    agentrl capture runs/shop/model --agent "python my_agent.py" --env agentrl/Shop-v0 --num-tasks 50
    agentrl capture models/coder --agent "./solve.sh" --tasks tasks.jsonl --reward exit
    """
    if config_or_model.endswith(".toml"):
        more = _settings_given(ctx, options)
        ctx.invoke(
            train.command, config_or_env=config_or_model, overrides=(*overrides, *more), out=out, as_json=as_json
        )
        return
    if overrides or options["agent"] is None:
        raise click.UsageError("a MODEL needs --agent, and takes no --set")
    result = _recorded(config_or_model, out, options)
    if as_json:
        print_json(result.to_json())
    else:
        print_tables(render(result), _WIDTH)
    if result.status == "interrupted":
        ctx.exit(EXIT_INTERRUPTED)


def _settings_given(ctx: click.Context, options: dict[str, Any]) -> list[str]:
    """The options on the command line as keys of a configuration. Raises: UsageError for one that has none."""
    found = []
    for name, value in options.items():
        if ctx.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        if name not in _KEYS:
            option = next(parameter.opts[0] for parameter in ctx.command.params if parameter.name == name)
            raise click.UsageError(f"{option} goes with a MODEL; for a CONFIG it stands in the file, or in --set")
        found.append(f"{_KEYS[name]}={train.quoted(value) if isinstance(value, str) else value}")
    return found


def _recorded(model: str, out: Path | None, options: dict[str, Any]) -> BenchResult:
    """What an agent did with a model. Raises: UsageError, ConfigError, ModelError, RolloutError."""
    ref = _env(options)
    sampling = SamplingParams(options["temperature"], max_tokens=options["max_tokens"])
    config = BenchConfig(
        options["split"] or ("eval" if options["env_id"] else "train"),
        options["num_tasks"],
        options["trials"],
        options["seed"],
        sampling,
        options["concurrency"],
        references=False,
        agent=AgentConfig(
            options["agent"], options["processes"], options["concurrency"], timeout_s=options["timeout_s"]
        ),
    )
    out = out or default_out(ref.id, f"capture-{Path(model).name}")
    note(f"Capturing {options['agent']!r} with {model}, records in {out}")
    local = {name: options[name] for name in ("chat_format", "max_context")}
    local["chat_template"] = read_template(options["chat_template"])
    setup = PolicySetup(sampling=sampling, local={key: value for key, value in local.items() if value is not None})
    with Counter("episodes") as counter:

        def count(done: int, total: int, _: Trajectory) -> None:
            counter.show(done, total)

        return run_bench(ref, f"local:{model}", config=config, out=out, setup=setup, on_progress=count)


def _env(options: dict[str, Any]) -> EnvRef:
    """Whose tasks are played. Raises: UsageError, ConfigError."""
    kwargs: Sequence[str] = options["kwargs"]
    if options["env_id"] is not None:
        if options["tasks"] is not None or options["reward"] != "exit":
            raise click.UsageError("--env has its own tasks and rewards: leave out --tasks and --reward")
        return registry.reference(options["env_id"], **arguments_of(kwargs, "--kwarg"))
    if kwargs:
        raise click.UsageError("--kwarg goes with --env")
    file = {} if options["tasks"] is None else {"file": str(options["tasks"].resolve())}
    return EnvRef(_TASKS, {**file, "reward": options["reward"]})

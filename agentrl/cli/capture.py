"""`agentrl capture`: an agent's own program plays, in front of a model; recorded, or trained. Owns the options."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from agentrl.bench.folder import default_out
from agentrl.bench.result import BenchConfig
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

_TASKS = "agentrl.serving.capture.tasks:AgentTasks"
_WIDTH = 120
_AGENT = (
    "The agent's program, for `sh -c`; OPENAI_BASE_URL, OPENAI_API_KEY, AGENTRL_TASK and others tell it what to do."
)
_PROCESSES = "Start the program so many times, each for one episode after the other; 0 starts it for each."


@click.command("capture")
@click.argument("config_or_model", metavar="CONFIG.toml|MODEL")
@click.option("--agent", required=True, metavar="COMMAND", help=_AGENT)
@click.option("--processes", type=click.IntRange(0), default=0, show_default=True, help=_PROCESSES)
@click.option("--timeout", "timeout_s", type=click.FloatRange(0, min_open=True), default=600.0, show_default=True)
@click.option("--env", "env_id", metavar="ENV", help="Whose tasks, tools and scores; without it, --tasks and --reward.")
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
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Of a CONFIG: override a key.")
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
    agent: str,
    processes: int,
    timeout_s: float,
    overrides: tuple[str, ...],
    out: Path | None,
    seed: int,
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
    settings = AgentConfig(agent, processes, timeout_s)
    if config_or_model.endswith(".toml"):
        given = (*overrides, f"agent.command={train.quoted(agent)}", f"agent.processes={processes}")
        given = (*given, f"agent.timeout_s={timeout_s}")
        ctx.invoke(train.command, config_or_env=config_or_model, overrides=given, out=out, seed=seed, as_json=as_json)
        return
    ref = _env(options)
    policy = f"local:{config_or_model}"
    sampling = SamplingParams(options["temperature"], max_tokens=options["max_tokens"])
    config = BenchConfig(
        options["split"] or ("eval" if options["env_id"] else "train"),
        options["num_tasks"],
        options["trials"],
        seed,
        sampling,
        options["concurrency"],
        references=False,
        agent=settings,
    )
    out = out or default_out(ref.id, f"capture-{Path(config_or_model).name}")
    note(f"Capturing {agent!r} with {config_or_model}, records in {out}")
    names = ("chat_format", "max_context")
    local = {"chat_template": read_template(options["chat_template"]), **{name: options[name] for name in names}}
    setup = PolicySetup(sampling=sampling, local={key: value for key, value in local.items() if value is not None})
    with Counter("episodes") as counter:

        def count(done: int, total: int, _: Trajectory) -> None:
            counter.show(done, total)

        result = run_bench(ref, policy, config=config, out=out, setup=setup, on_progress=count)
    if as_json:
        print_json(result.to_json())
    else:
        print_tables(render(result), _WIDTH)
    if result.status == "interrupted":
        ctx.exit(EXIT_INTERRUPTED)


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

"""`agentrl reproduce`: recorded episodes sampled again from the recorded weights, compared bit by bit."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from agentrl.cli.boundary import EXIT_FAILED, json_option, print_json, say
from agentrl.cli.progress import Counter


@click.command("reproduce")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--episodes", type=click.IntRange(1), help="At most this many; all by default.")
@click.option("--stage", help="Only episodes of this stage, such as after.")
@click.option("--model", type=click.Path(path_type=Path), help="Folder of the weights, where the record names none.")
@json_option
@click.pass_context
def command(
    ctx: click.Context, run: Path, episodes: int | None, stage: str | None, model: Path | None, as_json: bool
) -> None:
    """Sample the episodes of RUN again, from the recorded weights, seeds and settings.

    RUN is the folder of a training run, or of a benchmark of a local model. Says that all tokens and log-probabilities
    are the same bits, or names the first token that differs and what has changed since then. Exit code 1 if an episode
    differs, or none could be sampled again. `agentrl replay` executes again what the environment did.
    """
    from agentrl.training.reproduce import reproduce

    with Counter("sampled again") as counter:
        found = reproduce(run, episodes=episodes, stage=stage, model=model, on_episode=counter.show)
    if as_json:
        print_json({"ok": found.ok, **asdict(found)})
    else:
        say(str(found))
    if not found.ok:
        ctx.exit(EXIT_FAILED)

"""`agentrl replay`: recorded episodes executed again, compared byte for byte."""

from __future__ import annotations

from pathlib import Path

import click

from agentrl.cli.boundary import EXIT_FAILED, json_option, print_json, say
from agentrl.cli.progress import Counter
from agentrl.errors import StoreError
from agentrl.rollout.replay import ReplayReport, StoreReplay, replay_store


@click.command("replay")
@click.argument("run_or_file", type=click.Path(path_type=Path))
@click.option("--env", "env_id", help="Replay on this environment instead of the recorded one.")
@click.option(
    "--trust-record", is_flag=True, help="Import code and use sandboxes that the record names: for your own records."
)
@click.option("--stage", help="Only episodes of this stage, such as rl.")
@click.option("--limit", type=click.IntRange(1), help="Stop after this many episodes.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    run_or_file: Path,
    env_id: str | None,
    trust_record: bool,
    stage: str | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """Execute the episodes of RUN_OR_FILE again and name the first step that differs.

    RUN_OR_FILE is a run folder or a trajectories.jsonl. Exit code 1 if an episode differs, or none could
    be replayed. Code that the record names is imported only if it is registered, or given by --env.
    """
    store = find_store(run_or_file)
    with Counter("replayed") as counter:

        def count(_: ReplayReport) -> None:
            counter.show(counter.count + 1)

        result = replay_store(
            store, env_id=env_id, trust_record=trust_record, stage=stage, limit=limit, on_report=count
        )
    if as_json:
        print_json(_to_json(result))
    else:
        say(str(result))
    if not result.ok:
        ctx.exit(EXIT_FAILED)


def find_store(run_or_file: Path) -> Path:
    """The trajectories of a run folder, or the file itself. Raises: StoreError if there are none."""
    store = run_or_file / "trajectories.jsonl" if run_or_file.is_dir() else run_or_file
    if not store.is_file():
        raise StoreError(f"there is no {store}; give a run folder or a trajectories.jsonl")
    return store


def _to_json(result: StoreReplay) -> dict[str, object]:
    differing = [
        {
            "episode_id": report.episode_id,
            "env_id": report.env_id,
            "turn": report.difference.turn,
            "part": report.difference.part,
            "recorded": report.difference.recorded,
            "replayed": report.difference.replayed,
        }
        for report in result.differing
        if report.difference is not None
    ]
    counts = {name: result.counts[name] for name in ("same", "differs", "skipped")}
    versions = [{**other._asdict(), "episodes": count} for other, count in result.versions.items()]
    changed = {"versions": versions, "tasks": list(result.tasks)}
    return {"ok": result.ok, **counts, **changed, "differing": differing}

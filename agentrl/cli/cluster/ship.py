"""`agentrl ship`: wheels that Ray can give to every machine of a cluster. Owns the options."""

from __future__ import annotations

from pathlib import Path

import click

from agentrl.cli.boundary import json_option, print_json, say


@click.command("ship")
@click.argument("wheels", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default="shipped",
    show_default=True,
    help="Folder to write.",
)
@json_option
def command(wheels: tuple[Path, ...], out: Path, as_json: bool) -> None:
    """Prepare WHEELS, packages with environments of your own, for the machines of a Ray cluster.

    Each is written to --out without its dependencies, which the machines have; Ray would otherwise install all of them
    again, from an index. runtime_env.json, next to them, names them for `ray job submit`.

    \b
    pip wheel --no-deps -w dist .
    agentrl ship dist/*.whl
    ray job submit --runtime-env shipped/runtime_env.json --working-dir . -- agentrl train run.toml --out /runs/a
    """
    from agentrl.distributed.shipping import ship

    made = ship(wheels, out)
    if as_json:
        print_json({"wheels": [str(wheel) for wheel in made.wheels], "runtime_env": str(made.runtime_env)})
        return
    for wheel in made.wheels:
        say(str(wheel))
    say(f"Give them to a cluster: ray job submit --runtime-env {made.runtime_env} -- agentrl train ...")

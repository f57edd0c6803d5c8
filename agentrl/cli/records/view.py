"""`agentrl view`: runs and their episodes in a page, while they grow. Owns the options."""

from __future__ import annotations

import os
import webbrowser
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from agentrl.cli.boundary import json_option, note, print_json
from agentrl.cli.policy_options import policy_of, policy_options


@click.command("view")
@click.argument("dirs", nargs=-1, type=click.Path(path_type=Path))
@click.option("--port", type=click.IntRange(0, 65535), default=0, show_default=True, help="0 takes a free one.")
@click.option("--no-browser", is_flag=True, help="Print the address, and open no browser.")
@click.option(
    "--forks", type=click.Path(path_type=Path), default=Path("forks"), show_default=True, help="Where forks are saved."
)
@click.option(
    "--trust-record", is_flag=True, help="Forks may import code and use sandboxes that the record names: for your own."
)
@policy_options
@json_option
def command(
    dirs: tuple[Path, ...],
    port: int,
    no_browser: bool,
    forks: Path,
    trust_record: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Look at the runs under each of DIRS, the current folder by default, until Ctrl-C.

    DIRS are folders of training runs and benchmarks, or stores. The page shows curves, episodes and transcripts as they
    are written; it writes nothing into them. --policy names a model that may play a recorded episode on from any turn.

    \b
    agentrl view runs
    agentrl view runs/shop --policy local:runs/shop/model
    """
    from agentrl.viewer.forks.playing import ForkOptions
    from agentrl.viewer.server import view

    given = policy_of(options)

    def ready(url: str) -> None:
        if as_json:
            print_json({"url": url, "pid": os.getpid()}, indent=None)
        note(f"Look at {url} (Ctrl-C ends)")

    with suppress(KeyboardInterrupt):
        view(
            dirs or (Path(),),
            port=port,
            forks=ForkOptions(forks, {} if given.name == "human" else {given.name: given.setup}, trust_record),
            on_ready=ready,
            browser=None if no_browser or as_json else webbrowser.open,
        )
    note("Stopped")

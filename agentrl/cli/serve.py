"""`agentrl serve`: an environment on an address, for `agentrl.connect` and other frameworks. Owns the options."""

from __future__ import annotations

import os
from contextlib import suppress

import click

from agentrl.cli.boundary import json_option, note, print_json
from agentrl.cli.env_options import kwarg_option
from agentrl.config import arguments_of


@click.command("serve")
@click.argument("env")
@kwarg_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="0 takes a free one.")
@click.option(
    "--token-env",
    default="AGENTRL_ENV_TOKEN",
    show_default=True,
    help="Variable that holds the token clients must send; where it is not set, one is made and shown.",
)
@click.option("--no-token", is_flag=True, help="Ask for no token; on 127.0.0.1 alone.")
@click.option("--allow-host", "hosts", multiple=True, help="A further name the server may be asked by; repeatable.")
@click.option("--sessions", type=click.IntRange(1), default=256, show_default=True, help="Most at the same time.")
@click.option("--idle-s", type=click.FloatRange(1), default=600.0, show_default=True, help="Then a session ends.")
@click.option("--episode-s", type=click.FloatRange(1), default=3600.0, show_default=True, help="Most of an episode.")
@click.option("--no-oracle", is_flag=True, help="Clients may not ask the environment's oracle.")
@click.option("--any-task", is_flag=True, help="Take tasks of clients that the environment does not have.")
@json_option
def command(
    env: str,
    kwargs: tuple[str, ...],
    host: str,
    port: int,
    token_env: str,
    no_token: bool,
    hosts: tuple[str, ...],
    sessions: int,
    idle_s: float,
    episode_s: float,
    no_oracle: bool,
    any_task: bool,
    as_json: bool,
) -> None:
    """Serve ENV, an id, `module:Class` or `./file.py:Class`, until Ctrl-C.

    Whoever has the URL and the token plays it as if it were here: in Python by `agentrl.connect(url, token=...)`, and
    in every command and training file by the URL in place of the id.

    \b
    agentrl serve agentrl/Shop-v0
    AGENTRL_ENV_TOKEN=... agentrl bench http://127.0.0.1:8765 --policy oracle
    """
    from agentrl.env.registry import reference
    from agentrl.serving.envs.server import EnvServer, ServeOptions
    from agentrl.serving.envs.sessions import Bounds

    options = ServeOptions(
        host=host,
        port=port,
        token="" if no_token else os.environ.get(token_env, "").strip() or None,
        hosts=hosts,
        bounds=Bounds(sessions, idle_s, episode_s),
        demonstrates=not no_oracle,
        takes_any_task=any_task,
    )
    server = EnvServer(reference(env, **arguments_of(kwargs, "--kwarg")), options)
    is_made = options.token is None

    def ready() -> None:
        if as_json:
            print_json({"url": server.url, "env": server.served.ref.id, **({"token": server.token} if is_made else {})})
        note(f"Serving {server.served.ref} on {server.url} (Ctrl-C ends)")
        if is_made and not as_json:
            note(f"Clients send this token: export {token_env}={server.token}")

    with suppress(KeyboardInterrupt):
        server.serve(ready)
    note("Stopped")

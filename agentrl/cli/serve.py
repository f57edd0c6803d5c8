"""`agentrl serve`: an environment on an address, for `agentrl.connect` and other frameworks. Owns the options."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from agentrl.cli.boundary import json_option, note, print_json, say
from agentrl.cli.env_options import kwarg_option
from agentrl.config import arguments_of
from agentrl.trajectory import EnvRef


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
@click.option(
    "--sessions", type=click.IntRange(1), default=256, show_default=True, help="Most sessions at the same time."
)
@click.option(
    "--idle-s",
    type=click.FloatRange(1),
    default=600.0,
    show_default=True,
    help="Seconds without a request after which a session ends.",
)
@click.option(
    "--episode-s", type=click.FloatRange(1), default=3600.0, show_default=True, help="Most seconds of an episode."
)
@click.option(
    "--saved-mib", type=click.IntRange(1), default=64, show_default=True, help="Most MiB of saved states in a session."
)
@click.option("--no-oracle", is_flag=True, help="Clients may not ask the environment's oracle.")
@click.option("--any-task", is_flag=True, help="Take tasks of clients that the environment does not have.")
@click.option("--dockerfile", "only_dockerfile", is_flag=True, help="Print a Dockerfile that serves ENV, and end.")
@click.option("--stdio", is_flag=True, help="Serve one episode as an MCP server on standard input and output.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the episode of --stdio.")
@click.option("--task", help="Task of the episode of --stdio; by default one is drawn.")
@click.option("--result", type=click.Path(path_type=Path), help="A new file for the reward of the episode of --stdio.")
@json_option
def command(env: str, kwargs: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """Serve ENV, an id, `module:Class` or `./file.py:Class`, until Ctrl-C.

    Whoever has the URL and the token plays it as if it were here: in Python by `agentrl.connect(url, token=...)`, and
    in every command and training file by the URL in place of the id.

    \b
    agentrl serve agentrl/Shop-v0
    AGENTRL_ENV_TOKEN=... agentrl bench http://127.0.0.1:8765 --policy oracle
    """
    from agentrl.env.registry import reference
    from agentrl.serving.env_image import dockerfile

    if given["only_dockerfile"]:
        say(dockerfile(env, kwargs))
        return
    ref = reference(env, **arguments_of(kwargs, "--kwarg"))
    if given["stdio"]:
        from agentrl.serving.envs.seats import Start
        from agentrl.serving.mcp.stdio import serve_stdio

        serve_stdio(ref, Start(given["seed"], given["task"]), given["result"])
        return
    _serve(ref, given, as_json)


def _serve(ref: EnvRef, given: Mapping[str, Any], as_json: bool) -> None:
    from agentrl.serving.envs.server import EnvServer, ServeOptions
    from agentrl.serving.envs.sessions import Bounds

    token = "" if given["no_token"] else os.environ.get(given["token_env"], "").strip() or None
    options = ServeOptions(
        host=given["host"],
        port=given["port"],
        token=token,
        hosts=given["hosts"],
        bounds=Bounds(given["sessions"], given["idle_s"], given["episode_s"], given["saved_mib"] << 20),
        demonstrates=not given["no_oracle"],
        takes_any_task=given["any_task"],
    )
    server = EnvServer(ref, options)

    def ready() -> None:
        made = {"token": server.token} if token is None else {}
        if as_json:
            print_json({"url": server.url, "env": server.served.ref.id, **made})
        note(f"Serving {server.served.ref} on {server.url} (Ctrl-C ends)")
        if made and not as_json:
            note(f"Clients send this token: export {given['token_env']}={server.token}")

    with suppress(KeyboardInterrupt):
        server.serve(ready)
    note("Stopped")

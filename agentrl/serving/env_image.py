"""A Dockerfile in which an environment is served. Owns its text; nothing is built here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from agentrl.env import registry
from agentrl.errors import ConfigError
from agentrl.sandboxed.env import SandboxEnv

PORT = 8765
"""On which the environment is served in the container."""
_TEXT = """\
# Serves {env} (agentrl serve --dockerfile).
#   docker build -t my-env . && docker run --rm {options}-p {port}:{port} -e AGENTRL_ENV_TOKEN=... my-env
# Wheels in the folder that is built are taken before those of the package index.
ARG BASE=python:{python}-slim
FROM ${{BASE}}
{system}COPY Dockerfile *.whl /wheels/
RUN pip install --no-cache-dir --find-links /wheels {packages}
RUN useradd --create-home served
WORKDIR /env
{copy}USER served
EXPOSE {port}
ENTRYPOINT {command}
"""
_BUBBLEWRAP = """\
RUN apt-get update && apt-get install --yes --no-install-recommends bubblewrap && rm -rf /var/lib/apt/lists/*
"""


def dockerfile(env: str, kwargs: Sequence[str] = (), *, python: str = "3.11") -> str:
    """The text of a Dockerfile that serves an environment, asking for the token in AGENTRL_ENV_TOKEN.

    Args:
        env: a registered id, `package.module:Class`, or `./file.py:Class` in the folder that is built.
        kwargs: of the environment, as `KEY=VALUE`.
        python: version of the image `python:VERSION-slim`, which `docker build --build-arg BASE=IMAGE` replaces.
    Raises: EnvNotFound if there is no such environment; ConfigError if its file is elsewhere.
    """
    found = registry.spec(env)
    place, _, name = env.rpartition(":")
    copy, named = "", env
    options = run_options(env)
    packages = [f'"agentrl[viewer]=={_version("agentrl")}"']
    if place.endswith(".py"):
        file = Path(place)
        if file.is_absolute() or ".." in file.parts:
            raise ConfigError(f"{place} is not in the folder that is built: run this in its folder, as ./{file.name}")
        copy, named = f"COPY {json.dumps([str(file), f'./{file.name}'])}\n", f"./{file.name}:{name}"
    else:
        packages += [f'"{p}"' for p in _of_package(registry.version_of(found)) if "agentrl[" not in p]
    command = ["agentrl", "serve", named, "--host", "0.0.0.0", "--port", str(PORT), "--allow-host", "*"]
    command += [word for pair in kwargs for word in ("--kwarg", pair)]
    return _TEXT.format(
        env=env,
        port=PORT,
        options="".join(f"{word} " for word in options),
        python=python,
        system=_BUBBLEWRAP if options else "",
        packages=" ".join(packages),
        copy=copy,
        command=json.dumps(command),
    )


def run_options(env: str) -> tuple[str, ...]:
    """What `docker run` needs: an environment with a sandbox makes namespaces, which docker's defaults forbid."""
    if not issubclass(registry.spec(env).env_class, SandboxEnv):
        return ()
    return ("--security-opt", "seccomp=unconfined", "--security-opt", "systempaths=unconfined")


def _of_package(described: str) -> list[str]:
    """The packages in an environment's version: pairs of a name and a number before the hash."""
    words = described.partition("sha256:")[0].split()
    pairs = zip(words[::2], words[1::2], strict=False)
    return [f"{name}=={number}" for name, number in pairs if name != "agentrl" and number[:1].isdigit()]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "*"

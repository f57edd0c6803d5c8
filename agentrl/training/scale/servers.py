"""The settings of a run whose turns inference servers sample. Owns their check, not the sampling."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from agentrl.config import Positive
from agentrl.errors import ConfigError
from agentrl.policy.servers.addresses import Servers

WEIGHTS = "server_weights"
"""Folder of a run for weights that its servers read."""


@dataclass(frozen=True)
class ServerConfig:
    """Which inference servers sample.

    Attributes:
        server: address of a vLLM or SGLang server, such as `http://localhost:8000`, or a list of several with the same
            model; none samples in the process that learns.
        server_kind: `vllm`, `sglang`, or `auto`, which asks them.
        server_folder: folder for weights that the servers read under the same path; None is one in the run's folder.
        server_tolerance: largest difference between a server's log-probabilities and the model's own after it was given
            weights, nats.
        server_timeout_s: longest time of a turn, and of loading weights.
        server_wait_s: longest time to wait for a server to come back, when none can be reached.
        server_lora: how a model with adapters (`model.lora`) reaches a server: `merged` into a whole model, or
            `swapped`, which writes the adapters alone for a server that was started with the model of `model.path`.
    """

    server: str | tuple[str, ...] = ()
    server_kind: Literal["auto", "vllm", "sglang"] = "auto"
    server_folder: str | None = None
    server_tolerance: Positive = 0.05
    server_timeout_s: Positive = 600.0
    server_wait_s: Positive = 300.0
    server_lora: Literal["merged", "swapped"] = "merged"

    def servers(self, run: Path) -> Servers | None:
        """The servers; None if there are none. Args: run: folder of the run. Raises: ConfigError."""
        urls = (self.server,) if isinstance(self.server, str) else self.server
        if not urls:
            return None
        folder = run / WEIGHTS if self.server_folder is None else Path(self.server_folder).expanduser()
        limits = (self.server_tolerance, self.server_timeout_s, self.server_wait_s)
        made = Servers(urls, folder, self.server_kind, *limits, self.server_lora)
        if self.server_folder is None and not all(_is_here(url) for url in urls):
            raise ConfigError(
                "servers on other machines read the weights from a folder that they share with this one: set "
                "scale.server_folder to it"
            )
        return made

    def check_servers(self, reads_signals: Sequence[str]) -> None:
        """Refuse what servers cannot sample.

        Args: reads_signals: names of the stages that read how sure the model is of its tokens.
        Raises: ConfigError.
        """
        if self.servers(Path()) is None:
            return
        if reads_signals:
            raise ConfigError(
                f"stages.{reads_signals[0]} reads how sure the model is of its tokens, which inference servers do not "
                "say: leave out scale.server, or what reads it"
            )


def _is_here(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

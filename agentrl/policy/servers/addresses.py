"""Where the servers of a sampler are. Loads no torch: settings are checked with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from agentrl.errors import ConfigError
from agentrl.wire.redaction import without_credentials


@dataclass(frozen=True)
class Servers:
    """The servers of a sampler.

    Attributes:
        urls: addresses without a path, such as `http://localhost:8000`; several servers have the same model.
        weights: folder for weights that the servers read under the same path; it is made, and removed at the end.
        kind: `vllm`, `sglang`, or `auto`, which asks them.
        tolerance: largest difference between a server's log-probabilities and the model's own, nats.
        timeout_s: longest time of a turn, and of loading weights.
        wait_s: longest time to wait for a server to come back, when none can be reached.
        lora: how a model with adapters reaches them: as a whole model that they are `merged` into, or as adapters
            alone, which are `swapped` (the servers were started with the model that they belong to).
    """

    urls: tuple[str, ...]
    weights: Path
    kind: Literal["auto", "vllm", "sglang"] = "auto"
    tolerance: float = 0.05
    timeout_s: float = 600.0
    wait_s: float = 300.0
    lora: Literal["merged", "swapped"] = "merged"

    def __post_init__(self) -> None:
        if not self.urls:
            raise ConfigError("a sampler needs the address of at least one server, such as http://localhost:8000")
        for url in self.urls:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query:
                raise ConfigError(
                    f"{without_credentials(url)!r} is not the address of a server: expected http://HOST:PORT, without "
                    "a path"
                )

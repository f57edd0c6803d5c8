"""What a run cannot do whose episodes an agent of its own plays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentrl.errors import ConfigError


def check_agent(envs: Mapping[str, Any], stages: Mapping[str, Any]) -> None:
    """Refuse what an agent's episodes cannot do. Raises: ConfigError."""
    if envs:
        raise ConfigError("[agent] plays the one environment of [env]: leave out [envs.NAME], or leave out [agent]")
    for name, stage in stages.items():
        playing = getattr(stage, "playing", None)
        for setting in ("forks", "few_shot", "branches", "mixture"):
            if getattr(playing, setting, None):
                raise ConfigError(
                    f"stages.{name}.playing.{setting} changes how the model plays its turns, and with [agent] another "
                    f"program plays them: leave out {setting}"
                )

"""Judges by name, as a configuration writes them."""

from __future__ import annotations

from tests.rollout.judging.judges import Flaky, fair, material

FAIR = Flaky()
DOWN = Flaky()
DOWN.down = True
MUTE = Flaky(then=lambda m, t: "Hm.")
SPEECHLESS = Flaky(then=lambda m, t: fair(m, t) if material(m)[-1]["content"] in ("right", "Hello.") else "Hm.")

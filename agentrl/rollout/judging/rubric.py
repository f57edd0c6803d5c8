"""What a judge judges by: a text, a scale, and the score from which an episode passes. Owns the form of the file.

```toml
text = "Was the customer's question answered, politely and without invented facts?"
lowest = 0
highest = 10
pass_at = 7
labels = "labels.jsonl"   # transcripts with the right verdict, next to this file
```
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from agentrl.config import from_table
from agentrl.config.files import read_table
from agentrl.errors import ConfigError

_SUFFIXES = (".toml", ".md", ".txt")


@dataclass(frozen=True)
class JudgeRubric:
    """What earns points, in words, and the scale of the judge's scores.

    Attributes:
        text: for the judge to read.
        lowest, highest: ends of the scale.
        pass_at: least score that passes, on that scale; the middle of the scale where it is None.
        labels: file of transcripts with the right verdict; see `agentrl.bench.judges.labels`.
    """

    text: str
    lowest: float = 0.0
    highest: float = 10.0
    pass_at: float | None = None
    labels: str | None = None

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ConfigError("a rubric needs a text that says what earns points")
        if not (math.isfinite(self.lowest) and math.isfinite(self.highest) and self.lowest < self.highest):
            raise ConfigError(f"a rubric's lowest must be below its highest, got {self.lowest} and {self.highest}")
        if self.pass_at is not None and not self.lowest <= self.pass_at <= self.highest:
            raise ConfigError(f"pass_at must be from {self.lowest:g} to {self.highest:g}, got {self.pass_at}")

    def share(self, score: float) -> float:
        """A score of the scale as a number from 0 to 1."""
        return (score - self.lowest) / (self.highest - self.lowest)

    @property
    def passing(self) -> float:
        """The least share that passes."""
        return 0.5 if self.pass_at is None else self.share(self.pass_at)


def rubric_of(given: str | Path | JudgeRubric) -> JudgeRubric:
    """A rubric as callers give it: the object, its text, or the name of a `.toml`, `.md` or `.txt` file.

    Raises: ConfigError if the file cannot be read, or a value is wrong.
    """
    if isinstance(given, JudgeRubric):
        return given
    if not isinstance(given, Path) and (not given.endswith(_SUFFIXES) or any(map(str.isspace, given))):
        return JudgeRubric(given)
    path = Path(given).expanduser()
    if path.suffix == ".toml":
        rubric = from_table(JudgeRubric, read_table(path))
        labels = None if rubric.labels is None else str(path.parent / rubric.labels)
        return replace(rubric, labels=labels)
    try:
        return JudgeRubric(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"the rubric {str(path)!r} cannot be read: {error}. Give a file, or the text itself"
        ) from None

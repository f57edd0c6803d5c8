"""What episodes cost in dollars, by a table of prices. Owns the table's form.

```toml
[my-model]            # the name after `openai:`
input = 2.5           # USD for a million tokens that are read
cached_input = 1.25   # of these, the ones that the server had read before; `input` where it is not given
output = 10.0         # USD for a million sampled tokens
```
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agentrl.bench.measures.base import PerEpisode
from agentrl.bench.measures.effort import num_tokens
from agentrl.config import NotNegative, from_table, read_table
from agentrl.errors import ConfigError, did_you_mean
from agentrl.trajectory import Trajectory

_MILLION = 1_000_000


@dataclass(frozen=True)
class Price:
    """USD for a million tokens.

    Attributes:
        input: of tokens that are read.
        output: of sampled tokens.
        cached_input: of tokens that were read before; None is `input`.
    """

    input: NotNegative
    output: NotNegative
    cached_input: NotNegative | None = None

    def of(self, episode: Trajectory) -> float:
        """USD of an episode; nan where its tokens are not known."""
        read, sampled = num_tokens(episode, "prompt_tokens"), num_tokens(episode, "completion_tokens")
        cached = num_tokens(episode, "cached_tokens")
        cached = 0.0 if math.isnan(cached) else cached
        rate = self.input if self.cached_input is None else self.cached_input
        return ((read - cached) * self.input + cached * rate + sampled * self.output) / _MILLION


@dataclass(frozen=True)
class PriceTable:
    """Prices by the name of a model."""

    models: Mapping[str, Price] = field(default_factory=dict)


def price_of(path: str | Path, policy: str) -> Price:
    """The price of a policy's model in a TOML table.

    Args: policy: its name; of `openai:NAME` the part after the colon is looked up, else the whole.
    Raises: ConfigError for a table that cannot be read, or without this model.
    """
    table = from_table(PriceTable, {"models": read_table(path)})
    name = policy.partition(":")[2] or policy
    if name not in table.models:
        raise ConfigError(f"{path} has no price of {name!r}.{did_you_mean(name, table.models)}")
    return table.models[name]


@dataclass(frozen=True)
class CostUSD(PerEpisode):
    """USD per scored episode, of its last attempt."""

    price: Price

    name = "cost_usd"
    unit = "USD"

    def of(self, episode: Trajectory) -> float:
        return self.price.of(episode)

"""What episodes cost in dollars, by a table of prices. Owns the table's form.

```toml
[my-model]            # the name after `openai:`
input = 2.5           # USD for a million tokens that are read
cached_input = 1.25   # of these, the ones that the server had read before; `input` where it is not given
cache_write = 3.125   # of these, the ones that the server keeps for later; `input` where it is not given
output = 10.0         # USD for a million sampled tokens
```
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agentrl.bench.measures.base import PerEpisode
from agentrl.bench.measures.effort import Counted, num_tokens
from agentrl.config import NotNegative, from_table
from agentrl.config.files import read_table
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
        cache_write: of tokens that are kept for later; None is `input`.
    """

    input: NotNegative
    output: NotNegative
    cached_input: NotNegative | None = None
    cache_write: NotNegative | None = None

    def of(self, episode: Trajectory) -> float:
        """USD of an episode; nan where its tokens are not known."""
        read, sampled = num_tokens(episode, "prompt_tokens"), num_tokens(episode, "completion_tokens")
        extra = _known(episode, "cached_tokens") * self._above(self.cached_input)
        extra += _known(episode, "cache_write_tokens") * self._above(self.cache_write)
        return (read * self.input + extra + sampled * self.output) / _MILLION

    def _above(self, rate: float | None) -> float:
        """What a token costs more than one that is merely read; less than 0 where it costs less."""
        return 0.0 if rate is None else rate - self.input


def _known(episode: Trajectory, kind: Counted) -> float:
    """Tokens of an episode; 0 where they are not known."""
    number = num_tokens(episode, kind)
    return 0.0 if math.isnan(number) else number


@dataclass(frozen=True)
class PriceTable:
    """Prices by the name of a model."""

    models: Mapping[str, Price] = field(default_factory=dict)


def price_of(path: str | Path, policy: str) -> Price:
    """The price of a policy's model in a TOML table.

    Args: policy: its name; of `openai:NAME` and the like the part after the colon is looked up, else the whole.
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

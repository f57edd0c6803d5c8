"""How well tool calls agree with the wanted ones, in parts: a dense reward for using tools. Owns no environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentrl.messages import ToolCall

_EXACT = 8  # calls of one tool up to which the best of all assignments is found; of more, each takes the best left


@dataclass(frozen=True)
class ToolMatch:
    """Agreement of the calls that were made with the wanted ones. Source: `tool_match`.

    Attributes:
        names: share of tool names that both have, of those that either has; in [0, 1].
        parameters: sum over the wanted calls of the share of parameter names that both have; in [0, wanted calls].
        values: number of wanted parameters whose values are equal; in [0, wanted parameters].
        most: the sum of the three if all agree.
    """

    names: float
    parameters: float
    values: float
    most: float

    @property
    def share(self) -> float:
        """The sum over its largest value, in [0, 1]: 1 for exactly the wanted calls."""
        return (self.names + self.parameters + self.values) / self.most

    @property
    def score(self) -> float:
        """The correctness reward of the paper, in [-3, 3]."""
        return 6.0 * self.share - 3.0


def tool_match(made: Sequence[ToolCall], wanted: Sequence[ToolCall]) -> ToolMatch:
    """Compare calls, whatever their order; a wanted call is compared with a call of the same tool, or with none.

    Where a tool is called several times, calls are assigned so that they agree as much as they can.

    Args:
        made: by the model; one that could not be read agrees with nothing.
        wanted: what the task asks for.
    Source: Qian et al. 2025, arXiv:2504.13958, section 3.3 (ToolRL: correctness reward).
    """
    readable = [call for call in made if call.error is None]
    own, other = {call.name for call in readable}, {call.name for call in wanted}
    names = len(own & other) / len(own | other) if own | other else 1.0
    parameters = values = 0.0
    for name in other:
        pairs = _best_pairs(
            [call.arguments for call in wanted if call.name == name],
            [call.arguments for call in readable if call.name == name],
        )
        parameters += sum(pair[0] for pair in pairs)
        values += sum(pair[1] for pair in pairs)
    most = 1.0 + len(wanted) + sum(len(call.arguments) for call in wanted)
    return ToolMatch(names, parameters, values, most)


Agreement = tuple[float, float]


def _best_pairs(wanted: Sequence[Mapping[str, Any]], made: Sequence[Mapping[str, Any]]) -> list[Agreement]:
    """(parameters, values) of the pairs of an assignment of wanted to made arguments, each used at most once."""
    table = [[_agreement(one, other) for other in made] for one in wanted]
    if len(made) > _EXACT:
        return _greedy_pairs(table)
    best: dict[int, list[Agreement]] = {0: []}  # the made calls that are used, as bits -> the best pairs with these
    for row in table:
        grown = dict(best)  # this wanted call stays without a pair
        for used, pairs in best.items():
            for number, pair in enumerate(row):
                if not used & 1 << number:
                    after = [*pairs, pair]
                    if _total(after) > _total(grown.get(used | 1 << number, [])):
                        grown[used | 1 << number] = after
        best = grown
    return max(best.values(), key=_total)


def _greedy_pairs(table: Sequence[Sequence[Agreement]]) -> list[Agreement]:
    pairs, left = [], set(range(len(table[0])))
    for row in table:
        if left:
            number = max(sorted(left), key=lambda n: sum(row[n]))
            left.remove(number)
            pairs.append(row[number])
    return pairs


def _agreement(wanted: Mapping[str, Any], made: Mapping[str, Any]) -> Agreement:
    both, either = wanted.keys() & made.keys(), wanted.keys() | made.keys()
    equal = sum(
        wanted[key] == made[key] and isinstance(wanted[key], bool) == isinstance(made[key], bool) for key in both
    )
    return (len(both) / len(either) if either else 1.0, float(equal))


def _same(wanted: Any, made: Any) -> bool:
    return bool(wanted == made) and isinstance(wanted, bool) == isinstance(made, bool)


def _total(pairs: Sequence[Agreement]) -> float:
    return sum(parameters + values for parameters, values in pairs)

"""Families of small functions to be written: the description, inputs, expected values, and a solution.

Owns the problems; runs no answer. `expect` and `solve` state each family twice, independently, so an oracle that
earns 1 shows that both are right. Families of level 1 are one operation, level 2 one comprehension, level 3 a loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

Params = Mapping[str, Any]
Args = tuple[Any, ...]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
_NUMBERS, _TEXTS, _LISTS = ("x", "n", "k", "m", "y", "z"), ("s", "t", "w"), ("v", "xs", "u")


class Family:
    """One family. The text of `say` shows what the parameters `a`, `b`, … of a subclass mean."""

    level: ClassVar[int] = 1
    names: ClassVar[tuple[str, ...]] = _NUMBERS

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        """Parameters of one problem, JSON-serialisable."""
        raise NotImplementedError

    def say(self, p: Params, v: str) -> str:
        """What the function returns, in words; `v` is the name of its argument."""
        raise NotImplementedError

    def solve(self, p: Params, v: str) -> str:
        """The body of a correct function."""
        raise NotImplementedError

    def slip(self, p: Params, v: str) -> str:
        """The body of a wrong function, as a hasty reader writes it; it may be right on some inputs."""
        key = next(key for key, value in p.items() if isinstance(value, int))
        return self.solve({**p, key: p[key] + 1}, v)

    def expect(self, p: Params, value: Any) -> Any:
        """What a correct function returns."""
        raise NotImplementedError

    def inputs(self, p: Params, rng: np.random.Generator) -> list[Any]:
        """Arguments on which nearly correct functions fail, edge cases first."""
        raise NotImplementedError


def integer(rng: np.random.Generator, low: int, high: int) -> int:
    """A whole number from low to high, both included."""
    return int(rng.integers(low, high + 1))


def integers(rng: np.random.Generator, low: int, high: int, count: int) -> list[int]:
    """Whole numbers from low to high, both included."""
    return [int(n) for n in rng.integers(low, high + 1, count)]


def letters(rng: np.random.Generator, count: int, alphabet: str = LETTERS) -> str:
    """A random word of `count` letters."""
    return "".join(alphabet[int(i)] for i in rng.integers(0, len(alphabet), count))


# Level 1.


class Affine(Family):
    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        return {"a": integer(rng, 2, 20), "b": integer(rng, 1, 60)}

    def say(self, p: Params, v: str) -> str:
        return f"{v} times {p['a']} plus {p['b']}"

    def solve(self, p: Params, v: str) -> str:
        return f"return {v} * {p['a']} + {p['b']}"

    def slip(self, p: Params, v: str) -> str:
        return f"return {v} * {p['a']}"

    def expect(self, p: Params, value: int) -> int:
        return int(p["b"] + p["a"] * value)

    def inputs(self, p: Params, rng: np.random.Generator) -> list[Any]:
        return [0, -1, integer(rng, 2, 9), integer(rng, 10, 99), -integer(rng, 2, 99)]


class Gap(Family):
    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        return {"a": integer(rng, 1, 400)}

    def say(self, p: Params, v: str) -> str:
        return f"distance between {v} and {p['a']}"

    def solve(self, p: Params, v: str) -> str:
        return f"return abs({v} - {p['a']})"

    def slip(self, p: Params, v: str) -> str:
        return f"return {v} - {p['a']}"

    def expect(self, p: Params, value: int) -> int:
        return int(max(value, p["a"]) - min(value, p["a"]))

    def inputs(self, p: Params, rng: np.random.Generator) -> list[Any]:
        return [0, p["a"], p["a"] + integer(rng, 1, 50), p["a"] - integer(rng, 1, 50), -integer(rng, 1, 99)]


class Clip(Family):
    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        low = integer(rng, 1, 40)
        return {"a": low, "b": low + integer(rng, 2, 40)}

    def say(self, p: Params, v: str) -> str:
        return f"{v}, but at least {p['a']} and at most {p['b']}"

    def solve(self, p: Params, v: str) -> str:
        return f"return max({p['a']}, min({p['b']}, {v}))"

    def slip(self, p: Params, v: str) -> str:
        return f"return min({p['b']}, {v})"

    def expect(self, p: Params, value: int) -> int:
        return int(p["a"] if value < p["a"] else p["b"] if value > p["b"] else value)

    def inputs(self, p: Params, rng: np.random.Generator) -> list[Any]:
        inside = integer(rng, p["a"], p["b"])
        return [p["a"] - 1, p["b"] + 1, inside, -integer(rng, 1, 99), p["b"] + integer(rng, 2, 99)]


class Divides(Family):
    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        return {"a": integer(rng, 2, 20), "b": integer(rng, 1, 30)}

    def say(self, p: Params, v: str) -> str:
        return f"True if {v} plus {p['b']} is divisible by {p['a']}, else False"

    def solve(self, p: Params, v: str) -> str:
        return f"return ({v} + {p['b']}) % {p['a']} == 0"

    def slip(self, p: Params, v: str) -> str:
        return f"return ({v} + {p['b']}) % {p['a']}"

    def expect(self, p: Params, value: int) -> bool:
        return bool(divmod(value + p["b"], p["a"])[1] == 0)

    def inputs(self, p: Params, rng: np.random.Generator) -> list[Any]:
        hit = p["a"] * integer(rng, 5, 20) - p["b"]
        return [hit, hit + p["a"], hit + 1, hit - 1, integer(rng, 1, 200)]


class Frame(Family):
    names = _TEXTS

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        return {"a": letters(rng, integer(rng, 1, 2)), "b": letters(rng, integer(rng, 1, 2))}

    def say(self, p: Params, v: str) -> str:
        return f"'{p['a']}', then {v}, then '{p['b']}'"

    def solve(self, p: Params, v: str) -> str:
        return f"return '{p['a']}' + {v} + '{p['b']}'"

    def slip(self, p: Params, v: str) -> str:
        return f"return '{p['a']}' + {v}"

    def expect(self, p: Params, value: str) -> str:
        return f"{p['a']}{value}{p['b']}"

    def inputs(self, p: Params, rng: np.random.Generator) -> list[Any]:
        return ["", letters(rng, 1), letters(rng, 3), letters(rng, 5) + " " + letters(rng, 2)]


class Repeat(Family):
    names = _TEXTS

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        return {"a": integer(rng, 2, 9), "b": letters(rng, integer(rng, 1, 2))}

    def say(self, p: Params, v: str) -> str:
        return f"{v} {p['a']} times, then '{p['b']}'"

    def solve(self, p: Params, v: str) -> str:
        return f"return {v} * {p['a']} + '{p['b']}'"

    def slip(self, p: Params, v: str) -> str:
        return f"return {v} * {p['a']}"

    def expect(self, p: Params, value: str) -> str:
        return "".join([value for _ in range(p["a"])] + [p["b"]])

    def inputs(self, p: Params, rng: np.random.Generator) -> list[Any]:
        return ["", letters(rng, 1), letters(rng, 3), letters(rng, 2) + " "]


# Level 2.


class TotalAbove(Family):
    level, names = 2, _LISTS

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        return {"a": integer(rng, 2, 40), "b": integer(rng, 2, 30)}

    def say(self, p: Params, v: str) -> str:
        return f"sum of the numbers of {v} above {p['a']}, times {p['b']}"

    def solve(self, p: Params, v: str) -> str:
        return f"return sum(i for i in {v} if i > {p['a']}) * {p['b']}"

    def expect(self, p: Params, value: list[int]) -> int:
        total = 0
        for number in value:
            total += p["b"] * number if number > p["a"] else 0
        return total

    def inputs(self, p: Params, rng: np.random.Generator) -> list[Any]:
        a = p["a"]
        mixed = [*integers(rng, a + 1, 99, 3), *integers(rng, -9, a - 1, 2), a]
        return [[], [a, a + 1], [a - 1], mixed, integers(rng, -50, 99, 6)]


class Scaled(Family):
    level, names = 2, _LISTS

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        return {"a": integer(rng, 2, 20), "b": integer(rng, 1, 60)}

    def say(self, p: Params, v: str) -> str:
        return f"list of each number of {v} times {p['a']} minus {p['b']}"

    def solve(self, p: Params, v: str) -> str:
        return f"return [i * {p['a']} - {p['b']} for i in {v}]"

    def expect(self, p: Params, value: list[int]) -> list[int]:
        scaled = list(value)
        for place, number in enumerate(value):
            scaled[place] = p["a"] * number - p["b"]
        return scaled

    def inputs(self, p: Params, rng: np.random.Generator) -> list[Any]:
        return [[], [0], integers(rng, -9, 9, 3), integers(rng, -99, 99, 6)]


class CountMultiples(Family):
    level, names = 2, _LISTS

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        return {"a": integer(rng, 2, 9), "b": integer(rng, 1, 60)}

    def say(self, p: Params, v: str) -> str:
        return f"how many numbers of {v} are divisible by {p['a']} and above {p['b']}"

    def solve(self, p: Params, v: str) -> str:
        return f"return sum(1 for i in {v} if i % {p['a']} == 0 and i > {p['b']})"

    def expect(self, p: Params, value: list[int]) -> int:
        return len([n for n in value if n > p["b"] and n // p["a"] * p["a"] == n])

    def inputs(self, p: Params, rng: np.random.Generator) -> list[Any]:
        a, b = p["a"], p["b"]
        first = (b // a + 1) * a
        return [
            [],
            [first, first + 1, first - a, 0],
            [b, b + 1, -a],
            [first, first, *integers(rng, 0, 99, 4)],
            [a * n for n in integers(rng, -5, 40, 6)],
        ]


class KthLargest(Family):
    level, names = 2, _LISTS

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        return {"a": integer(rng, 2, 5), "b": integer(rng, 1, 99)}

    def say(self, p: Params, v: str) -> str:
        return f"number {p['a']} of {v} counted from the largest down, plus {p['b']}"

    def solve(self, p: Params, v: str) -> str:
        return f"return sorted({v})[-{p['a']}] + {p['b']}"

    def expect(self, p: Params, value: list[int]) -> int:
        rest = list(value)
        for _ in range(p["a"] - 1):
            rest.remove(max(rest))
        return int(max(rest) + p["b"])

    def inputs(self, p: Params, rng: np.random.Generator) -> list[Any]:
        twice = integers(rng, 0, 9, 6)
        return [[*twice, max(twice)], integers(rng, -99, 99, p["a"]), integers(rng, -99, 99, 8), list(range(9))]


class LongWords(Family):
    level, names = 2, _TEXTS

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        return {"a": integer(rng, 1, 5), "b": letters(rng, integer(rng, 1, 2))}

    def say(self, p: Params, v: str) -> str:
        return f"words of {v} with more than {p['a']} letters, joined by '{p['b']}'"

    def solve(self, p: Params, v: str) -> str:
        return f"return '{p['b']}'.join(i for i in {v}.split() if len(i) > {p['a']})"

    def expect(self, p: Params, value: str) -> str:
        joined = ""
        for word in filter(None, value.split(" ")):
            if len(word) >= p["a"] + 1:
                joined += (p["b"] if joined else "") + word
        return joined

    def inputs(self, p: Params, rng: np.random.Generator) -> list[Any]:
        a = p["a"]
        words = [letters(rng, size) for size in (a, a + 1, a + 2, 1, a)]
        return ["", words[0], words[1], " ".join(words), "  ".join(letters(rng, integer(rng, 1, 8)) for _ in range(5))]


class Rotate(Family):
    level, names = 2, _LISTS

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        return {"a": integer(rng, 1, 5), "b": integer(rng, 1, 99)}

    def say(self, p: Params, v: str) -> str:
        return f"list {v} from place {p['a']} on (counted from 0), then {p['b']}, then the places before"

    def solve(self, p: Params, v: str) -> str:
        return f"return {v}[{p['a']}:] + [{p['b']}] + {v}[:{p['a']}]"

    def expect(self, p: Params, value: list[int]) -> list[int]:
        late = [n for place, n in enumerate(value) if place >= p["a"]]
        return [*late, p["b"], *(n for place, n in enumerate(value) if place < p["a"])]

    def inputs(self, p: Params, rng: np.random.Generator) -> list[Any]:
        return [[], integers(rng, 0, 99, p["a"]), integers(rng, 0, 99, p["a"] + 1), list(range(8))]


# Level 3.


class Digits(Family):
    level = 3

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        return {"a": integer(rng, 2, 9), "b": integer(rng, 2, 12), "c": letters(rng, 1)}

    def say(self, p: Params, v: str) -> str:
        return f"text: '{p['c']}', then {v} in base {p['a']}, filled with zeros to at least {p['b']} digits"

    def solve(self, p: Params, v: str) -> str:
        loop = f"d = ''\nwhile {v}:\n    d = str({v} % {p['a']}) + d\n    {v} //= {p['a']}\n"
        return f"{loop}return '{p['c']}' + d.rjust({p['b']}, '0')"

    def expect(self, p: Params, value: int) -> str:
        return str(p["c"]) + np.base_repr(value, p["a"]).zfill(p["b"])

    def inputs(self, p: Params, rng: np.random.Generator) -> list[Any]:
        a, b = p["a"], p["b"]
        return [0, 1, a, a**b - 1, a**b, integer(rng, 1, 999), integer(rng, 1000, 99_999)]


class Runs(Family):
    level, names = 3, _TEXTS

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        return {"a": integer(rng, 2, 4), "b": integer(rng, 1, 200)}

    def say(self, p: Params, v: str) -> str:
        return f"list of [letter, length + {p['b']}] for each run of at least {p['a']} equal letters in {v}, in order"

    def solve(self, p: Params, v: str) -> str:
        start = f"import itertools\nr = [(k, len(list(g))) for k, g in itertools.groupby({v})]\n"
        return f"{start}return [[k, n + {p['b']}] for k, n in r if n >= {p['a']}]"

    def expect(self, p: Params, value: str) -> list[list[Any]]:
        runs: list[list[Any]] = []
        for place, letter in enumerate(value):
            if place and value[place - 1] == letter:
                runs[-1][1] += 1
            else:
                runs.append([letter, 1])
        return [[letter, size + p["b"]] for letter, size in runs if size >= p["a"]]

    def inputs(self, p: Params, rng: np.random.Generator) -> list[Any]:
        x, y = "ab" if rng.random() < 0.5 else "ca"
        a = p["a"]
        return ["", x, x * a, x * (a - 1) + y * a, x * (a + 1) + y + x * a, letters(rng, 14, "ab")]


class Recurrence(Family):
    level = 3

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        return {
            "a": integer(rng, 0, 9),
            "b": integer(rng, 1, 9),
            "c": integer(rng, 1, 5),
            "d": integer(rng, 1, 5),
        }

    def say(self, p: Params, v: str) -> str:
        return f"term {v} of a sequence: term 0 is {p['a']}, term 1 is {p['b']}, " + (
            f"then {p['c']} times the term before plus {p['d']} times the one before that"
        )

    def solve(self, p: Params, v: str) -> str:
        step = f"    a, b = b, {p['c']} * b + {p['d']} * a\n"
        return f"a, b = {p['a']}, {p['b']}\nfor _ in range({v}):\n{step}return a"

    def expect(self, p: Params, value: int) -> int:
        terms = [p["a"], p["b"]]
        while len(terms) <= value:
            terms.append(p["c"] * terms[-1] + p["d"] * terms[-2])
        return int(terms[value])

    def inputs(self, p: Params, rng: np.random.Generator) -> list[Any]:
        return [0, 1, 2, 3, integer(rng, 4, 9), integer(rng, 10, 30)]


class Window(Family):
    level, names = 3, _LISTS

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        return {"a": integer(rng, 2, 5), "b": integer(rng, 1, 99)}

    def say(self, p: Params, v: str) -> str:
        return f"largest sum of {p['a']} neighbours in {v}, or {p['b']} if {v} is shorter than that"

    def solve(self, p: Params, v: str) -> str:
        check = f"if len({v}) < {p['a']}:\n    return {p['b']}\n"
        return f"{check}return max(sum({v}[i:i + {p['a']}]) for i in range(len({v}) - {p['a']} + 1))"

    def expect(self, p: Params, value: list[int]) -> int:
        a = p["a"]
        if len(value) < a:
            return int(p["b"])
        best = total = sum(value[:a])
        for leaving, entering in zip(value, value[a:], strict=False):
            total += entering - leaving
            best = max(best, total)
        return best

    def inputs(self, p: Params, rng: np.random.Generator) -> list[Any]:
        a = p["a"]
        sizes = (a - 1, a, a + 1, a + 6)
        return [[], *[integers(rng, -50, 50, size) for size in sizes], [-n for n in integers(rng, 1, 50, a + 3)]]


class Shift(Family):
    level, names = 3, _TEXTS

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        return {"a": integer(rng, 1, 25), "b": letters(rng, 1)}

    def say(self, p: Params, v: str) -> str:
        moved = f"each letter a to z of {v} moved {p['a']} places on (z is followed by a)"
        return f"{moved}, other characters as they are, then '{p['b']}'"

    def solve(self, p: Params, v: str) -> str:
        moved = f"chr((ord(i) - 97 + {p['a']}) % 26 + 97)"
        return f"return ''.join({moved} if 'a' <= i <= 'z' else i for i in {v}) + '{p['b']}'"

    def expect(self, p: Params, value: str) -> str:
        return value.translate(str.maketrans(LETTERS, LETTERS[p["a"] :] + LETTERS[: p["a"]])) + str(p["b"])

    def inputs(self, p: Params, rng: np.random.Generator) -> list[Any]:
        return ["", "az", "A z!", letters(rng, 6), letters(rng, 3) + " " + letters(rng, 4).upper() + ", 7"]


class Merge(Family):
    level, names = 3, _LISTS

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        return {"a": integer(rng, 1, 20), "b": integer(rng, 1, 20)}

    def say(self, p: Params, v: str) -> str:
        return (
            f"sorted list of the [start, end] ranges of {v}, merged where the gap between them is at most {p['a']}, "
            f"without those whose length end - start is then below {p['b']}"
        )

    def solve(self, p: Params, v: str) -> str:
        join = f"    if r and s - r[-1][1] <= {p['a']}:\n        r[-1][1] = max(r[-1][1], e)\n"
        loop = f"r = []\nfor s, e in sorted({v}):\n{join}    else:\n        r.append([s, e])\n"
        return f"{loop}return [i for i in r if i[1] - i[0] >= {p['b']}]"

    def expect(self, p: Params, value: list[list[int]]) -> list[list[int]]:
        if not value:
            return []
        low, high = min(s for s, _ in value), max(e for _, e in value)
        covered = {n for s, e in value for n in range(s, e + p["a"])}
        ends = sorted(e for _, e in value)
        merged, start = [], None
        for n in range(low, high + p["a"] + 1):
            if n in covered and start is None:
                start = n
            elif n not in covered and start is not None:
                merged.append([start, max(e for e in ends if e < n)])
                start = None
        return [[s, e] for s, e in merged if e - s >= p["b"]]

    def inputs(self, p: Params, rng: np.random.Generator) -> list[Any]:
        a, b = p["a"], p["b"]
        drawn = [[s, s + integer(rng, 0, 25)] for s in integers(rng, 0, 150, 6)]
        return [
            [],
            [[5, 5 + b]],
            [[5, 4 + b]],
            [[9 + b + a, 40 + b + a], [0, 9 + b]],
            [[0, 9 + b], [10 + b + a, 40 + 2 * b + a]],
            [[0, 60], [10, 20], [62 + a, 63 + a + b]],
            drawn,
        ]


FAMILIES: dict[str, Family] = {
    family.__name__: family()
    for family in (
        *(Affine, Gap, Clip, Divides, Frame, Repeat),
        *(TotalAbove, Scaled, CountMultiples, KthLargest, LongWords, Rotate),
        *(Digits, Runs, Recurrence, Window, Shift, Merge),
    )
}
LEVELS = (1, 2, 3)


def families_of(level: int | None) -> list[str]:
    """Names of the families of a level, or of all."""
    return [name for name, family in FAMILIES.items() if level is None or family.level == level]

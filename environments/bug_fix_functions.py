"""Small library functions, and ways to break each of them. Owns the source code that repositories are made of.

A break replaces one text by another; the first one occurs exactly once in the function. The functions here are
correct: hidden tests compare with them. A model reads their source code, docstrings included: a change there changes
what it sees.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

Inputs = Callable[[np.random.Generator], list[tuple[Any, ...]]]


def slug(text: str) -> str:
    """Words in lower case, joined by hyphens; whatever is no letter or digit parts words."""
    words, word = [], ""
    for letter in text.lower():
        if letter.isalnum():
            word += letter
        elif word:
            words.append(word)
            word = ""
    if word:
        words.append(word)
    return "-".join(words)


def median(numbers: list[int]) -> float:
    """The middle number, or the mean of the two in the middle."""
    ordered = sorted(numbers)
    middle = len(ordered) // 2
    if len(ordered) % 2 == 1:
        return float(ordered[middle])
    return (ordered[middle - 1] + ordered[middle]) / 2


def roman(number: int) -> str:
    """A number from 1 to 3999 in Roman digits."""
    values = [1000, 900, 500, 400, 100, 90, 50, 40, 10, 9, 5, 4, 1]
    names = ["M", "CM", "D", "CD", "C", "XC", "L", "XL", "X", "IX", "V", "IV", "I"]
    text = ""
    for value, name in zip(values, names):  # noqa: B905
        while number >= value:
            text += name
            number -= value
    return text


def seconds(text: str) -> int:
    """Seconds of a duration such as 1h30m or 45s; 0 for no text."""
    total, digits = 0, ""
    for letter in text:
        if letter.isdigit():
            digits += letter
        else:
            total += int(digits) * {"h": 3600, "m": 60, "s": 1}[letter]
            digits = ""
    return total


def valid_card(digits: str) -> bool:
    """Whether the check digit is right: from the end, every second digit counts twice, less 9 above 9."""
    total = 0
    for place, letter in enumerate(reversed(digits)):
        digit = int(letter)
        if place % 2 == 1:
            digit *= 2
            if digit > 9:
                digit -= 9
        total += digit
    return total % 10 == 0


def chunks(items: list[int], size: int) -> list[list[int]]:
    """The items in lists of a size; the last may be shorter."""
    parts, part = [], []
    for item in items:
        part.append(item)
        if len(part) == size:
            parts.append(part)
            part = []
    if part:
        parts.append(part)
    return parts


def compare_versions(one: str, other: str) -> int:
    """-1, 0 or 1 as one version comes before, with or after the other; missing parts are 0."""
    left = [int(part) for part in one.split(".")]
    right = [int(part) for part in other.split(".")]
    size = max(len(left), len(right))
    left += [0] * (size - len(left))
    right += [0] * (size - len(right))
    return (left > right) - (left < right)


def balanced(text: str) -> bool:
    """Whether every bracket of ()[]{} is closed by its own kind, in order."""
    partner = {")": "(", "]": "[", "}": "{"}
    open_ones = []
    for letter in text:
        if letter in "([{":
            open_ones.append(letter)
        elif letter in ")]}" and (not open_ones or open_ones.pop() != partner[letter]):
            return False
    return not open_ones


def first_place(items: list[int], value: int) -> int:
    """Where a value is to be put into sorted items, before those equal to it."""
    low, high = 0, len(items)
    while low < high:
        middle = (low + high) // 2
        if items[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low


def merge_counts(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    """The sums of two counts; names whose sum is 0 are left out."""
    merged = dict(one)
    for name, number in other.items():
        merged[name] = merged.get(name, 0) + number
    return {name: number for name, number in merged.items() if number != 0}


def moving_sums(numbers: list[int], size: int) -> list[int]:
    """The sums of all runs of `size` neighbours, from left to right."""
    sums = []
    for start in range(len(numbers) - size + 1):
        sums.append(sum(numbers[start : start + size]))
    return sums


def transpose(rows: list[list[int]]) -> list[list[int]]:
    """Columns as rows; short rows are filled with 0."""
    width = max([len(row) for row in rows], default=0)
    columns = []
    for place in range(width):
        columns.append([row[place] if place < len(row) else 0 for row in rows])
    return columns


FUNCTIONS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        *(slug, median, roman, seconds, valid_card, chunks),
        *(compare_versions, balanced, first_place, merge_counts, moving_sums, transpose),
    )
}

# Four breaks of each function; the last one is for held-out tasks only.
BREAKS: dict[str, tuple[tuple[str, str], ...]] = {
    "slug": (
        ("text.lower()", "text"),
        ("elif word:", "else:"),
        ('"-".join', '"_".join'),
        ('    if word:\n        words.append(word)\n    return "', '    return "'),
    ),
    "median": (
        ("sorted(numbers)", "list(numbers)"),
        ("ordered[middle - 1] + ordered[middle]", "ordered[middle] + ordered[middle]"),
        (" % 2 == 1", " % 2 == 0"),
        ("ordered[middle]) / 2", "ordered[middle]) // 2"),
    ),
    "roman": (
        ("number >= value", "number > value"),
        ("while number", "if number"),
        ("1000, 900, 500, 400", "1000, 500, 900, 400"),
        ('"L", "XL", "X"', '"L", "LX", "X"'),
    ),
    "seconds": (
        ('"m": 60', '"m": 100'),
        ("total += int", "total = int"),
        ('            digits = ""\n', ""),
        ("digits += letter", "digits = letter"),
    ),
    "valid_card": (
        ("reversed(digits)", "digits"),
        ("place % 2 == 1", "place % 2 == 0"),
        ("digit -= 9", "digit -= 10"),
        ("if digit > 9", "if digit > 10"),
    ),
    "chunks": (
        ("    if part:\n        parts.append(part)\n    return", "    return"),
        ("len(part) == size", "len(part) > size"),
        ("            part = []\n", "            part = [item]\n"),
        ("    if part:\n", "    if len(part) > 1:\n"),
    ),
    "compare_versions": (
        ("int(part) for part in one", "part for part in one"),
        ("max(len(left)", "min(len(left)"),
        ("(left > right) - (left < right)", "(left > right) - (left <= right)"),
        ("right += [0]", "right += [1]"),
    ),
    "balanced": (
        ("return not open_ones", "return True"),
        ("open_ones.pop() != partner[letter]", "open_ones.pop() == letter"),
        ('letter in ")]}"', 'letter in ")]"'),
        ("not open_ones or open_ones", "open_ones and open_ones"),
    ),
    "first_place": (
        ("items[middle] < value", "items[middle] <= value"),
        ("low, high = 0, len(items)", "low, high = 0, len(items) - 1"),
        ("            high = middle\n", "            high = middle - 1\n"),
        ("low, high = 0,", "low, high = 1,"),
    ),
    "merge_counts": (
        ("merged.get(name, 0) + number", "number"),
        ("if number != 0", "if number > 0"),
        (" if number != 0", ""),
        ("dict(one)", "dict(other)"),
    ),
    "moving_sums": (
        ("- size + 1", "- size"),
        ("start : start + size", "start : size"),
        ("start + size])", "start + size - 1])"),
        ("range(len", "range(1, len"),
    ),
    "transpose": (
        ("max([", "min(["),
        ("else 0 for", "else -1 for"),
        ("range(width)", "range(width - 1)"),
        ("place < len(row)", "place < len(row) - 1"),
    ),
}


def _numbers(rng: np.random.Generator, count: int, low: int = -30, high: int = 60) -> list[int]:
    return [int(n) for n in rng.integers(low, high, count)]


def _versions(rng: np.random.Generator) -> str:
    return ".".join(str(n) for n in _numbers(rng, int(rng.integers(1, 4)), 0, 12))


def _card(rng: np.random.Generator) -> str:
    digits = "".join(map(str, _numbers(rng, 9, 0, 10)))
    return digits + next(last for last in "0123456789" if valid_card(digits + last))


def _counts(rng: np.random.Generator) -> dict[str, int]:
    return {name: number for name, number in zip("abcd", _numbers(rng, 4, -3, 4), strict=True) if number}


INPUTS: dict[str, Inputs] = {
    "slug": lambda rng: [("Hello, World",), ("  Two  words!",), ("A",), ("",), (f"Part {rng.integers(99)} --",)],
    "median": lambda rng: [([3, 9, 1],), ([4, 7, 2, 1],), (_numbers(rng, 7),), ([*_numbers(rng, 4), 100, 101],)],
    "roman": lambda rng: [(1,), (4,), (40,), (944,), (3000,), (int(rng.integers(1, 4000)),)],
    "seconds": lambda rng: [("1h30m",), ("45s",), ("",), ("2h",), (f"{rng.integers(10, 60)}m{rng.integers(10, 60)}s",)],
    "valid_card": lambda rng: [("79927398713",), ("79927398710",), ("0",), ("59",), (_card(rng),), (_card(rng)[::-1],)],
    "chunks": lambda rng: [([], 2), ([1, 2, 3], 2), ([1, 2], 2), ([1, 2, 3, 4, 5], 3), (_numbers(rng, 7), 3)],
    "compare_versions": lambda rng: [
        *[("1.2", "1.10"), ("1.0", "1"), ("2.0.1", "2"), ("3", "3"), ("1", "1.0.1")],
        (_versions(rng), _versions(rng)),
    ],
    "balanced": lambda rng: [("([]{})",), ("(]",), ("((",), (")",), ("}",), ("a(b)c",), ("([)]",)],
    "first_place": lambda rng: [
        *[([1, 3, 5, 7], 4), ([1, 3, 3, 5], 3), ([1, 2], 9), ([4, 5], 1), ([], 3)],
        (sorted(_numbers(rng, 8)), int(rng.integers(-30, 60))),
    ],
    "merge_counts": lambda rng: [
        *[({"a": 1}, {"a": 2, "b": 1}), ({"a": 2}, {"a": -2}), ({"a": -1}, {}), ({"c": 4}, {"d": 1})],
        (_counts(rng), _counts(rng)),
    ],
    "moving_sums": lambda rng: [([1, 2, 3, 4], 2), ([5], 1), ([], 2), ([1, 2], 3), (_numbers(rng, 6), 3)],
    "transpose": lambda rng: [([[1, 2], [3, 4]],), ([[1, 2, 3], [4]],), ([],), ([[7]],), ([_numbers(rng, 3), [1]],)],
}


def text_of(function: str, broken: int | None = None) -> str:
    """The source code of a function, correct or broken.

    Args:
        function: its name.
        broken: number of the break; None for the correct function.
    Raises: ValueError if the text to replace does not occur exactly once.
    """
    text = inspect.getsource(FUNCTIONS[function]).replace("  # noqa: B905", "")
    if broken is None:
        return text
    old, new = BREAKS[function][broken]
    if text.count(old) != 1:
        raise ValueError(f"the text of break {broken} occurs {text.count(old)} times in {function}, expected once")
    return text.replace(old, new)

"""Families of shell tasks: the files at the beginning, the question, the files at the end, and a solution.

Owns the problems; runs nothing. The files at the end are computed here, independently of the solution's commands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

Files = dict[str, str]
_NAMES = ("alpha", "birch", "cedar", "delta", "ember", "fjord", "grape", "hazel", "iris", "jade", "koala", "lemon")
_WORDS = ("red", "sun", "oak", "sea", "ice", "fog", "map", "key", "bee", "owl", "fig", "rye")
_FOLDERS = ("src", "notes", "data", "logs", "inbox", "stock")


@dataclass(frozen=True)
class Problem:
    """One task.

    Attributes:
        files: path -> text at the beginning.
        question: what the model reads.
        commands: a solution, one shell command a turn.
        wanted: path -> text at the end; white space at the end of a file does not count.
        gone: paths that must not exist at the end.
        slip: the commands of a hasty reader, which fail on most problems; none where haste does no harm.
    """

    files: Files
    question: str
    commands: tuple[str, ...]
    wanted: Mapping[str, str]
    gone: tuple[str, ...] = field(default=())
    slip: tuple[str, ...] = ()


def _pick(rng: np.random.Generator, words: tuple[str, ...], count: int) -> list[str]:
    return [str(word) for word in rng.choice(words, count, replace=False)]


def _lines(rng: np.random.Generator, count: int) -> list[str]:
    return [" ".join(_pick(rng, _WORDS, 3)) for _ in range(count)]


def _below(rng: np.random.Generator, count: int) -> tuple[str, list[str]]:
    """A folder and names for files in it."""
    return _pick(rng, _FOLDERS, 1)[0], _pick(rng, _NAMES, count)


def rename(rng: np.random.Generator) -> Problem:
    """Change the ending of all files of one kind."""
    folder, names = _below(rng, 6)
    old, new = _pick(rng, ("txt", "md", "log", "cfg", "dat"), 2)
    files = {f"{folder}/{name}.{old}": "\n".join(_lines(rng, 2)) + "\n" for name in names[:4]}
    other = {f"{folder}/{name}.keep": name + "\n" for name in names[4:]}
    return Problem(
        files | other,
        f"In {folder}, rename every .{old} file to .{new}.",
        (f'cd {folder} && for f in *.{old}; do mv "$f" "${{f%.{old}}}.{new}"; done',),
        {path.removesuffix(old) + new: text for path, text in files.items()} | other,
        tuple(files),
        slip=(f'cd {folder} && for f in *.{old}; do cp "$f" "${{f%.{old}}}.{new}"; done',),
    )


def count(rng: np.random.Generator) -> Problem:
    """Count the lines with a word in several files."""
    folder, names = _below(rng, 4)
    word = _pick(rng, _WORDS, 1)[0]
    texts = {f"{folder}/{name}.txt": _lines(rng, int(rng.integers(4, 12))) for name in names}
    number = sum(word in line.split() for lines in texts.values() for line in lines)
    return Problem(
        {path: "\n".join(lines) + "\n" for path, lines in texts.items()},
        f"Count the lines with the word {word} in all files of {folder}; write the number to count.txt.",
        (f"cat {folder}/*.txt | grep -cw {word} > count.txt",),
        {"count.txt": str(number)},
    )


def unique(rng: np.random.Generator) -> Problem:
    """Write the distinct lines of several files, sorted."""
    folder, names = _below(rng, 3)
    texts = {f"{folder}/{name}.txt": _pick(rng, _WORDS, 6) for name in names}
    lines = sorted({line for found in texts.values() for line in found})
    target = _pick(rng, ("all.txt", "words.txt", "merged.txt"), 1)[0]
    return Problem(
        {path: "\n".join(found) + "\n" for path, found in texts.items()},
        f"Write the different lines of all files of {folder}, sorted, to {target}.",
        (f"sort -u {folder}/*.txt > {target}",),
        {target: "\n".join(lines)},
        slip=(f"sort {folder}/*.txt > {target}",),
    )


def column(rng: np.random.Generator) -> Problem:
    """Write one column of a table, for some rows."""
    name = _pick(rng, _NAMES, 1)[0]
    cities = _pick(rng, _WORDS, 4)
    rows = [(n, cities[int(rng.integers(4))], int(rng.integers(1, 99))) for n in _pick(rng, _NAMES, 9)]
    chosen = rows[0][1]
    table = "name,place,amount\n" + "".join(f"{n},{c},{a}\n" for n, c, a in rows)
    return Problem(
        {f"{name}.csv": table},
        f"Write the names of the rows of {name}.csv whose place is {chosen} to out.txt, one a line, in their order.",
        (f"awk -F, '$2 == \"{chosen}\" {{ print $1 }}' {name}.csv > out.txt",),
        {"out.txt": "\n".join(n for n, c, _ in rows if c == chosen), f"{name}.csv": table},
    )


def total(rng: np.random.Generator) -> Problem:
    """Add up a column of several tables."""
    folder, names = _below(rng, 3)
    tables = {f"{folder}/{name}.csv": [int(n) for n in rng.integers(1, 500, 5)] for name in names}
    files = {
        path: "item;price\n" + "".join(f"{_WORDS[i]};{n}\n" for i, n in enumerate(t)) for path, t in tables.items()
    }
    return Problem(
        files,
        f"Add up the prices in all tables of {folder}; write the sum to sum.txt.",
        (f"tail -q -n +2 {folder}/*.csv | awk -F';' '{{ s += $2 }} END {{ print s }}' > sum.txt",),
        {"sum.txt": str(sum(sum(numbers) for numbers in tables.values())), **files},
    )


def replace_word(rng: np.random.Generator) -> Problem:
    """Replace a word by another, in files of one kind only."""
    folder, names = _below(rng, 5)
    old, new = _pick(rng, _WORDS, 2)
    texts = {name: "\n".join([*_lines(rng, 3), f"{old} {names[0]} {old}"]) + "\n" for name in names}
    changed = {f"{folder}/{name}.cfg": texts[name] for name in names[:3]}
    other = {f"{folder}/{name}.txt": texts[name] for name in names[3:]}
    return Problem(
        changed | other,
        f"In the .cfg files of {folder}, replace the word {old} by {new} everywhere; leave other files alone.",
        (f"sed -i 's/\\b{old}\\b/{new}/g' {folder}/*.cfg",),
        {path: text.replace(old, new) for path, text in changed.items()} | other,
        slip=(f"sed -i 's/\\b{old}\\b/{new}/' {folder}/*.cfg",),
    )


def delete_empty(rng: np.random.Generator) -> Problem:
    """Delete the empty files at any depth, and keep the others."""
    folder, names = _below(rng, 7)
    places = [f"{folder}/{'deep/' if index % 2 else ''}{name}.txt" for index, name in enumerate(names)]
    empty = {places[int(i)] for i in rng.choice(7, 3, replace=False)}
    files = {path: "" if path in empty else f"{path}\n" for path in places}
    return Problem(
        files,
        f"Delete the empty files in {folder} and its folders.",
        (f"find {folder} -type f -empty -delete",),
        {path: text for path, text in files.items() if text},
        tuple(sorted(empty)),
        slip=(f"find {folder} -maxdepth 1 -type f -empty -delete",),
    )


def sort_out(rng: np.random.Generator) -> Problem:
    """Move the files that contain a word to a new folder."""
    folder, names = _below(rng, 6)
    word, target = _pick(rng, _WORDS, 2)
    rest = tuple(w for w in _WORDS if w != word)
    with_word = {names[int(i)] for i in rng.choice(6, 3, replace=False)}
    files = {
        f"{folder}/{name}.txt": " ".join([*_pick(rng, rest, 4), word if name in with_word else name]) + "\n"
        for name in names
    }
    moved = {path for path in files if path.split("/")[1].removesuffix(".txt") in with_word}
    wanted = {(f"{target}/{path.split('/')[1]}" if path in moved else path): text for path, text in files.items()}
    return Problem(
        files,
        f"Move the files of {folder} that contain the word {word} to a new folder {target}.",
        (f"grep -lw {word} {folder}/*.txt", f"mkdir {target}", f"mv $(grep -lw {word} {folder}/*.txt) {target}/"),
        wanted,
        tuple(sorted(moved)),
        slip=(f"grep -lw {word} {folder}/*.txt", f"mv $(grep -lw {word} {folder}/*.txt) {target}/"),
    )


def last_entries(rng: np.random.Generator) -> Problem:
    """Collect the log lines of one kind from several files, ordered by time."""
    folder, names = _below(rng, 3)
    minutes = [int(n) for n in rng.choice(1440, 15, replace=False)]
    kinds = ("ERROR", "INFO", "WARN")
    lines = [f"{m // 60:02}:{m % 60:02} {kinds[int(rng.integers(3))]} {_WORDS[m % 12]}" for m in minutes]
    kind = lines[0].split()[1]
    files = {f"{folder}/{name}.log": "\n".join(sorted(lines[i::3])) + "\n" for i, name in enumerate(names)}
    return Problem(
        files,
        f"Write all {kind} lines of the logs in {folder} to {kind.lower()}.txt, ordered by time.",
        (f"cat {folder}/*.log | grep {kind} | sort > {kind.lower()}.txt",),
        {f"{kind.lower()}.txt": "\n".join(sorted(line for line in lines if line.split()[1] == kind))},
        slip=(f"cat {folder}/*.log | grep {kind} > {kind.lower()}.txt",),
    )


def chain(rng: np.random.Generator) -> Problem:
    """Follow files that each name the next one; the last one holds the word."""
    folder, names = _below(rng, 8)
    word = _pick(rng, _WORDS, 1)[0] + str(int(rng.integers(100, 1000)))
    length = int(rng.integers(3, 6))
    trail = [f"{folder}/{name}.txt" for name in names[:length]]
    files = {here: f"next: {there}\n" for here, there in pairwise(trail)}
    files[trail[-1]] = f"word: {word}\n"
    files |= {f"{folder}/{name}.txt": f"word: {name}{int(rng.integers(100, 1000))}\n" for name in names[length:]}
    return Problem(
        files,
        f"Start at {trail[0]}: each file names the next. Write the word in the last one to word.txt.",
        (*(f"cat {path}" for path in trail), f"echo {word} > word.txt"),
        {"word.txt": word},
        slip=(f"grep -h word: {folder}/*.txt | head -1 | cut -d' ' -f2 > word.txt",),
    )


FAMILIES: dict[str, Callable[[np.random.Generator], Problem]] = {
    make.__name__: make
    for make in (
        *(rename, count, unique, column, total),
        *(replace_word, delete_empty, sort_out, last_entries, chain),
    )
}
_EASY = ("count", "unique", "delete_empty", "last_entries")
_TURNS = ("sort_out", "chain")
LEVELS = {1: _EASY, 2: tuple(name for name in FAMILIES if name not in _EASY + _TURNS), 3: _TURNS}


def families_of(level: int | None) -> list[str]:
    """Names of the families of a level; None for all."""
    return list(FAMILIES if level is None else LEVELS[level])


def problem(family: str, seed: int) -> Problem:
    """The problem of a family and a seed; the same arguments always give the same problem."""
    return FAMILIES[family](np.random.default_rng(seed))

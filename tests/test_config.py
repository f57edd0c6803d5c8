"""Configuration: defaults, file, overrides; what is refused and in which words; the round trip."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from agentrl.config import Count, OneOf, Positive, check_config, dump_config, load_config
from agentrl.config.field_checks import check_fields
from agentrl.errors import ConfigError
from agentrl.registry import Registry

TOOLS = Registry("tool", "test.tools", {})


@dataclass(frozen=True)
class Bounded:
    count: Annotated[int, Field(ge=1)] = 1
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    extra: Mapping[str, Any] = field(default_factory=dict)


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Rule:
    name: str
    weight: float = 1.0


@dataclass(frozen=True)
class Train:
    lr: float = 3e-4
    steps: int = 100
    anneal: bool = True
    clip: tuple[float, float] = (0.2, 0.28)
    loss: Literal["grpo", "cispo"] = "grpo"
    seed: int | None = None
    stop_at: float | None = 0.9
    folder: Path | None = None
    colour: Colour = Colour.RED
    rules: tuple[Rule, ...] = ()

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be 1 or more, got {self.steps}")


@dataclass(frozen=True)
class Run:
    env_id: str = "agentrl/Shop-v0"
    train: Train = field(default_factory=Train)
    env: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Needs:
    env_id: str
    seed: int = 0


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(text)
    return path


def refusal(cls: type[Any], path: Path | None = None, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(cls, path, overrides)
    return str(caught.value)


def test_defaults_then_file_then_overrides(tmp_path: Path) -> None:
    path = write(tmp_path, 'env_id = "my/Env-v0"\n[train]\nlr = 1\nsteps = 5\nclip = [0.1, 0.2]\nfolder = "x/y"\n')
    run = load_config(Run, path, ["train.lr=1e-4", "train.seed=7", "train.loss=cispo", "env.size=3"])
    train = Train(lr=1e-4, steps=5, clip=(0.1, 0.2), folder=Path("x/y"), seed=7, loss="cispo")
    assert run == Run("my/Env-v0", train, {"size": 3})
    assert load_config(Run) == Run()


def test_the_later_override_wins_and_overrides_may_be_an_iterator() -> None:
    assert load_config(Run, None, iter(["train.lr=1", "train.lr=2"])).train.lr == 2.0


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("env.a=true", True),
        ("env.a=[1, 2]", [1, 2]),
        ("env.a=plain words", "plain words"),
        ('env.a="4"', "4"),
        ("env.a=", ""),
        ("env.a=x=y", "x=y"),
        ("env.a={b = 1}", {"b": 1}),
        ("env.a=1e-4", 1e-4),
    ],
)
def test_override_values_are_toml_or_bare_words(override: str, value: object) -> None:
    assert load_config(Run, None, [override]).env == {"a": value}


def test_a_text_field_takes_a_number_from_an_override_as_text() -> None:
    assert load_config(Run, None, ["env_id=7"]).env_id == "7"


def test_none_is_a_word_where_the_field_admits_it() -> None:
    assert load_config(Run, None, ["train.stop_at=none"]).train.stop_at is None
    assert load_config(Run, None, ["env_id=none"]).env_id == "none"


def test_unknown_key_names_file_key_and_nearest(tmp_path: Path) -> None:
    path = write(tmp_path, "[train]\nlearning = 1\nsteps = 3\n")
    assert refusal(Run, path).startswith(f"{path}: unknown key 'train.learning' in [train].")
    path = write(tmp_path, "[train]\nstep = 3\n")
    assert refusal(Run, path) == f"{path}: unknown key 'train.step' in [train]. Did you mean 'steps'?"
    assert refusal(Run, None, "trian.lr=1") == (
        "--set trian.lr=1: unknown key 'trian' in the top level. Did you mean 'train'?"
    )


def test_unknown_key_inside_a_list_of_sections(tmp_path: Path) -> None:
    path = write(tmp_path, '[[train.rules]]\nname = "a"\nwieght = 2.0\n')
    assert "'train.rules.0.wieght'" in refusal(Run, path)
    assert "Did you mean 'weight'?" in refusal(Run, path)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lr=fast", '--set train.lr=fast: train.lr = "fast": expected a valid number'),
        ('train.steps="3"', '--set train.steps="3": train.steps = "3": expected a valid integer'),
        ("train.steps=1.5", "--set train.steps=1.5: train.steps = 1.5: expected a valid integer"),
        ("train.steps=true", "--set train.steps=true: train.steps = true: expected a valid integer"),
        ("train.anneal=1", "--set train.anneal=1: train.anneal = 1: expected a valid boolean"),
        ("train.loss=ppo", "--set train.loss=ppo: train.loss = \"ppo\": expected 'grpo' or 'cispo'"),
        ("train.colour=green", "--set train.colour=green: train.colour = \"green\": expected 'red' or 'blue'"),
        ("train=3", "--set train=3: train = 3: expected a section"),
        ("train.steps=0", "--set train.steps=0: train: steps must be 1 or more, got 0"),
        ("train.lr", "--set train.lr: expected KEY=VALUE, such as stages.rl.steps=30"),
        (".lr=3", "--set .lr=3: expected KEY=VALUE, such as stages.rl.steps=30"),
    ],
)
def test_wrong_values_say_what_was_expected(override: str, message: str) -> None:
    assert refusal(Run, None, override) == message


def test_each_wrong_value_has_a_line_and_its_source(tmp_path: Path) -> None:
    path = write(tmp_path, '[train]\nlr = "x"\nclip = [1]\n')
    lines = refusal(Run, path, "train.steps=no").splitlines()
    assert lines[0] == f'{path}: train.lr = "x": expected a valid number'
    assert lines[1].startswith("--set train.steps=no: train.steps")
    assert len(lines) == 3


def test_override_into_a_value_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, 'env_id = "a"\n')
    assert refusal(Run, path, "env_id.x=1") == "--set env_id.x=1: env_id is a value, not a section"


def test_missing_required_key() -> None:
    assert refusal(Needs) == "configuration: env_id is required; set it in the file or with --set env_id=..."


def test_file_errors(tmp_path: Path) -> None:
    assert "no such file" in refusal(Run, tmp_path / "absent.toml")
    assert "cannot be read" in refusal(Run, tmp_path)
    assert "not valid TOML" in refusal(Run, write(tmp_path, "a = = 3"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = False", r"not valid TOML: .*line 1.*: x = False; TOML writes false"),
        ("\nx = True", "line 2.*: x = True; TOML writes true"),
        ("x = None", 'x = None; write "none"'),
        ("x = \n", "line 1.*: x ="),
    ],
)
def test_a_line_that_is_no_toml_is_shown(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(Bounded, tmp_path / "a.toml")


def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes("\ufeffcount = 3\n".encode())
    assert load_config(Bounded, tmp_path / "a.toml").count == 3
    (tmp_path / "a.toml").write_bytes("count = 3\n".encode("utf-16"))
    with pytest.raises(ConfigError, match=r"is not UTF-8 text: .*; save it as UTF-8"):
        load_config(Bounded, tmp_path / "a.toml")


@dataclass(frozen=True)
class Outer:
    inner: Bounded = Bounded()
    name: str = ""


def test_a_key_of_an_inner_section_is_found_there() -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'share' in the top level. It is inner.share."):
        load_config(Outer, None, ["share=0.5"])
    with pytest.raises(ConfigError, match='inner = "x": expected a section'):
        load_config(Outer, None, ["inner=x"])
    with pytest.raises(ConfigError, match=r"inner.extra = 3: expected a section"):
        load_config(Outer, None, ["inner.extra=3"])


@dataclass(frozen=True)
class Checked:
    rate: Positive = 1.0
    steps: Count | None = None
    kind: Literal["a", "b"] = "a"
    pair: tuple[Positive, Positive] = (1.0, 1.0)
    other: Any = None

    def __post_init__(self) -> None:
        check_fields(self)


def test_fields_are_checked_when_an_object_is_made() -> None:
    made = Checked(np.float32(2.0), np.int64(3), "b", [1, 2])  # type: ignore[arg-type]
    assert (made.rate, made.steps) == (2.0, 3)
    for wrong, message in (
        ({"rate": math.nan}, "Checked.rate = nan: expected a finite number"),
        ({"rate": "1"}, "Checked.rate = '1': expected a valid number"),
        ({"steps": 0}, "Checked.steps = 0: expected at least 1"),
        ({"steps": 1.5}, "Checked.steps = 1.5: expected a valid integer"),
        ({"kind": "c"}, "Checked.kind = 'c': expected 'a' or 'b'"),
        ({"pair": (1.0, -1.0)}, r"Checked.pair = \(1.0, -1.0\): expected more than 0"),
    ):
        with pytest.raises(ValueError, match=message):
            Checked(**wrong)


def test_dump_round_trips_every_kind_of_value(tmp_path: Path) -> None:
    train = Train(
        lr=1e-7,
        seed=3,
        stop_at=None,
        folder=Path('a b/"c"'),
        colour=Colour.BLUE,
        rules=(Rule("x", -math.inf), Rule("y")),
    )
    extra = {"nested": {"deep key": [1, 2.5, "three"], "é": 'q"\\\n\x7f\x01😀'}, "flag": False, "many": [{"a": 1}]}
    extra |= {"empty": {}, "none": []}
    run = Run("a/B-v1", train, extra)
    assert load_config(Run, write(tmp_path, dump_config(run))) == run
    assert load_config(Run, write(tmp_path, dump_config(Run()))) == Run()


@given(
    text=st.text(), key=st.text(min_size=1), number=st.floats(allow_nan=False), whole=st.integers(-(2**63), 2**63 - 1)
)
def test_dump_round_trips_any_text_and_number(
    tmp_path_factory: pytest.TempPathFactory, text: str, key: str, number: float, whole: int
) -> None:
    run = Run(text, Train(lr=number), {key: {"x": text, "y": whole}})
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(dump_config(run).encode())
    assert load_config(Run, path) == run


def test_dump_keeps_dates_and_times() -> None:
    moments = [date(2024, 2, 1), time(1, 2), datetime(2024, 2, 1, 3, tzinfo=UTC)]
    assert tomllib.loads(dump_config(Run(env={"when": moments})))["env"]["when"] == moments


def test_dump_refuses_what_toml_cannot_say() -> None:
    with pytest.raises(ConfigError, match=r"env\.a\.1 = None"):
        dump_config(Run(env={"a": [1, None]}))
    with pytest.raises(ConfigError, match=r"env\.a has the key 1: a key must be text, not a int"):
        dump_config(Run(env={"a": {1: 2}}))
    with pytest.raises(ConfigError, match=r"env\.a = .*: a time has no TOML form"):
        dump_config(Run(env={"a": time(1, tzinfo=UTC)}))


def test_bounds_read_as_words_and_hold_for_configurations_made_in_python() -> None:
    with pytest.raises(ConfigError, match=r"^--set count=0: count = 0: expected at least 1$"):
        load_config(Bounded, None, ["count=0"])
    with pytest.raises(ConfigError, match=r"^configuration: share = 2\.0: expected at most 1\.0$"):
        check_config(Bounded(share=2.0))
    with pytest.raises(ConfigError, match="only numbers, text, lists"):
        check_config(Bounded(extra={"a": object()}))
    check_config(Bounded(extra={"a": [1, "b"]}))


@dataclass(frozen=True)
class Hammer:
    """A part of a registry."""

    weight: Positive = 1.0
    grip: str | None = "wood"


@dataclass(frozen=True)
class Saw:
    """Another part; it holds a part itself."""

    teeth: Count
    backup: Annotated[Any, OneOf(TOOLS)] = Hammer(weight=2.0)


TOOLS.register("hammer", Hammer)
TOOLS.register("saw", Saw)


@dataclass(frozen=True)
class Box:
    """A configuration with parts in every kind of place."""

    first: Annotated[Any, OneOf(TOOLS)] = Hammer(weight=3.0)
    by_name: Mapping[str, Annotated[Any, OneOf(TOOLS)]] = field(default_factory=dict)
    weighted: tuple[tuple[float, Annotated[Any, OneOf(TOOLS)]], ...] = ()
    inner: Hammer = Hammer(weight=5.0)


def test_a_part_is_a_name_or_a_table_with_its_kind(tmp_path: Path) -> None:
    path = tmp_path / "box.toml"
    path.write_text(
        """
        first = "hammer"
        weighted = [[0.5, "hammer"], [2.0, {kind = "saw", teeth = 9}]]
        [by_name.a]
        kind = "saw"
        teeth = 7
        backup = {kind = "hammer", grip = "none"}
        """
    )
    box = load_config(Box, path, ["by_name.b.kind=hammer", "by_name.b.weight=4.5"])
    assert box.first == Hammer()  # a name alone stands for the part's own defaults
    assert box.by_name == {"a": Saw(7, Hammer(2.0, None)), "b": Hammer(4.5)}
    assert box.weighted == ((0.5, Hammer()), (2.0, Saw(9)))
    check_config(box)
    path.write_text(dump_config(box))
    assert load_config(Box, path) == box


def test_a_table_changes_the_default_of_its_field() -> None:
    box = load_config(Box, None, ["inner.grip=steel", "first.grip=none"])
    assert box.inner == Hammer(weight=5.0, grip="steel")
    assert box.first == Hammer(weight=3.0, grip=None)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("first=hamer", r"--set first=hamer: first: no tool is named 'hamer'. Did you mean 'hammer'\?"),
        ("first=3", "first = 3: expected a name or a section"),
        ("by_name.a.weight=3", "by_name.a needs a kind: write kind = NAME, one of hammer, saw"),
        ("first.weight=-1", "first.weight = -1: expected more than 0"),
        ("first.wieght=2", r"unknown key 'first.wieght' in \[first\]. Did you mean 'weight'\?"),
        ("by_name.a.kind=saw", "by_name.a.teeth is required"),
        ("first=json:loads", r"'json:loads' is <function loads.*>, not a dataclass"),
    ],
)
def test_parts_that_cannot_be_built_are_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(Box, None, [override])


def test_parts_made_in_python_are_checked_too() -> None:
    with pytest.raises(ConfigError, match=r"by_name\.a\.backup\.weight = -2\.0: expected more than 0"):
        check_config(Box(by_name={"a": Saw(3, Hammer(-2.0))}))

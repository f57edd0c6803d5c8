"""Progress on stderr: a live bar in a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

_EVERY_S = 5.0
_SHOWN = (
    ("rollout/success", "success"),
    ("eval/success", "held-out success"),
    ("eval/greedy_success", "greedy"),
    ("rollout/reward_mean", "reward"),
    ("rollout/turns_mean", "turns"),
    ("loss/policy", "loss"),
    ("loss/supervised", "loss"),
)
_TITLES = {"rl": "training", "eval": "evaluation", "before": "evaluation before", "after": "evaluation after"}


class Step(Protocol):
    """What a training run reports: the stage, how far it is, and the newest metrics."""

    @property
    def stage(self) -> str: ...
    @property
    def step(self) -> int: ...
    @property
    def total(self) -> int: ...
    @property
    def metrics(self) -> Mapping[str, float]: ...


class _Live:
    """A bar in a terminal, and none elsewhere; it is shown within `with`."""

    def __init__(self, console: Console | None) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        self._bar = _bar(self.console) if self.console.is_terminal else None

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


class TrainProgress(_Live):
    """Shows the steps of a training run; call it with each one."""

    def __init__(self, console: Console | None = None) -> None:
        super().__init__(console)
        self._stage = ""
        self._row: TaskID | None = None
        self._printed_s = 0.0

    def __call__(self, step: Step) -> None:
        title = _TITLES.get(step.stage, step.stage.replace("_", " "))
        line = f"{title} {step.step}/{step.total}  {shown_metrics(step.metrics)}".rstrip()
        if self._bar is None:
            self._print(step, line)
            return
        if step.stage == "eval" and step.metrics:
            self._bar.console.print(f"step {line.removeprefix(title + ' ')}")
        else:
            self._show(step, title)

    def _show(self, step: Step, title: str) -> None:
        assert self._bar is not None
        if step.stage != self._stage:
            self._stage = step.stage
            self._row = self._bar.add_task(title, total=step.total, metrics="")
        assert self._row is not None
        self._bar.update(self._row, completed=step.step, total=step.total)
        if step.metrics:
            self._bar.update(self._row, metrics=shown_metrics(step.metrics))

    def _print(self, step: Step, line: str) -> None:
        now = time.monotonic()
        news = step.stage != self._stage or step.step == step.total or (step.stage == "eval" and step.metrics)
        if news or now - self._printed_s >= _EVERY_S:
            self._stage, self._printed_s = step.stage, now
            self.console.print(line, soft_wrap=True)


class Counter(_Live):
    """Counts finished things, of a known or an unknown number."""

    def __init__(self, what: str, console: Console | None = None) -> None:
        super().__init__(console)
        self.what, self.count = what, 0
        self._row = self._bar.add_task(what, total=None, metrics="") if self._bar is not None else None
        self._printed_s = time.monotonic()

    def show(self, count: int, total: int | None = None) -> None:
        """Show that `count` things are finished, of `total` where that is known."""
        self.count = count
        if self._bar is not None and self._row is not None:
            self._bar.update(self._row, completed=count, total=total)
        elif time.monotonic() - self._printed_s >= _EVERY_S:
            self._printed_s = time.monotonic()
            self.console.print(f"{self.what}: {count}{'' if total is None else f' of {total}'}", soft_wrap=True)


def shown_metrics(metrics: Mapping[str, float]) -> str:
    """The few numbers that a person follows, then the seconds of the step, and its samplers where there are some."""
    parts = [f"{label} {metrics[name]:.3f}" for name, label in _SHOWN if name in metrics]
    if "eval/ci95_low" in metrics and "eval/ci95_high" in metrics:
        parts.insert(1, f"[{metrics['eval/ci95_low']:.3f} to {metrics['eval/ci95_high']:.3f}]")
    seconds = sum(value for name, value in metrics.items() if name.startswith("time/") and name.endswith("_s"))
    parts += [f"{seconds:.1f} s"] if seconds else []
    if "scale/samplers" in metrics:
        parts.append(f"{metrics['scale/samplers']:.0f} samplers, lag {metrics.get('rollout/lag_max', 0):.0f}")
        parts += [f"{metrics['scale/restarts']:.0f} restarts"] if metrics["scale/restarts"] else []
    return "  ".join(parts)


def _bar(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description:<18}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[metrics]}", markup=False),
    )
    return Progress(*columns, console=console, transient=False)

"""A benchmark's result as tables for a terminal. Owns their look; numbers come from `agentrl.bench.result`."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from agentrl.bench.estimates import Estimate
from agentrl.bench.measures.base import SHARE, Measured
from agentrl.bench.measures.endings import by_cause
from agentrl.bench.result import BenchResult, Effort, Score

_COLUMNS = {"success_of_attempted": "of attempted"}


def render(result: BenchResult) -> RenderableType:
    """All tables and notes of a benchmark; print them with a rich console."""
    parts: list[RenderableType] = [_scores(result), _episodes(result)]
    if len(result.score.pass_at) > 1:
        parts.append(_pass_rates(result.score))
    if result.score.components.keys() - {"reward"}:
        parts.append(_components(result.score))
    if result.score.tools:
        parts.append(_tools(result.score))
    if result.score.measures:
        parts.append(_measures(result))
    parts.append(_effort(result.score.effort))
    if result.cost_usd is not None:
        parts.append(Text(f"cost: {result.cost_usd:.4g} USD for {result.score.n_episodes} episodes"))
    parts.extend(Text(f"warning: {warning}", style="bold red") for warning in result.warnings)
    parts.extend(Text(note, style="yellow") for note in notes(result))
    if len(result.served_models) == 1:
        parts.append(Text(f"served model: {next(iter(result.served_models))}", style="dim"))
    if result.out is not None:
        parts.append(Text(f"records: {result.out}", style="dim"))
    return Group(*parts)


def notes(result: BenchResult) -> Iterator[str]:
    """What a reader must know before quoting the score."""
    score, references = result.score, result.references
    played = score.n_episodes + score.n_faults
    if played < score.n_planned:
        yield f"{result.status}: {played} of {score.n_planned} episodes were played; the same --out plays the others"
    if score.n_faults:
        cause = next(iter(score.faults))
        yield f"{score.n_faults} episodes are discarded and not scored; most often: {cause}"
    if score.counts.errors:
        detail, number = next(iter(score.counts.errors.items()))
        total = sum(score.counts.errors.values())
        yield f"{total} episodes ended because of what the model sent, and count as failures; {number}x: {detail}"
    if score.counts.retried:
        yield f"{score.counts.retried} episodes were played again after a fault, and their last attempt counts"
    if score.counts.asked_anew:
        yield (
            f"in {score.counts.asked_anew} episodes the environment answered otherwise after a fault, so that the "
            "model was asked anew: of the attempted episodes these count as failures"
        )
    left_out = score.n_tasks - next(iter(score.pass_at.values())).n if len(score.pass_at) > 1 else 0
    if left_out:
        yield f"pass@k and pass^k leave out {left_out} tasks that have fewer than {max(score.pass_at)} scored trials"
    if len(result.served_models) > 1:
        turns = ", ".join(f"{name} ({number} turns)" for name, number in result.served_models.items())
        yield f"the server answered with several models, so this is the score of a mixture: {turns}"
    if score.malformed_calls:
        yield f"{score.malformed_calls} tool calls could not be read"
    null, oracle = references.get("null"), references.get("oracle")
    if null is not None and null.success.mean > 0:
        yield f"doing nothing solves {null.success.mean:.1%} of the tasks: every score contains this share"
    if oracle is not None and oracle.success.mean < 1:
        yield f"the oracle solves only {oracle.success.mean:.1%}: some tasks or the scoring are broken"


def _table(title: str, *columns: str) -> Table:
    return Table(*columns, title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))


def _scores(result: BenchResult) -> Table:
    config = result.config
    title = f"{result.env} · {config.split} · {result.score.n_tasks} tasks x {config.trials}"
    table = _table(title)
    table.add_column("policy", overflow="fold", min_width=8)
    counts = result.score.counts
    denominators = {"success": counts.scored, "success_of_attempted": counts.attempted} if counts.num_discarded else {}
    for name in result.score.headline:
        shown = _COLUMNS.get(name, name)
        of = denominators.get(name)
        if of is not None:
            shown = f"success of {of} {'attempted' if 'attempted' in name else 'scored'}"
        table.add_column(shown, justify="right", no_wrap=True)
    table.add_row(*_score_row(result.policy, result.score), style="bold")
    for name, score in result.references.items():
        table.add_row(*_score_row(name, score), style="dim")
    table.caption = "95% intervals over tasks; 'of attempted' counts discarded episodes as failures"
    table.caption_justify = "left"
    return table


def _score_row(name: str, score: Score) -> tuple[str, ...]:
    return name, *map(_shown, score.headline.values())


def _episodes(result: BenchResult) -> Table:
    """How the episodes ended: attempted = scored + discarded, by cause."""
    table = _table("episodes")
    table.add_column("policy", overflow="fold", min_width=8)
    for name in ("attempted", "scored", "cut off", "errors", "discarded"):
        table.add_column(name, justify="right")
    for name, score in {result.policy: result.score, **result.references}.items():
        counts = score.counts
        whole = map(str, (counts.attempted, counts.scored, sum(score.truncated.values())))
        style = "bold" if score is result.score else "dim"
        table.add_row(name, *whole, counts.errors_shown, by_cause(counts.discarded), style=style)
    return table


def _measures(result: BenchResult) -> Table:
    """The further measures that were asked for, with those of the references."""
    table = _table("measures", "measure", "unit")
    scores = {result.policy: result.score, **result.references}
    for name in scores:
        table.add_column(name, justify="right")
    for name, answer in result.score.measures.items():
        table.add_row(name, answer.unit, *(_shown(score.measures[name]) for score in scores.values()))
    return table


def _shown(answer: Measured) -> str:
    return percent(answer.estimate) if answer.unit == SHARE else number(answer.estimate)


def _pass_rates(score: Score) -> Table:
    table = _table("of k trials", "k")
    table.add_column("pass@k (one succeeds)", justify="right")
    table.add_column("pass^k (all succeed)", justify="right")
    if score.pass_hat_attempted:
        table.add_column("pass^k of attempted", justify="right")
    table.add_column("tasks", justify="right")
    for k, estimate in score.pass_at.items():
        of_attempted = score.pass_hat_attempted.get(k)
        counted = (
            [str(estimate.n)] if of_attempted is None else [percent(of_attempted), f"{estimate.n}, {of_attempted.n}"]
        )
        table.add_row(str(k), percent(estimate), percent(score.pass_hat[k]), *counted)
    return table


def _components(score: Score) -> Table:
    table = _table("reward", "component")
    table.add_column("mean", justify="right")
    for name, estimate in score.components.items():
        table.add_row(name, number(estimate))
    return table


def _tools(score: Score) -> Table:
    table = _table("tools", "tool")
    for name in ("calls", "per episode", "errors", "episodes"):
        table.add_column(name, justify="right")
    for name, tool in score.tools.items():
        table.add_row(
            name,
            str(tool.calls),
            f"{tool.calls / score.n_episodes:.2f}",
            f"{tool.errors / tool.calls:.1%}" if tool.calls else "-",
            f"{tool.episodes / score.n_episodes:.1%}",
        )
    return table


def _effort(effort: Effort) -> Text:
    parts = [
        (effort.turns, "{:.1f} turns"),
        (effort.completion_tokens, "{:,.0f} tokens sampled"),
        (effort.prompt_tokens, "{:,.0f} tokens read"),
        (effort.cached_tokens, "{:,.0f} of them cached"),
        (effort.reasoning_tokens, "{:,.0f} tokens of thinking"),
        (effort.policy_s, "{:.2f} s policy"),
        (effort.latency_s, "{:.3f} s for an answer of the server"),
        (effort.env_s, "{:.3f} s environment"),
    ]
    per_episode = ", ".join(form.format(value) for value, form in parts if not math.isnan(value))
    if not per_episode:
        return Text("no episode was scored")
    each = effort.tokens_per_success
    known = not math.isnan(each.mean)
    interval = f" [{each.low:,.0f}, {each.high:,.0f}]" if math.isfinite(each.low) and math.isfinite(each.high) else ""
    per_success = f"\nper success: {each.mean:,.0f}{interval} tokens sampled" if known else ""
    return Text(f"per episode: {per_episode}{per_success}")


def percent(estimate: Estimate) -> str:
    """A share and its interval: `61.0% [51.2, 70.0]`; no interval where none is known."""
    if math.isnan(estimate.mean):
        return "-"
    known = math.isfinite(estimate.low) and math.isfinite(estimate.high)
    return f"{100 * estimate.mean:.1f}%" + (f" [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]" if known else "")


def number(estimate: Estimate) -> str:
    """A mean and its interval: `0.610 [0.512, 0.700]`; no interval where none is known."""
    if math.isnan(estimate.mean):
        return "-"
    known = math.isfinite(estimate.low) and math.isfinite(estimate.high)
    return f"{estimate.mean:.3f}" + (f" [{estimate.low:.3f}, {estimate.high:.3f}]" if known else "")

"""What summary.json says of a finished run: its identity, its stages, their first and last scores, its cost.

Owns the choice and the form of these values, and asks for the verdicts on them. The folder writes the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from agentrl.bench.verdicts import verdicts
from agentrl.bench.views.run_report import read_metrics
from agentrl.training.files.provenance import cost, provenance
from agentrl.training.files.run_state import RunState
from agentrl.training.folder import RunFolder
from agentrl.training.settings import RunSettings
from agentrl.training.stages.environments import PlayedEnv, trained


def summary_of(
    state: RunState,
    folder: RunFolder,
    settings: RunSettings,
    *,
    identity: Mapping[str, Any],
    environments: Mapping[str, PlayedEnv],
    device: str,
) -> dict[str, Any]:
    """The summary of a run whose stages are all finished.

    Args:
        state: its seconds are those of the whole run.
        folder: of the run; its settings and its metrics are read.
        settings: of the run.
        identity: what the run was begun with.
        environments: of the run, by name.
        device: that the model is on.
    """
    tables = [summary for summary in state.summaries.values() if "greedy" in summary]
    shown = [{n: cell for n, cell in table.items() if not n.startswith("outcomes")} for table in tables]
    summary: dict[str, Any] = {
        "env": asdict(trained(environments)[0].ref),
        **(_environments(environments) if settings.envs else {}),
        "seed": settings.seed,
        **{name: identity.get(name) for name in ("began", "sampling")},
        "before": shown[0] if len(shown) > 1 else None,
        "after": shown[-1] if shown else None,
        "stages": state.summaries,
        "steps": state.version,
        "wall_s": round(state.wall_s, 1),
        "cpu_s": round(state.cpu_s, 1),
        "cost": cost(state.wall_s, state.cpu_s, state.cpu_s_by_stage, state.tokens),
        **provenance(folder.config_path, device),
    }
    return {**summary, "verdicts": verdicts(read_metrics(folder.metrics_path), summary, tables)}


def _environments(environments: Mapping[str, PlayedEnv]) -> dict[str, Any]:
    """What the summary of a run over several environments says of them."""
    shown = {name: {"env": asdict(env.ref), "trains": env.trains} for name, env in environments.items()}
    return {"environments": shown}

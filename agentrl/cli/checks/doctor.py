"""`agentrl doctor`: what works on this machine, and the command that fixes what does not."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Literal

import click

from agentrl.cli.boundary import EXIT_FAILED, json_option, print_json
from agentrl.env import registry
from agentrl.errors import PackageMissing
from agentrl.sandbox import Report, backend_names, make_backend

_GIB = 1024**3
_LOW_DISK_BYTES = 2 * _GIB
_LOW_MEMORY_BYTES = 2 * _GIB
_TRAIN = "pip install 'agentrl[train]'"


@dataclass(frozen=True)
class Finding:
    """One line of the doctor.

    Attributes:
        name: what was looked at.
        status: `failed` where something that everyone needs does not work, `warning` where a part does not.
        detail: what was found.
        repair: the command that fixes it; empty where nothing needs fixing.
    """

    name: str
    status: Literal["ok", "warning", "failed"]
    detail: str
    repair: str = ""


@click.command("doctor")
@json_option
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Show what works on this machine, and how to fix what does not. Exit code 1 if something failed."""
    findings = [finding for look in LOOKS for finding in look()]
    ok = all(finding.status != "failed" for finding in findings)
    if as_json:
        print_json({"ok": ok, "findings": [asdict(finding) for finding in findings]})
    else:
        _print(findings)
    if not ok:
        ctx.exit(EXIT_FAILED)


def _print(findings: list[Finding]) -> None:
    colours = {"ok": "green", "warning": "yellow", "failed": "red"}
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        status = click.style(f"{finding.status:<8}", fg=colours[finding.status])
        click.echo(f"{status} {finding.name:<{width}}  {finding.detail}")
        if finding.repair:
            click.echo(f"{'':<9}{'':<{width}}  fix: {finding.repair}")


def look_at_python() -> list[Finding]:
    """The interpreter; one that is too old could not have installed AgentRL."""
    return [Finding("python", "ok", f"{platform.python_version()} at {sys.executable}")]


def look_at_train_packages() -> list[Finding]:
    """torch and transformers, which training and local models need."""
    return [_package(name, "training and local models need it") for name in ("torch", "transformers", "tensorboard")]


def _package(name: str, why: str) -> Finding:
    if importlib.util.find_spec(name) is None:
        return Finding(name, "warning", f"not installed; {why}", _TRAIN)
    # A broken wheel fails in any way on import; that is what is looked for here.
    try:
        importlib.import_module(name)
    except Exception as error:
        repair = f"pip install --force-reinstall --no-deps {name}"
        return Finding(name, "failed", f"does not import: {type(error).__name__}: {error}", repair)
    try:
        return Finding(name, "ok", version(name))
    except PackageNotFoundError:
        return Finding(name, "ok", "installed")


def look_at_device() -> list[Finding]:
    """Where torch would compute."""
    if importlib.util.find_spec("torch") is None:
        return []
    try:
        import torch
    except Exception:
        return []  # reported with the package
    cores = os.cpu_count() or 1
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        return [Finding("device", "ok", f"cuda: {gpu.name}, {gpu.total_memory / _GIB:.0f} GiB; {cores} CPU cores")]
    if torch.backends.mps.is_available():
        return [Finding("device", "ok", f"mps; {cores} CPU cores")]
    if shutil.which("nvidia-smi") and torch.version.cuda is None:
        repair = "pip install --force-reinstall torch  (from an index of CUDA builds)"
        return [Finding("device", "warning", "there is an NVIDIA driver, but torch is a CPU build", repair)]
    return [Finding("device", "ok", f"cpu, {cores} cores, {torch.get_num_threads()} torch threads{_samplers(cores)}")]


def _samplers(cores: int) -> str:
    """What more than one core can be used for."""
    return f"; scale.samplers = {cores - 1} or {cores} samples while it learns" if cores > 1 else ""


def look_at_disk() -> list[Finding]:
    """Room for run folders here."""
    free = shutil.disk_usage(Path.cwd()).free
    text = f"{free / _GIB:.1f} GiB free in {Path.cwd()}"
    if not os.access(Path.cwd(), os.W_OK):
        return [Finding("disk", "warning", f"{Path.cwd()} is not writable", "cd to a folder of yours, or use --out")]
    if free < _LOW_DISK_BYTES:
        return [
            Finding("disk", "warning", f"{text}; a long run with checkpoints needs more", "du -sh runs/* | sort -h")
        ]
    return [Finding("disk", "ok", text)]


def look_at_memory() -> list[Finding]:
    """Memory that is free now, where the system says."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return []
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
    free = int(fields.get("MemAvailable", "0 kB").split()[0]) * 1024
    text = f"{free / _GIB:.1f} GiB available"
    if free < _LOW_MEMORY_BYTES:
        return [Finding("memory", "warning", f"{text}; the quickstart needs about 2", "ps aux --sort -rss | head")]
    return [Finding("memory", "ok", text)]


def look_at_environments() -> list[Finding]:
    """Whether every registered environment can be made."""
    failures, lacking = [], set()
    ids = registry.env_ids()
    for env_id in ids:
        # Someone else's package may fail in any way; that is what is looked for here.
        try:
            registry.make(env_id).close()
        except PackageMissing:  # a suite that this person does not use
            lacking.add(env_id)
        except Exception as error:
            detail = f"does not load: {type(error).__name__}: {error}"
            failures.append(Finding(env_id, "failed", detail, _repair_of(env_id)))
    if failures:
        return failures
    if not ids:
        return [
            Finding("environments", "failed", "no entry points found", "pip install --force-reinstall --no-deps -e .")
        ]
    loaded = [env_id for env_id in ids if env_id not in lacking]
    others = f"; {len(lacking)} suites are not installed" if lacking else ""
    return [Finding("environments", "ok", f"{len(loaded)} load: {', '.join(loaded)}{others}")]


def _repair_of(env_id: str) -> str:
    entries = entry_points(group=registry.GROUP, name=env_id)
    package = next((entry.dist.name for entry in entries if entry.dist is not None), None)
    return f"pip install --upgrade {package}" if package else f"agentrl check {env_id} --debug"


def look_at_sandboxes() -> list[Finding]:
    """Which sandbox backends can run code here; environments that run code need one of them."""
    reports = [asyncio.run(make_backend(name).doctor()) for name in backend_names() if name != "subprocess"]
    return [finding for report in reports for finding in _sandbox_findings(report)]


def _sandbox_findings(report: Report) -> list[Finding]:
    name = f"sandbox {report.backend}"
    lacking = [check for check in report.checks if not check.ok]
    if report.usable and not lacking:
        return [Finding(name, "ok", "; ".join(check.detail for check in report.checks[-2:]))]
    return [Finding(name, "warning", f"{check.name}: {check.detail}", check.repair) for check in lacking] or [
        Finding(name, "warning", "cannot be used")
    ]


def look_at_offline_flags() -> list[Finding]:
    """Whether Hugging Face may be asked for models."""
    names = [name for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if os.environ.get(name)]
    return [Finding("network", "ok", f"{', '.join(names)} set: local models only" if names else "no offline flag set")]


LOOKS: tuple[Callable[[], list[Finding]], ...] = (
    look_at_python,
    look_at_train_packages,
    look_at_device,
    look_at_disk,
    look_at_memory,
    look_at_environments,
    look_at_sandboxes,
    look_at_offline_flags,
)

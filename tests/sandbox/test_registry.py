"""Backends by name, and the one that has no walls."""

from __future__ import annotations

import asyncio

import pytest

from agentrl.sandbox import SandboxError, SandboxFault, make_backend, register_backend, registry
from agentrl.sandbox.base import Backend
from agentrl.sandbox.conformance.check_sandbox import TOPICS, check_sandbox


def test_auto_is_never_the_one_without_walls(monkeypatch):
    assert make_backend().name == "bubblewrap"
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(registry, "backend_names", lambda: ["subprocess"])
    with pytest.raises(SandboxFault, match="sudo apt-get install -y bubblewrap"):
        make_backend()


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(SandboxError, match="Did you mean 'bubblewrap'"):
        make_backend("bublewrap")


def test_a_plug_in_is_found_by_its_name(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})
    register_backend("mine", lambda **options: ("made", options))
    assert make_backend("mine", depth=2) == ("made", {"depth": 2})


@pytest.mark.parametrize("unsafe", [{}, {"unsafe": False}, {"unsafe": 1}])
def test_subprocess_is_refused_without_unsafe(unsafe):
    with pytest.raises(SandboxError, match="isolates nothing"):
        make_backend("subprocess", **unsafe)


def test_the_suite_takes_a_sandbox_without_walls_for_what_it_is():
    backend = make_backend("subprocess", unsafe=True)
    report = asyncio.run(check_sandbox(backend, topics=["contract"]))
    assert {result.name for result in report.failures} <= {"snapshots", "turns"}, report.text


@pytest.mark.parametrize("topic", ["limits", "reach", "state", "tampering"])
def test_no_attack_is_made_without_walls(topic):
    """Never loosen this: these attacks signal every process they can reach, and fill and overwrite what they can."""

    class NoWalls(Backend):
        name, isolates = "no walls", False

        async def start(self, spec):
            pytest.fail("an attack was about to be made on this machine")

        doctor = reap = start

    assert TOPICS[topic]
    for probe in TOPICS[topic]:
        with pytest.raises(SandboxError, match="has no walls: not made"):
            asyncio.run(probe.run(NoWalls()))
    assert make_backend("subprocess", unsafe=True).isolates is False

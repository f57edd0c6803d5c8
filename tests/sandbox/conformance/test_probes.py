"""Every probe of the conformance suite, on bubblewrap; and the page that lists the attacks."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentrl.sandbox import make_backend
from agentrl.sandbox.conformance.check_sandbox import TOPICS

PROBES = [(topic, probe) for topic, probes in TOPICS.items() for probe in probes]


@pytest.mark.parametrize(
    "probe",
    [
        pytest.param(probe, id=f"{topic}-{probe.name}", marks=pytest.mark.slow if probe.slow else ())
        for topic, probe in PROBES
    ],
)
async def test_bubblewrap_contains(probe):
    assert await probe.run(make_backend("bubblewrap")) == ""


def test_the_page_on_security_lists_every_attack():
    page = (Path(__file__).resolve().parents[3] / "docs" / "security.md").read_text(encoding="utf-8")
    rows = {f"| {topic}: {probe.name} | {probe.claim} |" for topic, probe in PROBES if topic != "contract"}
    assert {row for row in rows if row not in page} == set()
    every = " | contained" * 4 + " |\n"  # two backends, each as root and as an ordinary user
    assert page.count(every) + page.count(every.replace("contained", "it does")) == len(rows)

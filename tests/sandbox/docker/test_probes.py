"""Every probe of the conformance suite, on docker; and the contract again where the worker is reached over stdio."""

from __future__ import annotations

import asyncio

import pytest

from agentrl.sandbox.conformance.check_sandbox import TOPICS
from agentrl.sandbox.docker.backend import Docker

pytestmark = pytest.mark.docker


def _cases(topics):
    return [pytest.param(probe, id=f"{topic}-{probe.name}") for topic in topics for probe in TOPICS[topic]]


@pytest.mark.parametrize("probe", _cases(TOPICS))
def test_docker_contains(probe):
    assert asyncio.run(probe.run(Docker())) == ""


@pytest.mark.parametrize("probe", _cases(["contract", "state"]))
def test_docker_over_stdio_contains(probe):
    assert asyncio.run(probe.run(Docker(transport="stdio"))) == ""

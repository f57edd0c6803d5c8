"""Backends by name, which one `auto` takes, and the one that does not isolate."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from agentrl.sandbox import SandboxError, SandboxFault, backend_names, make_backend, register_backend
from agentrl.sandbox.base import Backend
from agentrl.sandbox.bubblewrap.backend import Bubblewrap
from agentrl.sandbox.conformance.check_sandbox import TOPICS, check_sandbox
from agentrl.sandbox.docker import backend as docker_backend
from agentrl.sandbox.docker.backend import Docker
from agentrl.sandbox.host.unsafe import Subprocess
from agentrl.sandbox.registry import BACKENDS


def backend(*, here: bool, isolating: bool = True) -> type[Backend]:
    """A backend class that says whether it works here; it starts nothing."""

    class Made(Backend):
        isolates = isolating

        @classmethod
        def works_here(cls) -> bool:
            return here

        async def start(self, spec):
            pytest.fail("nothing is started to choose a backend")

        doctor = reap = start

    return Made


@pytest.fixture
def registered(monkeypatch):
    """Backends that replace the built-in ones of the same name, until the end of the test."""
    backends: dict[str, object] = {}
    monkeypatch.setattr(BACKENDS, "_given", backends)
    return backends


def test_auto_takes_bubblewrap_before_docker(registered):
    registered |= {"bubblewrap": backend(here=True), "docker": backend(here=True), "a": backend(here=True)}
    assert type(make_backend()) is registered["bubblewrap"]
    registered["bubblewrap"] = backend(here=False)
    assert type(make_backend("auto")) is registered["docker"]


def test_auto_takes_a_registered_backend_if_the_built_in_ones_do_not_work(registered):
    register_backend("bubblewrap", backend(here=False))
    register_backend("docker", backend(here=False))
    register_backend("a", backend(here=False))
    register_backend("b", lambda: pytest.fail("a function cannot say whether it works here"))
    register_backend("c", backend(here=True))
    register_backend("d", backend(here=True))
    assert type(make_backend()) is registered["c"]


def test_auto_never_takes_a_backend_that_does_not_isolate(registered):
    registered |= {"bubblewrap": backend(here=False), "docker": backend(here=False)}
    registered["mine"] = backend(here=True, isolating=False)
    assert Subprocess.works_here()
    with pytest.raises(SandboxFault, match="sudo apt-get install -y bubblewrap"):
        make_backend()


def test_a_backend_that_does_not_say_whether_it_works_is_not_taken(registered):
    class Silent(Backend):
        async def start(self, spec):
            pytest.fail("nothing is started to choose a backend")

        doctor = reap = start

    registered |= {"bubblewrap": Silent, "docker": Silent}
    with pytest.raises(SandboxFault):
        make_backend()
    assert type(make_backend("docker")) is Silent


def test_bubblewrap_works_here_if_its_program_is_installed(monkeypatch):
    assert type(make_backend()) is Bubblewrap
    monkeypatch.setenv("PATH", "/nowhere")
    assert not Bubblewrap.works_here()


def test_docker_works_here_if_its_sdk_is_installed_and_there_is_an_address(monkeypatch, tmp_path):
    pytest.importorskip("docker")
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setattr(docker_backend, "_DAEMON_SOCKET", str(tmp_path / "docker.sock"))
    assert not Docker.works_here()
    (tmp_path / "docker.sock").touch()
    assert Docker.works_here()
    (tmp_path / "docker.sock").unlink()
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    assert Docker.works_here()
    monkeypatch.setattr(docker_backend, "docker", None)
    assert not Docker.works_here()


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(SandboxError, match="Did you mean 'bubblewrap'"):
        make_backend("bublewrap")
    with pytest.raises(SandboxError, match="Did you mean 'auto'"):
        make_backend("aut")


def test_a_registered_backend_is_found_by_its_name(registered):
    register_backend("mine", lambda **options: ("made", options))
    assert make_backend("mine", depth=2) == ("made", {"depth": 2})
    assert backend_names() == ["bubblewrap", "docker", "mine", "subprocess"]


def test_auto_hands_its_options_to_the_backend(registered):
    class Deep(backend(here=True)):
        def __init__(self, depth: int) -> None:
            self.depth = depth

    register_backend("bubblewrap", Deep)
    assert make_backend(depth=2).depth == 2


def test_a_plug_in_that_cannot_be_loaded_is_named(monkeypatch):
    entry = EntryPoint("broken", "agentrl_no_such_package:Backend", "agentrl.sandboxes")
    monkeypatch.setattr(BACKENDS, "_entries", {"broken": entry})
    assert "broken" in backend_names()
    with pytest.raises(SandboxError, match="sandbox backend 'broken' is declared by an installed package"):
        make_backend("broken")


@pytest.mark.parametrize("unsafe", [{}, {"unsafe": False}, {"unsafe": 1}])
def test_subprocess_is_refused_without_unsafe(unsafe):
    with pytest.raises(SandboxError, match="isolates nothing"):
        make_backend("subprocess", **unsafe)


async def test_the_suite_runs_its_harmless_probes_without_isolation():
    backend = make_backend("subprocess", unsafe=True)
    report = await check_sandbox(backend, topics=["contract"])
    assert {result.name for result in report.failures} <= {"snapshots", "turns"}, report.text


@pytest.mark.parametrize("topic", sorted(set(TOPICS) - {"contract"}))
async def test_no_attack_is_run_without_isolation(topic):
    """Never loosen this: these attacks signal every process they can reach, and fill and overwrite what they can."""

    class NotIsolating(Backend):
        name, isolates = "not isolating", False

        async def start(self, spec):
            pytest.fail("an attack was about to be run on this machine")

        doctor = reap = start

    assert TOPICS[topic]
    for probe in TOPICS[topic]:
        with pytest.raises(SandboxError, match="does not isolate: not run"):
            await probe.run(NotIsolating())
    assert make_backend("subprocess", unsafe=True).isolates is False

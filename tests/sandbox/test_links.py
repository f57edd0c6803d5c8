"""Folders below `/` that stand for folders of the work folder: in bubblewrap they work, elsewhere they are refused."""

from __future__ import annotations

import shutil

import pytest

from agentrl.sandbox import SandboxError, SandboxSpec, make_backend


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
async def test_a_link_shows_a_folder_of_the_work_folder():
    spec = SandboxSpec(links={"app": "app", "logs": "of/them"})
    async with await make_backend("bubblewrap").start(spec) as sandbox:
        await sandbox.write("app/x", b"here\n")
        result = await sandbox.exec(["sh", "-c", "cat /app/x; mkdir -p of/them; echo made > /logs/y; touch /z"])
        assert (result.text, result.status) == ("here\n", "nonzero")
        assert "Read-only" in result.error_text
        assert await sandbox.read("of/them/y") == b"made\n"
        await sandbox.reset()
        assert not (await sandbox.exec(["ls", "/app/"])).ok


@pytest.mark.parametrize(
    "links", [{"usr": "x"}, {"app": "../x"}, {"app": "/etc"}, {"a/b": "x"}, {"..": "x"}, {"": "x"}]
)
def test_a_link_over_the_system_or_out_of_the_work_folder_is_refused(links):
    with pytest.raises(ValueError, match=r"SandboxSpec\.links must lead from a folder below /"):
        SandboxSpec(links=links)


async def test_a_backend_without_links_refuses_them():
    spec = SandboxSpec(links={"app": "app"})
    for backend in (make_backend("subprocess", unsafe=True), make_backend("docker")):
        with pytest.raises(SandboxError, match=f"the {backend.name} backend cannot show the work folder as /app"):
            await backend.start(spec)

"""Every server of AgentRL on a socket, each as what a client needs to reach it."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx

from agentrl.conform.dialects import Parrot
from agentrl.conform.episodes import played
from agentrl.env import registry
from agentrl.policy.base import SamplingParams
from agentrl.serving.app import make_app as make_chat_app
from agentrl.serving.capture.episode import Episode
from agentrl.serving.capture.server import CaptureServer
from agentrl.serving.capture.session import Session
from agentrl.serving.chat_model import ChatModel
from agentrl.serving.envs.client import connect
from agentrl.serving.envs.server import EnvServer, ServeOptions
from agentrl.serving.envs.sessions import Bounds
from agentrl.serving.listener import ReadyServer, config_of, listening
from agentrl.trajectory import EnvRef
from agentrl.viewer.app import make_app as make_viewer_app
from agentrl.viewer.forks.playing import ForkOptions, Forks
from agentrl.viewer.index import Index
from agentrl.viewer.watch import Watcher
from tests.serving.envs.conftest import ODD

TOKEN = "the-secret-of-this-server"
GUESS = "agentrl/Guess-v0"


@dataclass(frozen=True)
class Face:
    """One server, or one way into it.

    Attributes:
        port: on 127.0.0.1.
        path: that the token opens by GET.
        post: takes a JSON body by POST.
        foreign: a path of somebody else's session, with this client's token.
        secrets: that no answer may hold.
        goes_on: an honest client is served.
        keyless: a foreign page can be refused only where no key is asked for; True if the token alone decides.
        token: that opens it; empty where the path holds a secret.
    """

    port: int
    path: str
    post: str
    foreign: str
    secrets: tuple[str, ...]
    goes_on: Callable[[], None]
    keyless: bool = False
    token: str = TOKEN


def _gets(port: int, path: str, token: str) -> None:
    reply = httpx.get(f"http://127.0.0.1:{port}{path}", headers={"authorization": f"Bearer {token}"}, timeout=30)
    assert reply.status_code == 200, (path, reply.text)


@contextmanager
def env_server() -> Iterator[EnvServer]:
    """A server of an environment; the head of a request must come soon."""
    options = ServeOptions(port=0, token=TOKEN, bounds=Bounds(sessions=8), request_s=1.0)
    with EnvServer(EnvRef(ODD), options) as server:
        yield server


@contextmanager
def env_face(tmp_path: Path) -> Iterator[Face]:
    with env_server() as server:

        def goes_on() -> None:
            env = connect(server.url, TOKEN)
            (message,), _ = env.reset(seed=1, options={"task": "train-0"})
            assert message.content == "task 1"
            env.close()

        port = int(server.url.rpartition(":")[2])
        yield Face(port, "/agentrl/v1", "/reset", "/agentrl/v1/tasks/other", (TOKEN,), goes_on)


@contextmanager
def openenv_face(tmp_path: Path) -> Iterator[Face]:
    with env_server() as server:
        port = int(server.url.rpartition(":")[2])

        def goes_on() -> None:
            headers = {"authorization": f"Bearer {TOKEN}"}
            with httpx.Client(base_url=server.url, headers=headers, timeout=30) as client:
                assert client.post("/reset", json={"seed": 1}).status_code == 200
                assert client.post("/step", json={"action": {"text": "done"}}).json()["done"]

        yield Face(port, "/metadata", "/reset", "/state?session_id=someone-elses", (TOKEN,), goes_on)


@contextmanager
def mcp_face(tmp_path: Path) -> Iterator[Face]:
    with env_server() as server:
        headers = {"authorization": f"Bearer {TOKEN}"}
        opened = httpx.post(f"{server.url}/mcp/episodes", json={}, headers=headers, timeout=30).json()
        asked = {"jsonrpc": "2.0", "id": 1, "method": "ping"}

        def goes_on() -> None:
            accepts = {"accept": "application/json, text/event-stream"}
            reply = httpx.post(server.url + opened["path"], json=asked, headers=accepts, timeout=30)
            assert reply.status_code == 200, reply.text
            _gets(port, f"/mcp/episodes/{opened['id']}", TOKEN)

        port = int(server.url.rpartition(":")[2])
        others = "/mcp/episodes/someone-elses"
        yield Face(port, f"/mcp/episodes/{opened['id']}", "/mcp/episodes", others, (TOKEN, opened["id"]), goes_on)


def said_model() -> ChatModel:
    """A model that says what was said in an episode."""
    episode = asyncio.run(played(registry.make(GUESS), 1))[0]
    return ChatModel(Parrot(episode), "said")


@contextmanager
def capture_face(tmp_path: Path) -> Iterator[Face]:
    model, loop = said_model(), asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def done(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(60)

    async def began() -> CaptureServer:
        server = await CaptureServer().__aenter__()
        for name in ("mine", "other"):
            env = registry.make(GUESS)
            session = Session(model, SamplingParams(), max_turns=64, name=name)
            episode = Episode(session, env, env.tasks.split("train")[0])
            await episode.begin(1)
            server.proxy.add(episode)
        return server

    server = done(began())
    mine, other = (server.proxy.episodes[name].session.key for name in ("mine", "other"))
    port = int(server.url.rpartition(":")[2])
    body = {"model": "any", "messages": [{"role": "user", "content": "?"}]}

    def goes_on() -> None:
        headers = {"authorization": f"Bearer {mine}"}
        reply = httpx.post(f"{server.url}/s/mine/v1/chat/completions", json=body, headers=headers, timeout=30)
        assert reply.status_code == 200, reply.text

    try:
        yield Face(
            port, "/s/mine/task", "/s/mine/v1/chat/completions", "/s/other/task", (mine, other), goes_on, True, mine
        )
    finally:
        done(server.__aexit__(None, None, None))
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


@contextmanager
def serving(app_of: Callable[[int], Any]) -> Iterator[int]:
    """An application as `agentrl chat-server` and `agentrl view` serve theirs, in a thread. Gives its port."""
    with listening("127.0.0.1", 0) as listener:
        ready = threading.Event()
        port = listener.getsockname()[1]
        server = ReadyServer(config_of(app_of(port), 1), ready.set)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])), daemon=True)
        thread.start()
        assert ready.wait(30)
        try:
            yield port
        finally:
            server.should_exit = True
            thread.join(10)


@contextmanager
def chat_face(tmp_path: Path) -> Iterator[Face]:
    model = said_model()
    with serving(lambda port: make_chat_app(model, key=TOKEN)) as port:
        models = "/v1/models"
        yield Face(
            port, models, "/v1/chat/completions", "/v1/models/other", (TOKEN,), lambda: _gets(port, models, TOKEN), True
        )


@contextmanager
def viewer_face(tmp_path: Path) -> Iterator[Face]:
    with ExitStack() as stack:
        index = stack.enter_context(closing(Index(tmp_path / "index.sqlite")))
        watcher = stack.enter_context(Watcher(index, [tmp_path]))
        forks = stack.enter_context(Forks(ForkOptions()))
        port = stack.enter_context(serving(lambda port: make_viewer_app(watcher, forks, token=TOKEN, port=port)))
        runs = "/api/runs"
        yield Face(port, runs, "/api/forks", f"{runs}/other", (TOKEN, str(tmp_path)), lambda: _gets(port, runs, TOKEN))


FACES: dict[str, Callable[[Path], Any]] = {
    "environment": env_face,
    "openenv": openenv_face,
    "capture": capture_face,
    "chat model": chat_face,
    "viewer": viewer_face,
}
if find_spec("mcp_types") is not None:
    FACES["mcp"] = mcp_face


def opened(face: Face) -> socket.socket:
    return socket.create_connection(("127.0.0.1", face.port), timeout=30)


def answer_to(face: Face, sent: bytes, wait_s: float = 10.0) -> str:
    """All that a server says to some bytes, until it hangs up or is silent."""
    found = b""
    with opened(face) as connection:
        connection.settimeout(wait_s)
        try:
            connection.sendall(sent)
            while part := connection.recv(1 << 16):
                found += part
        except OSError:  # it hung up, or is silent
            pass
    return found.decode("latin-1")

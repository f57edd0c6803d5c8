"""Author code that does not return on what a model wrote: it is interrupted, and the episode counts as failed."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Annotated, Any, ClassVar

import gymnasium
import pytest
from pydantic import AfterValidator

from agentrl.env import author_code, watchdog
from agentrl.env.base import Env, Limits
from agentrl.env.started import tasks
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv, call
from agentrl.errors import EnvFault, RolloutError
from agentrl.messages import Action, Message
from agentrl.policy.base import Policy, SamplingParams
from agentrl.rollout.requests import GroupRequest
from agentrl.rollout.runner import Rollouts
from agentrl.tool_schema import tool
from agentrl.trajectory import Task, Trajectory

TEXT = "a" * 60 + "!"
released = threading.Event()


def expression(text: str) -> None:
    re.match(r"(a+)+$", text)


def loop(text: str) -> None:
    while True:
        pass


def stubborn(text: str) -> None:
    while True:
        try:
            loop(text)
        except Exception:
            continue


def lock(text: str) -> None:
    released.wait()


def sleep(text: str) -> None:
    time.sleep(10**6)


HANGS: tuple[Callable[[str], None], ...] = (expression, loop, stubborn, lock, sleep)
IN_A_THREAD = (loop, stubborn, lock)


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(watchdog._watchdog, "look_s", 0.02)
    released.clear()
    earlier = set(watchdog._left)  # of other tests: those may wait for ever
    yield
    released.set()
    for thread in set(watchdog._left) - earlier:
        thread.join()


class Steps(Policy):
    """Takes the first actions in the first episode, the second in the second."""

    sampling = SamplingParams()

    def __init__(self, good: list[Any], bad: list[Any]) -> None:
        self.lists, self.asked = (good, bad), 0

    async def act(self, messages, tools, *, episode_id, sampling=None):
        self.asked += 1
        turn = sum(message.role == "assistant" for message in messages)
        actions = self.lists[episode_id.startswith("second")]
        return Action.of(actions[min(turn, len(actions) - 1)])


async def second_of(env: Any, good: list[Any], bad: list[Any], attempts: int = 2) -> Trajectory:
    """The second of two episodes; the first one goes well."""
    async with Rollouts(
        env, Steps(good, bad), backoff_s=0, max_attempts=attempts, max_fault_fraction=1.0, max_concurrency=1
    ) as rollouts:
        instance = await rollouts.envs.lend()
        tasks = instance.tasks.split("eval")[:2]
        rollouts.envs.give_back(instance)
        names = ("first", "second")
        groups = await rollouts.run(GroupRequest(t, 1, group_id=n) for t, n in zip(tasks, names, strict=True))
    assert groups[0].trajectories[0].ending.kind == "answer", groups[0].trajectories[0].error
    return groups[1].trajectories[0]


class Hangs(ToolEnv):
    """Hangs on a text."""

    tasks = Tasks.of(eval=[{"n": n} for n in range(2)])
    limits = Limits(max_turns=4)
    hook_timeout_s = tool_timeout_s = 0.1
    hang: Callable[[str], None] = staticmethod(loop)
    runs: ClassVar[list[str]] = []

    def start(self, task: Task) -> str:
        return "Go."

    def __on(self, text: str) -> str:
        type(self).runs.append(text)
        if text == TEXT:
            self.hang(text)
        return "well"

    @tool
    def use(self, text: str) -> str:
        """Use a text."""
        return self.__on(text)

    @tool
    async def use_later(self, text: str) -> str:
        """Use a text."""
        return self.__on(text)

    @tool(blocking=True)
    def use_apart(self, text: str) -> str:
        """Use a text."""
        return self.__on(text)

    @tool
    def use_valid(self, text: Annotated[str, AfterValidator(lambda text: text if text == "a" else loop(text))]) -> str:
        """Use a text."""
        return "well"

    def respond(self, text: str) -> str | None:
        if text == "user":
            self.__on(TEXT)
        return None

    def score(self, answer: str | None) -> float:
        self.__on(TEXT if answer == "score" else "")
        return 0.0


def hanging(hang: Callable[[str], None]) -> type[Hangs]:
    return type("Hangs", (Hangs,), {"hang": staticmethod(hang), "runs": []})


PLACES = ("use", "use_later", "user", "score")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("hang", HANGS, ids=lambda hang: hang.__name__)
async def test_code_that_hangs_on_a_text_fails_its_episode(hang: Callable[[str], None], place: str) -> None:
    bad = [place] if place in ("user", "score") else [call(place, text=TEXT), "bye"]
    good = ["bye"] if place in ("user", "score") else [call(place, text="a"), "bye"]
    env = hanging(hang)
    episode = await second_of(env, good, bad)
    assert (episode.ending.kind, episode.ending.who, episode.reward) == ("error", "author", 0.0)
    assert "has not returned within 0.1 s; it is at " in episode.ending.detail
    assert f"in {'loop' if hang is stubborn else hang.__name__}" in episode.ending.detail.replace("in wait", "in lock")


@pytest.mark.parametrize("hang", IN_A_THREAD, ids=lambda hang: hang.__name__)
async def test_a_blocking_tool_that_hangs_fails_its_episode(hang: Callable[[str], None]) -> None:
    bad, good = [call("use_apart", text=TEXT), "bye"], [call("use_apart", text="a"), "bye"]
    episode = await second_of(hanging(hang), good, bad)
    assert (episode.ending.kind, episode.ending.who, episode.reward) == ("error", "author", 0.0)


async def test_a_validator_of_arguments_that_hangs_fails_its_episode() -> None:
    bad, good = [call("use_valid", text=TEXT), "bye"], [call("use_valid", text="a"), "bye"]
    episode = await second_of(Hangs, good, bad)
    assert (episode.ending.kind, episode.ending.who) == ("error", "author")


async def test_what_hangs_is_played_twice_and_no_more() -> None:
    env = hanging(loop)
    await second_of(env, ["bye"], [call("use", text=TEXT), "bye"], attempts=5)
    assert env.runs.count(TEXT) == 2, "every other episode waits meanwhile"


async def test_a_tool_that_hangs_on_everything_discards() -> None:
    class Broken(Hangs):
        """Its tool hangs on everything once it has hung."""

        hung = False

        @tool
        def use(self, text: str) -> str:
            """Use a text."""
            if text == TEXT or Broken.hung:
                Broken.hung = True
                loop(text)
            return "well"

    episode = await second_of(Broken, [call("use", text="a"), "bye"], [call("use", text=TEXT), "bye"])
    assert (episode.ending.kind, episode.ending.who) == ("fault", "author")


class Plain(Env):
    """An environment without tools, written without `ToolEnv`."""

    tasks = Hangs.tasks
    hook_timeout_s = 0.1

    async def areset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self._begin(seed, options)
        return (Message("user", "Go."),), {}

    async def astep(self, action: Any) -> Any:
        if Action.of(action).text == TEXT:
            expression(TEXT)
        self.ending = None
        return (), 0.0, True, False, {}


async def test_a_step_that_hangs_fails_its_episode() -> None:
    async with Rollouts(Plain, Steps(["a"], [TEXT]), backoff_s=0, max_attempts=2, max_concurrency=1) as rollouts:
        groups = await rollouts.run(
            GroupRequest(t, 1, group_id=n) for t, n in zip(Plain.tasks.split("eval"), ("first", "second"), strict=True)
        )
    ending = groups[1].trajectories[0].ending
    assert (ending.kind, ending.who) == ("error", "author")
    assert "step of Plain has not returned within 0.1 s" in ending.detail


class Slow(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A wrapper that hangs on a text."""

    def step(self, action: Any) -> Any:
        if Action.of(action).text == TEXT:
            loop(TEXT)
        return super().step(action)


@pytest.mark.parametrize("inner", [Hangs, Plain])
async def test_a_wrapper_that_hangs_fails_its_episode(inner: type[Env]) -> None:
    async with Rollouts(
        lambda: Slow(inner()), Steps(["a"], [TEXT]), backoff_s=0, max_attempts=2, max_concurrency=1
    ) as rollouts:
        groups = await rollouts.run(
            GroupRequest(t, 1, group_id=n) for t, n in zip(inner.tasks.split("eval"), ("first", "second"), strict=True)
        )
    ending = groups[1].trajectories[0].ending
    assert (ending.kind, ending.who) == ("error", "author")
    assert "has not returned within 0.1 s" in ending.detail


async def test_a_thread_that_computes_is_ended_and_the_number_of_others_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    computing, waiting = hanging(loop)(), hanging(lock)()
    others = watchdog.num_left()  # of other tests
    for env in (computing, waiting):
        await env.areset(seed=0)
        with pytest.raises(EnvFault, match="did not return within"):
            await env.astep(call("use_apart", text=TEXT))
    while watchdog.num_left() > others + 1:
        time.sleep(0.001)
    assert watchdog.num_left() == others + 1, "the one that waits cannot be ended"
    monkeypatch.setattr("agentrl.env.started.threads.MOST_LEFT", 0)
    with pytest.raises(
        RolloutError, match=rf"{others + 1} threads of blocking tools have not returned.*Make such a tool `async def`"
    ):
        await waiting.astep(call("use_apart", text="a"))
    await computing.astep(call("use", text="a"))


@pytest.fixture
def silent_server() -> Iterator[str]:
    """A server that takes a request and never answers."""
    goes_on = threading.Event()

    class Silent(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            goes_on.wait(60)

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Silent)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    goes_on.set()
    server.shutdown()


@pytest.mark.parametrize("name", ["use", "use_apart"])
async def test_code_that_waits_for_a_server_is_no_failure_of_the_author(name: str, silent_server: str) -> None:
    env = hanging(lambda text: urllib.request.urlopen(silent_server))()
    await env.areset(seed=0)
    with pytest.raises(EnvFault) as raised:
        await env.astep(call(name, text=TEXT))
    assert raised.value.at == "network"


def test_a_thread_that_cannot_be_ended_holds_up_no_profiled_code() -> None:
    waits = threading.Thread(target=released.wait, daemon=True)
    waits.start()
    watchdog.leave(waits)
    while watchdog._left[waits] < 3:
        time.sleep(0.001)
    calls = []
    sys.setprofile(lambda frame, event, arg: calls.append(event))
    try:
        for text in ("a", "b"):
            text.upper()
    finally:
        sys.setprofile(None)
    assert len(calls) >= 4


@pytest.mark.parametrize("is_left", [False, True])
def test_what_nobody_waits_for_ends_no_process(is_left: bool) -> None:
    """A command that checks an environment goes on after code that hung, and must not be ended for it later."""

    def hang() -> None:
        watchdog.running[threading.get_ident()] = (None, "start", 1.0)
        begun.set()
        over.wait()

    begun, over, interrupted = threading.Event(), threading.Event(), list[int]()
    thread = threading.Thread(target=hang, daemon=True)
    thread.start()
    begun.wait()
    try:
        if is_left:
            watchdog.leave(thread)
        looks = watchdog.Watchdog(interrupt=interrupted.append)
        for _ in range(5):
            looks.look()
        assert (thread.ident in interrupted) is not is_left
    finally:
        over.set()
        thread.join()
        watchdog.running.pop(thread.ident or 0)


ENDS = """
import time
from agentrl.env import watchdog

class Slow:
    def __del__(self):
        began = time.process_time()
        while time.process_time() - began < 0.5:
            pass

watchdog._watchdog.look_s = 0.001
watchdog.start()
watchdog.kept = Slow()  # ends with the interpreter
"""


@pytest.mark.parametrize(
    ("file", "is_ended"), [(author_code.__file__, False), (tasks.__file__, False), (__file__, True)]
)
def test_code_that_has_just_returned_is_not_interrupted_before_that_is_noted(file: str, is_ended: bool) -> None:
    found: dict[str, Any] = {}
    exec(compile("import sys; frame = sys._getframe()", file, "exec"), found)
    thread, late = threading.get_ident(), (None, "start", 1.0)
    watchdog.running[thread], watchdog._overdue[thread] = late, (late, "start has not returned")
    try:
        with pytest.raises(watchdog.Hung) if is_ended else nullcontext():
            watchdog.Watchdog().alarm(0, found["frame"])
    finally:
        watchdog.running[thread] = None
        del watchdog._overdue[thread]


def test_a_program_that_is_slow_to_end_is_not_ended_by_the_timer() -> None:
    done = subprocess.run([sys.executable, "-c", ENDS], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")

"""MiniWoB++: small web pages in a headless Chromium (`pip install miniwob`): click, type and fill in, by element.

Owns how a page reads as text, and the solutions of the tasks whose instruction says what to do.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from agentrl.adapters.lent import LentEnv, Machines
from agentrl.adapters.suite import from_package
from agentrl.env.registry import register
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import call
from agentrl.errors import ConfigError, EnvFault, PackageMissing, ToolError
from agentrl.messages import Action, Message
from agentrl.tool_schema import tool
from agentrl.trajectory import Task

INSTALL = "pip install miniwob, and a browser with its driver (apt-get install chromium chromium-driver)"
SOLVED = ("click-test", "click-test-2", "click-button", "click-link", "enter-text", "focus-text", "login-user")
"""Tasks with a solution here."""
ALL = "solved"
_HELD_OUT = 1_000_000
_PROGRAMS = {"MINIWOB_CHROME_BINARY": "chromium", "MINIWOB_CHROMEDRIVER": "chromedriver"}


@lru_cache(maxsize=32)
def _tasks(names: tuple[str, ...], train: int, held_out: int) -> Tasks:
    def one(name: str, split: str, seed: int) -> Task:
        return Task(f"{name}-{seed}", split, {"page": name, "seed": seed})

    return Tasks(
        lambda: {
            "train": [one(name, "train", seed) for name in names for seed in range(train)],
            "eval": [one(name, "eval", _HELD_OUT + i) for name in names for i in range(held_out)],
        }
    )


@register("suites/MiniWoB-v1", max_turns=15)
class MiniWoB(LentEnv):
    """A small web page of MiniWoB++ and an instruction; tools click elements and type into them.

    Reward: the page's own before its discount for time (`raw_reward`), 0 where that is negative.

    Args:
        page: such as `click-test-2`, or `solved` for those with a solution here.
        train: seeds of each page in the split `train`.
        held_out: seeds of each page in the split `eval`.
    """

    third_party = ("miniwob",)
    known_flaws = (
        "The package's own reward falls with the wall time that an agent takes; `raw_reward` is taken in its place.",
        "A page gives up after its own time limit of some seconds of wall time, with a reward of -1.",
    )
    machines = Machines(lambda: Browser(), most=2)

    def __init__(self, *, page: str = ALL, train: int = 100, held_out: int = 5, render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)
        from_package("miniwob", INSTALL)
        if not re.fullmatch(r"[a-z0-9-]+", page):
            raise ConfigError(f"page must be a name of MiniWoB++, such as click-test-2, got {page!r}")
        self.tasks = _tasks(SOLVED if page == ALL else (page,), train, held_out)

    async def start(self, task: Task) -> str:
        self.raw = 0.0
        await self._borrow()
        self.seen = await self._ask(lambda browser: browser.opened(task.data["page"], task.data["seed"]))
        return f"{self.seen['utterance']}\n\n{self._shown()}"

    @tool
    async def click(self, element: int) -> str:
        """Click an element of the page.

        Args:
            element: its number.
        """
        return await self._do("CLICK_ELEMENT", element)

    @tool
    async def type_text(self, element: int, text: str) -> str:
        """Type a text into an element of the page.

        Args:
            element: its number.
            text: to type.
        """
        return await self._do("FOCUS_ELEMENT_AND_TYPE_TEXT", element, text=text)

    async def _do(self, kind: str, element: int, **more: str) -> str:
        if element not in {item["ref"] for item in self.seen["dom_elements"]}:
            raise ToolError(f"there is no element {element} on the page")
        seen, over, info = await self._ask(lambda browser: browser.did(kind, element, more))
        self.raw = max(self.raw, float(info.get("raw_reward") or 0.0))
        if over:
            self.terminate()
            return "The page is done."
        self.seen = seen
        return self._shown()

    def _shown(self) -> str:
        """The elements of the page that hold a text or can be used."""
        lines = []
        for item in self.seen["dom_elements"]:
            said = str(item["value"] or item["text"])
            if said or item["tag"].startswith(("input", "button", "textarea")):
                lines.append(f"[{item['ref']}] {item['tag']} {said}".rstrip())
        return "\n".join(lines)

    async def score(self, answer: str | None) -> float:
        self._release()
        return max(self.raw, 0.0)

    def oracle(self, messages: Sequence[Message]) -> Action:
        """What the instruction says, element by element."""
        return _solution(self.task.data["page"], self.seen)


class Browser:
    """A headless browser at one page at a time."""

    def __init__(self) -> None:
        found = {name: os.environ.get(name) or shutil.which(program) for name, program in _PROGRAMS.items()}
        if not all(found.values()):
            raise PackageMissing(f"this environment needs `chromium` and `chromedriver` on PATH: {INSTALL}")
        # Named for the package: without these, selenium asks the network for a browser.
        os.environ.update({name: str(path) for name, path in found.items()})
        self._env: Any = None
        self._page = ""

    def opened(self, page: str, seed: int) -> dict[str, Any]:
        """Start an episode of a page."""
        if page != self._page:
            self.close()
            gymnasium = from_package("gymnasium", INSTALL)
            gymnasium.register_envs(from_package("miniwob", INSTALL))
            try:
                self._env, self._page = gymnasium.make(f"miniwob/{page}-v1").unwrapped, page
            except gymnasium.error.Error as error:
                raise ConfigError(f"MiniWoB++ has no page {page!r}: {error}") from error
        return _plain(self._env.reset(seed=seed)[0])

    def did(self, kind: str, element: int, more: Mapping[str, str]) -> tuple[dict[str, Any], bool, dict[str, Any]]:
        """Act on an element. Returns: what is seen, whether the episode is over, and the package's own info."""
        action = from_package("miniwob.action", INSTALL).ActionTypes[kind]
        seen, _, over, _, info = self._env.step(self._env.create_action(action, ref=element, **more))
        return ({} if over else _plain(seen)), bool(over), dict(info)

    def close(self) -> None:
        env, self._env, self._page = self._env, None, ""
        if env is not None:
            env.close()


def _plain(seen: Mapping[str, Any]) -> dict[str, Any]:
    """What of an observation is read here, as plain values."""
    kept = ("ref", "tag", "text", "value", "id")
    return {
        "utterance": str(seen["utterance"]),
        "fields": {str(name): str(value) for name, value in seen["fields"]},
        "dom_elements": [
            {name: int(item[name]) if name == "ref" else str(item[name]) for name in kept}
            for item in seen["dom_elements"]
        ],
    }


def _solution(page: str, seen: Mapping[str, Any]) -> Action:
    items, fields = seen["dom_elements"], seen["fields"]

    def found(*tags: str, text: str | None = None) -> int:
        fits = (item for item in items if item["tag"].startswith(tags))
        ref: int = next(
            item["ref"] for item in fits if text is None or (item["text"] or item["value"]).lower() == text.lower()
        )
        return ref

    def typed(number: int, value: str) -> Action | None:
        box = [item for item in items if item["tag"].startswith("input_") and item["tag"] != "input_button"][number]
        return None if box["value"] == value else call("type_text", element=box["ref"], text=value)

    match page:
        case "click-test":
            return call("click", element=found("button"))
        case "click-test-2" | "click-button" | "click-link":
            return call("click", element=found("button", "input_button", "span", "a", text=fields["target"]))
        case "focus-text":
            return call("click", element=found("input"))
        case "enter-text":
            return typed(0, fields["target"]) or call("click", element=found("button"))
        case "login-user":
            typing = typed(0, fields["username"]) or typed(1, fields["password"])
            return typing or call("click", element=found("button"))
    raise EnvFault(f"MiniWoB++ ships no solutions, and there is none here for {page!r}", who="author")

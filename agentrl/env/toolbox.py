"""The tools of one environment: found on its class, in `extra_tools` and by the choice of an episode.

Owns which names authors may use: a name of the environment contract is refused, for a tool and for an attribute.
Running calls belongs to `agentrl.env.execution`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from agentrl.errors import ToolSchemaError, did_you_mean
from agentrl.tool_schema import Tool, is_tool

Offered = Tool | Callable[..., Any]
"""What an author offers as a tool: a `Tool`, or a function with type hints."""
_CONTRACT = ("agentrl.", "gymnasium.")
_WRITTEN_AS = {
    "tasks": "Tasks.of(train=[{...}], eval=[{...}])",
    "limits": "Limits(max_turns=10)",
    "rubric": 'Rubric({"correct": 1.0})',
}


@dataclass(frozen=True)
class Toolbox:
    """Tools by name, as they are called and as a model sees them.

    Attributes:
        tools: bound to their environment, once `bound_to` has made them so.
        schemas: in OpenAI form.
        inline: no call can wait.
    """

    tools: Mapping[str, Tool]
    schemas: tuple[Mapping[str, Any], ...]
    inline: bool

    @classmethod
    def of(cls, tools: Mapping[str, Tool]) -> Toolbox:
        return cls(tools, tuple(t.schema for t in tools.values()), all(t.is_inline for t in tools.values()))

    def bound_to(self, instance: Any, readable: Set[str] = frozenset()) -> Toolbox:
        """The same tools, with those that are written like methods bound to an instance.

        Args: readable: names of tools whose faults are errors that the model reads.
        """
        bound = {n: t.bound_to(instance) if t.takes_self else t for n, t in self.tools.items()}
        for name in readable & bound.keys():
            bound[name] = replace(bound[name], faults_are_read=True)
        return replace(self, tools=bound)


def tools_of_class(cls: type) -> dict[str, Tool]:
    """The methods that are tools, by the name that the model calls.

    Raises: ToolSchemaError if a name is used twice, or belongs to the environment contract.
    """
    tools: dict[str, Tool] = {}
    for name in dir(cls):
        function = inspect.getattr_static(cls, name)
        if is_tool(function):
            _check_name(cls, name)
            add_tool(tools, Tool.of(function, owner=cls.__qualname__), cls.__qualname__)
        else:
            _check_override(cls, name, function)
    return tools


def add_tool(tools: dict[str, Tool], offered: Offered, owner: str) -> None:
    """Add one tool. Raises: ToolSchemaError if its name is taken, or if it cannot be a tool."""
    if not isinstance(offered, Tool):
        if not callable(offered):
            raise ToolSchemaError(f"{owner}: a tool is a Tool or a function, got {type(offered).__name__}")
        offered = Tool.of(offered)
    if offered.name in tools:
        raise ToolSchemaError(f"{owner} has two tools named {offered.name!r}; give one @tool(name=...)")
    tools[offered.name] = offered


def extra_of_class(cls: type) -> tuple[Offered, ...]:
    """The `extra_tools` of a class; none where each instance works them out, in a property."""
    extra = inspect.getattr_static(cls, "extra_tools")
    if hasattr(extra, "__get__"):
        return ()
    if isinstance(extra, (str, bytes)) or not isinstance(extra, Iterable):
        raise ToolSchemaError(f"{cls.__qualname__}.extra_tools must be a list of tools, got {type(extra).__name__}")
    return tuple(extra)


def with_extra(tools: Mapping[str, Tool], extra: Iterable[Offered], owner: str) -> dict[str, Tool]:
    """The extra tools, then the others. Raises: as `add_tool`."""
    if isinstance(extra, (str, bytes)) or not isinstance(extra, Iterable):
        raise ToolSchemaError(f"{owner}.extra_tools must be a list of tools, got {type(extra).__name__}")
    found: dict[str, Tool] = {}
    for offered in extra:
        add_tool(found, offered, owner)
    for made in tools.values():
        add_tool(found, made, owner)
    return found


def chosen_from(tools: Mapping[str, Tool], chosen: Sequence[Offered | str], owner: str) -> dict[str, Tool]:
    """The tools that an episode chose; a text names one of `tools`. Raises: ToolSchemaError for an unknown name."""
    found: dict[str, Tool] = {}
    for one in chosen:
        if isinstance(one, str) and one not in tools:
            raise ToolSchemaError(f"{owner} has no tool {one!r}.{did_you_mean(one, tools)}")
        add_tool(found, tools[one] if isinstance(one, str) else one, owner)
    return found


# Names that belong to the contract.


def check_attributes(cls: type) -> None:
    """Refuse a value in the place of a method that every environment has, such as `close = False`, and plain values
    where the contract has a class of its own, such as `tasks = [...]`.

    Raises: TypeError that names it.
    """
    for name, wanted in _WRITTEN_AS.items():
        value = cls.__dict__.get(name)
        if isinstance(value, (list, tuple, set, dict, str, int)):
            kind = type(value).__name__
            raise TypeError(f"{cls.__qualname__}.{name} is a {kind}: write `{name} = {wanted}`")
    for name in ("reset", "step"):
        own = cls.__dict__.get(name)
        if inspect.isfunction(own) and not is_tool(own) and f"a{name}" not in cls.__dict__:
            raise TypeError(
                f"{cls.__qualname__}.{name} would not be called by a rollout: write `async def a{name}` with the same "
                f"arguments, and `await super().a{name}(...)` in it"
            )
    for name, value in cls.__dict__.items():
        if name in methods_of_contract(cls) and not (callable(value) or hasattr(value, "__get__")):
            raise TypeError(_hides(f"{cls.__qualname__}.{name}", name))


def check_hidden(instance: Any) -> None:
    """Refuse attributes that hide a method, such as `self.score = 0`. Raises: TypeError that names one."""
    methods = methods_of_contract(type(instance))  # type: ignore[arg-type]  # classes are hashable
    if methods.isdisjoint(instance.__dict__):
        return
    for name in methods & instance.__dict__.keys():
        if not callable(instance.__dict__[name]):
            raise TypeError(_hides(f"self.{name} of {type(instance).__name__}", name))


def _hides(what: str, name: str) -> str:
    return f"{what} hides the method {name!r} that every environment has: choose another name"


@cache
def methods_of_contract(cls: type) -> frozenset[str]:
    """Names of the methods and properties that AgentRL and Gymnasium give to a class of environments."""
    return frozenset(
        name
        for base in _contract(cls)
        for name, value in base.__dict__.items()
        if callable(value) or isinstance(value, property)
    )


def _contract(cls: type) -> list[type]:
    return [base for base in cls.__mro__ if base.__module__.startswith(_CONTRACT)]


def _check_name(cls: type, name: str) -> None:
    """Refuse a tool whose method stands in the place of something that every environment has."""
    for base in _contract(cls):
        own = base.__dict__.get(name)
        if (name in base.__dict__ and not is_tool(own)) or name in inspect.get_annotations(base):
            raise ToolSchemaError(
                f"{cls.__qualname__}.{name} is a tool, but every environment has something called {name!r}: "
                f'give the method another name, and write @tool(name="{name}") if the model is to call it that'
            )


def _check_override(cls: type, name: str, value: Any) -> None:
    """Refuse a method that hides an inherited tool and is no tool itself; None removes the tool."""
    if value is not None and any(is_tool(base.__dict__.get(name)) for base in cls.__mro__[1:]):
        raise ToolSchemaError(
            f"{cls.__qualname__}.{name} hides an inherited tool: mark it @tool as well, "
            f"or write `{name} = None` to remove the tool"
        )

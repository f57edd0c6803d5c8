"""What a benchmark is of: environment, tasks, policy and settings. Owns what all records of one folder must share.

A name is not enough: environments, tasks and models are edited under their names. So an identity holds fingerprints of
the content. It cannot see what changes behind a server.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path
from types import CodeType
from typing import Any
from urllib.parse import urlsplit

from agentrl.bench.evaluate import Which, env_ref
from agentrl.env import registry
from agentrl.env.base import Env, made_with
from agentrl.policy.base import Policy, SamplingParams
from agentrl.policy.by_name import PolicySetup, parse_spec
from agentrl.policy.function import FunctionPolicy
from agentrl.policy.remote.apis import APIS
from agentrl.trajectory import EnvRef, Task

# Files up to this size are hashed whole; of larger ones, this many pages that are evenly spread.
_WHOLE_BYTES, _PAGES, _PAGE_BYTES = 1 << 24, 256, 1 << 12
# Classes that AgentRL's version describes, and those of its foundations.
_FOUNDATIONS = ("builtins.", "abc.", "typing.", "gymnasium.", "agentrl.env.", "agentrl.sandboxed.", "agentrl.policy.")
# Options of a chat policy that change what a model is asked; the others are about speed and retries.
_ASKED = ("tool_choice", "parallel_tool_calls", "max_tokens_field", "send_reasoning", "return_token_ids", "omit")
_EXPLAINED = {
    "env.version": " (the environment was edited, or its package is another one)",
    "code": " (the environment's code was edited)",
    "behaviour.code": " (the policy's code was edited)",
    "behaviour.files": " (the model's files were changed)",
}


@dataclass(frozen=True)
class Identity:
    """What two calls that share a folder must have in common.

    Attributes:
        env: which environment.
        code: fingerprint of the code that the version does not cover, such as that of a notebook's class.
        limits: of its episodes, the environment's own included.
        split, seed: of the tasks.
        tasks: id -> fingerprint of each chosen task.
        policy: its name.
        behaviour: what else decides what the policy does, as far as it can be seen from here.
        sampling: what is sent with every turn; None where the policy takes none.
        agentrl: version of AgentRL.
    """

    env: EnvRef
    code: str
    limits: Mapping[str, Any]
    split: str
    seed: int
    tasks: Mapping[str, str]
    policy: str
    behaviour: Mapping[str, Any]
    sampling: Mapping[str, Any] | None
    agentrl: str

    def to_json(self) -> dict[str, Any]:
        """A dictionary that JSON can hold; `tasks` also has one hash of all fingerprints."""
        plain: dict[str, Any] = _plain(asdict(self))
        plain["tasks"] = {"hash": _hash(self.tasks), "fingerprints": dict(self.tasks)}
        return plain

    def differences(self, former: Mapping[str, Any]) -> list[str]:
        """What differs in an earlier identity, in JSON form. More or fewer of the same tasks are no difference.

        Returns: for each a text such as `seed 0, not 1`.
        """
        before, now = _flat(former), _flat(self.to_json())
        if same_env(_ref_of(former.get("env")), self.env):
            before["env.id"] = now["env.id"]
        names = [name for name in {**now, **before} if before.get(name) != now.get(name)]
        # Of another environment or policy everything differs: its name says enough.
        if "env.id" in names:
            return [f"environment {before.get('env.id')!r}, not {now['env.id']!r}"]
        if "policy" in names:
            names = [name for name in names if not name.startswith(("behaviour", "sampling"))]
        found = [f"{name} {before.get(name)!r}, not {now.get(name)!r}{_EXPLAINED.get(name, '')}" for name in names]
        return [*found, *self._differing_tasks(former)]

    def _differing_tasks(self, former: Mapping[str, Any]) -> list[str]:
        tasks = former.get("tasks")
        before: Mapping[str, str] = tasks.get("fingerprints", {}) if isinstance(tasks, Mapping) else {}
        edited = edited_tasks(before, self.tasks)
        if edited:
            return [f"other content of {listed(edited)} (the tasks were edited)"]
        gone, new = before.keys() - self.tasks.keys(), self.tasks.keys() - before.keys()
        if gone and new:
            return [f"{listed(sorted(gone))}, not {listed(sorted(new))} (the split was edited)"]
        return []


def edited_tasks(first: Mapping[str, str], second: Mapping[str, str]) -> list[str]:
    """Ids of the tasks that both have, with other content. Args: first, second: id -> fingerprint."""
    return [task for task in first if task in second and first[task] != second[task]]


def listed(tasks: Sequence[str]) -> str:
    """`task 'a'`, or `tasks 'a', 'b' and 7 others`."""
    shown = ", ".join(repr(task) for task in tasks[:3])
    rest = f" and {len(tasks) - 3} others" if len(tasks) > 3 else ""
    return f"task{'s' if len(tasks) > 1 else ''} {shown}{rest}"


def same_env(first: EnvRef, second: EnvRef) -> bool:
    """Whether two references name one environment; versions are not compared.

    A file may be named by another path, if the class has the same name and the file the same content.
    """
    if first.key == second.key:
        return True
    files = ".py:" in first.id and ".py:" in second.id and first.version == second.version != ""
    if not files or first.id.rpartition(":")[2] != second.id.rpartition(":")[2]:
        return False
    return EnvRef("", first.kwargs, first.limits).key == EnvRef("", second.kwargs, second.limits).key


def identify(
    env: Which,
    probe: Env,
    tasks: Sequence[Task],
    *,
    split: str,
    seed: int,
    given: Policy | str,
    policy: Policy,
    setup: PolicySetup | None,
    sampling: SamplingParams | None,
) -> Identity:
    """The identity of a benchmark.

    Args:
        env, probe: the environment as the caller named it, and one instance.
        tasks: those that were chosen.
        given, policy: the policy as the caller named it, and what that became.
        setup: of a policy that was given by its name.
        sampling: that the caller asked for; None leaves the policy's own.
    """
    ref = ref_of(env, probe)
    return Identity(
        env=ref,
        code=_code_of(probe, ref.version),
        limits=asdict(probe.unwrapped.limits),  # type: ignore[attr-defined]
        split=split,
        seed=seed,
        tasks={task.id: task.fingerprint for task in tasks},
        policy=policy.name,
        behaviour=_behaviour_of(given, policy, setup or PolicySetup()),
        sampling=effective_sampling(policy, sampling),
        agentrl=package_version("agentrl"),
    )


def package_version(name: str) -> str:
    """The version of an installed package, or `unknown`."""
    try:
        return installed_version(name)
    except PackageNotFoundError:
        return "unknown"


def effective_sampling(policy: Policy, asked: SamplingParams | None) -> dict[str, Any] | None:
    """What a rollout sends with every turn, without the seed, which each episode has for itself."""
    sampling = asked or getattr(policy, "sampling", None)
    if not isinstance(sampling, SamplingParams):
        return None
    sent = asdict(sampling)
    del sent["seed"], sent["signals"]  # what is recorded changes no action
    if sampling.first_rank is None:
        del sent["first_rank"]
    return {**sent, "stop": list(sampling.stop)}


# The environment.


def ref_of(env: Which, probe: Env) -> EnvRef:
    """The reference of an instance; for one that a function made, from its class, arguments and file."""
    inner: Any = probe.unwrapped
    if inner.ref is not None:
        found: EnvRef = inner.ref
        return found
    name = env_ref(env).id
    # A script also holds what is not the environment: its hash would change with the number of trials.
    in_file = type(inner).__module__ != "__main__"
    version = registry.version_of(registry.EnvSpec(name, type(inner))) if in_file else ""
    return EnvRef(name, _arguments_of(inner), version=version)


def _arguments_of(env: Any) -> dict[str, Any]:
    """The constructor's arguments that JSON can hold."""
    args, kwargs = made_with(env)
    try:
        names = list(inspect.signature(type(env)).parameters)
    except (TypeError, ValueError):
        names = []
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    return {name: value for name, value in given.items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _code_of(env: Any, version: str) -> str:
    """A fingerprint of the code that the environment's version does not cover; empty if it covers all.

    That is the code of wrappers, of classes without a file (in a notebook), and of a script.
    """
    classes: dict[type, None] = {}
    while env is not env.unwrapped:
        classes |= dict.fromkeys(type(env).__mro__)
        env = env.env
    classes |= dict.fromkeys(one for one in type(env).__mro__ if not version or _file_of(one) is None)
    return _hash_of_sources(classes)


def _hash_of_sources(classes: Iterable[Any]) -> str:
    """A fingerprint of the source of classes and functions, foundations left out; empty if nothing is left."""
    sources = [_source_of(one) for one in classes if not (one.__module__ + ".").startswith(_FOUNDATIONS)]
    return _hash(sources) if sources else ""


def _file_of(one: Any) -> Path | None:
    try:
        path = Path(inspect.getfile(one))
    except (TypeError, OSError):
        return None
    return path if path.is_file() else None


def _source_of(one: Any) -> str:
    """The text of the file that defines a class; of the class alone in a script.

    Where there is no file, the code of its functions stands for it.
    """
    path = _file_of(one)
    if path is not None:
        return inspect.getsource(one) if one.__module__ == "__main__" else path.read_text("utf-8", errors="replace")
    functions = (inspect.unwrap(value) for value in vars(one).values() if callable(value))
    codes = (getattr(function, "__code__", None) for function in functions)
    return "\n".join(part for code in codes if code is not None for part in _code_parts(code))


def _code_parts(code: CodeType) -> Iterator[str]:
    yield f"{code.co_name} {code.co_code.hex()} {code.co_names}"
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _code_parts(constant)
        else:
            yield repr(constant)


# The policy.


def _behaviour_of(given: Policy | str, policy: Policy, setup: PolicySetup) -> dict[str, Any]:
    """What decides the policy's actions in addition to its name and sampling."""
    found: dict[str, Any] = {
        "class": f"{type(policy).__module__}.{type(policy).__qualname__}",
        "code": _hash_of_sources([*type(policy).__mro__, *_functions_of(policy)]),
    }
    if not isinstance(given, str):
        return found
    spec = parse_spec(given)
    found["seed"] = setup.seed
    if spec.kind in APIS:
        found["server"] = _shown(APIS[spec.kind].address(setup.base_url))
        found |= {name: _plain(setup.chat[name]) for name in _ASKED if name in setup.chat}
        # The fields may hold a key.
        found["extra_body"] = _hash(setup.chat["extra_body"]) if setup.chat.get("extra_body") else ""
        return found
    if spec.kind == "local":
        found |= {name: _plain(value) for name, value in setup.local.items() if name != "device"}
    path = Path(spec.argument).expanduser()
    if spec.argument and spec.kind != "scripted" and path.exists():
        found["files"] = files_fingerprint(path)
    return found


def _functions_of(policy: Policy) -> list[Any]:
    return [policy.function] if isinstance(policy, FunctionPolicy) else []


def _shown(url: str) -> str:
    """An address without user, password and query, which may hold secrets."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"


def files_fingerprint(path: Path) -> str:
    """A hash of a file, or of the visible files in a folder: names, sizes and content, but no times.

    Of a file above 16 MiB, 256 pages are read: an edit of less than a hundredth of it may not be noticed.
    """
    files = [path] if path.is_file() else sorted(found for found in path.rglob("*") if found.is_file())
    digest = hashlib.blake2b(digest_size=8)
    for file in files:
        name = file.relative_to(path)
        if not any(part.startswith(".") for part in name.parts):
            digest.update(f"{name.as_posix()} {file.stat().st_size}\n".encode())
            for part in _content(file):
                digest.update(part)
    return digest.hexdigest()


def _content(file: Path) -> Iterable[bytes]:
    size = file.stat().st_size
    if size <= _WHOLE_BYTES:
        yield file.read_bytes()
        return
    with file.open("rb") as opened:
        for page in range(_PAGES):
            opened.seek((size - _PAGE_BYTES) * page // (_PAGES - 1))
            yield opened.read(_PAGE_BYTES)


# Forms.


def _ref_of(record: Any) -> EnvRef:
    try:
        return EnvRef(**record)
    except TypeError:
        return EnvRef("")


def _flat(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Names with dots -> values; tables one deep, without tasks and sampling."""
    flat: dict[str, Any] = {}
    for name, value in identity.items():
        if isinstance(value, Mapping) and name != "sampling":
            flat |= {f"{name}.{key}": item for key, item in value.items()} if name != "tasks" else {}
        else:
            flat[name] = value
    return flat


def _plain(value: Any) -> Any:
    """The value after a way through JSON; what JSON has no form for becomes the name of its type."""
    return json.loads(json.dumps(value, default=lambda item: getattr(item, "__qualname__", type(item).__qualname__)))


def _hash(value: Any) -> str:
    text = json.dumps(_plain(value), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

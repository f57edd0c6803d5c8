"""Ids, references and files: what `make` accepts, and what it says when it finds nothing."""

from __future__ import annotations

import subprocess
import sys

import gymnasium
import pytest

from agentrl.env import registry
from agentrl.env.base import Limits
from agentrl.env.registry import env_ids, make, register, spec
from agentrl.env.tool_env import ToolEnv
from agentrl.errors import ConfigError, EnvNotFound
from agentrl.registry import load_reference, names_only

FILE = '''
from agentrl.env.registry import register
from agentrl.env.tool_env import ToolEnv

@register("{id}", max_turns=4, size=7)
class Mine(ToolEnv):
    """My own.

    More.
    """

    def __init__(self, size=1, *, render_mode=None):
        super().__init__(render_mode=render_mode)
        self.size = size

    def start(self, task):
        return "Hello."

    def score(self, answer):
        return 1.0

class Plain(Mine):
    """Not registered."""

NUMBER = 3
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(FILE.format(id=f"test/{tmp_path.name.replace('_', '')}-v0"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_file_and_class_without_packaging(folder):
    env = make("./mine.py:Mine")
    assert (env.size, env.limits.max_turns) == (7, 4)
    assert env.reset(seed=1)[0][0].content == "Hello."
    assert type(make(f"{folder}/mine.py:Mine")) is type(env)
    assert make("mine.py:Plain", size=2).size == 2
    assert spec("./mine.py:Mine").description == "My own."
    with pytest.raises(EnvNotFound, match=r"mine.py has no 'Mime'. Did you mean 'Mine'"):
        make("./mine.py:Mime")
    with pytest.raises(EnvNotFound, match=r"is 3, not a subclass of agentrl.Env"):
        make("./mine.py:NUMBER")
    with pytest.raises(EnvNotFound, match=r"there is no file .*other.py"):
        make("./other.py:Mine")


def test_an_importable_class(folder, monkeypatch):
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    assert make("mine:Plain").reset()[0][0].content == "Hello."
    with pytest.raises(EnvNotFound, match=r"no module 'mime'. Give an id .*`./my_env.py:Class`"):
        make("mime:Plain")


def test_an_import_error_inside_the_authors_module_is_not_hidden(folder):
    (folder / "broken.py").write_text("import a_package_that_nobody_has\n")
    with pytest.raises(ModuleNotFoundError, match="a_package_that_nobody_has"):
        make("./broken.py:X")
    (folder / "broken.py").write_text("class X: pass\n")
    with pytest.raises(EnvNotFound, match="not a subclass"):
        make("./broken.py:X")


def test_arguments_override_what_was_registered(folder):
    make("./mine.py:Mine")
    id = f"test/{folder.name.replace('_', '')}-v0"
    assert id in env_ids()
    assert make(id).size == 7
    assert make(id, size=9, max_turns=2).limits == Limits(max_turns=2)
    assert make(id, size=9).size == 9
    assert gymnasium.make(id, size=5).unwrapped.size == 5


def test_an_unknown_id_suggests_the_near_one():
    with pytest.raises(EnvNotFound, match=r"'agentrl/Shopp-v0'. Did you mean 'agentrl/Shop-v0'\?"):
        make("agentrl/Shopp-v0")
    with pytest.raises(EnvNotFound, match=r"Known: .*agentrl/Guess-v0"):
        make("zzz")


def test_register_refuses_what_cannot_work_and_replaces_what_is_there():
    with pytest.raises(ValueError, match="Gymnasium refuses the id 'a b c'"):
        register("a b c")
    with pytest.raises(TypeError, match=r"must decorate a subclass of agentrl.Env"):
        register("test/NotAnEnv-v0")(int)

    class One(ToolEnv):
        """One."""

    class Two(ToolEnv):
        """Two."""

    register("test/Replaced-v0")(One)
    register("test/Replaced-v0")(Two)
    assert spec("test/Replaced-v0").env_class is Two


def test_a_broken_entry_point_names_the_package_value(monkeypatch):
    entry = registry.EntryPoint("other/Gone-v0", "a_module_that_is_gone:Env", registry.GROUP)
    monkeypatch.setattr(registry, "_entries", lambda: {"other/Gone-v0": entry})
    with pytest.raises(EnvNotFound, match="'a_module_that_is_gone:Env' cannot be loaded"):
        make("other/Gone-v0")


def test_listing_imports_no_environment():
    code = (
        "import sys, agentrl; ids = agentrl.env_ids(); assert 'agentrl/Shop-v0' in ids\n"
        "assert not any(name.startswith('agentrl.environments') for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_file_without_a_class_names_its_classes(folder):
    with pytest.raises(EnvNotFound, match=r"which class of it\? Write ./mine.py:Mine or ./mine.py:Plain$"):
        make("./mine.py")


def test_arguments_that_the_constructor_does_not_take_are_a_configuration_error(folder):
    with pytest.raises(ConfigError, match=r"'./mine.py:Mine' cannot be made with \['shape', 'size'\]: .*'shape'"):
        make("./mine.py:Mine", shape=3)


def test_a_type_error_inside_a_constructor_is_the_authors(folder):
    (folder / "inside.py").write_text(
        "from agentrl import ToolEnv\n"
        "class X(ToolEnv):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        len(3)\n"
    )
    with pytest.raises(TypeError, match="has no len"):
        make("./inside.py:X")


def test_a_base_class_that_a_file_imports_is_not_offered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "from agentrl import SandboxEnv, ToolEnv\nclass Mine(SandboxEnv):\n    pass\n"
    (tmp_path / "coded.py").write_text(text)
    with pytest.raises(EnvNotFound, match=r"Write \./coded\.py:Mine$"):
        make("./coded.py")


def test_the_version_changes_with_each_file_that_holds_the_class(folder):
    (folder / "shared.py").write_text("from agentrl.env.tool_env import ToolEnv\nclass Base(ToolEnv): ...\n")
    (folder / "own.py").write_text("from shared import Base\nclass Own(Base): ...\n")
    sys.path.insert(0, str(folder))
    try:
        found = spec("own.py:Own")
        first = registry.version_of(found)
        assert first == make("own.py:Own").ref.version
        for name in ("own.py", "shared.py"):
            (folder / name).write_text((folder / name).read_text() + "# edited\n")
            now = registry.version_of(found, on_disk=True)
            assert now != first
            (folder / name).write_text((folder / name).read_text().removesuffix("# edited\n"))
        (folder / "own.py").write_text("# edited\n")
        # The code that runs is still the one that was loaded.
        assert make("own.py:Own").ref.version == first
    finally:
        sys.path.remove(str(folder))
        del sys.modules["shared"]


def test_what_a_file_does_as_a_program_is_not_part_of_the_version(folder):
    path = folder / "mine.py"
    found = spec("mine.py:Plain")
    first = registry.version_of(found)
    for name, same in (("__main__", True), ("mine", False)):
        text = path.read_text()
        path.write_text(text + f'\nif __name__ == "{name}":\n    print("trains")\n    print("resumes")\n')
        with_newline = path.read_text()
        path.write_text(with_newline.replace("\n\nif", "\nif"))
        assert (registry.version_of(found, on_disk=True) == first) is same
        path.write_text(text)


def test_the_version_of_a_packages_environment_names_the_package_and_its_file():
    version = make("agentrl/Shop-v0").ref.version
    package, number, file = version.split(" ")
    assert package == "agentrl"
    assert number[0].isdigit()
    assert file.startswith("sha256:")
    assert version != make("agentrl/Guess-v0").ref.version


def test_names_only_finds_what_is_installed_and_what_is_allowed_alone(folder):
    with names_only(["./mine.py:Mine"], advice="Ask first."):
        assert make("agentrl/Shop-v0").ref.id == "agentrl/Shop-v0"
        assert make("./mine.py:Mine").size == 7
        for named in ("./mine.py:Plain", "mine.py:Mine", "os:system", "mine.py"):
            with pytest.raises(EnvNotFound, match=rf"{named}' names code, and only what is installed.* Ask first\."):
                make(named)
        with pytest.raises(ConfigError, match="names code"):
            load_reference("os:system")
    assert load_reference("os:getpid")() > 0

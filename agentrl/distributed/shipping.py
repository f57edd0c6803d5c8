"""Wheels for the machines of a Ray cluster. Owns what is taken out of them: their dependencies.

Ray installs a wheel of `py_modules` with all that it depends on, in front of what a machine has: another numpy than the
machine's, gigabytes of torch, and what the index holds under the name of a package that is only known locally. Without
dependencies a wheel is installed alone, and a machine's own packages serve it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agentrl.errors import ConfigError, StoreError

RUNTIME_ENV = "runtime_env.json"
"""What `ray job submit --runtime-env` reads, in the folder of the wheels."""
_REQUIRES = ("requires-dist:", "provides-extra:")


@dataclass(frozen=True)
class Shipped:
    """Wheels without dependencies. Attributes: runtime_env: the file that names them for Ray."""

    wheels: tuple[Path, ...]
    runtime_env: Path


def ship(wheels: Sequence[Path], out: Path) -> Shipped:
    """Write wheels without their dependencies, and a runtime environment of Ray that gives them to every machine.

    Args:
        wheels: as `pip wheel --no-deps` makes them.
        out: a folder; files of these names in it are replaced.
    Raises: ConfigError if a file is no wheel; StoreError if the folder cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        made = tuple(_bare(wheel, out) for wheel in wheels)
        file = out / RUNTIME_ENV
        named = {"py_modules": [str(wheel.resolve()) for wheel in made]}
        file.write_text(json.dumps(named, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise StoreError(f"cannot write to {out}: {error}; choose another --out or free space") from error
    return Shipped(made, file)


def _bare(wheel: Path, out: Path) -> Path:
    """Write a wheel without its dependencies. Returns: the file. Raises: ConfigError, OSError.

    Ray keeps wheels by their names alone, so that of an edited package has another build tag.
    """
    try:
        name, version, *tags = wheel.name.removesuffix(".whl").split("-")
        build = f"0h{hashlib.sha256(wheel.read_bytes()).hexdigest()[:12]}"
        target = out / f"{'-'.join((name, version, build, *tags[-3:]))}.whl"
        with zipfile.ZipFile(wheel) as whole:
            metadata = _metadata(whole)
            text = _without_dependencies(whole.read(metadata))
            record = metadata.removesuffix("METADATA") + "RECORD"
            replaced = {metadata: text, record: _recorded(whole.read(record), metadata, text)}
            with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as bare:
                for item in whole.infolist():
                    bare.writestr(item, replaced.get(item.filename, whole.read(item)), zipfile.ZIP_DEFLATED)
    except (zipfile.BadZipFile, KeyError, ValueError, FileNotFoundError, IsADirectoryError) as error:
        raise ConfigError(
            f"{wheel} is no wheel ({error}): make one with `pip wheel --no-deps -w dist .` in the folder of the package"
        ) from error
    return target


def _metadata(wheel: zipfile.ZipFile) -> str:
    found = [name for name in wheel.namelist() if name.count("/") == 1 and name.endswith(".dist-info/METADATA")]
    if len(found) != 1:
        raise KeyError(f"it has {len(found)} files *.dist-info/METADATA")
    return found[0]


def _without_dependencies(metadata: bytes) -> bytes:
    """The fields of METADATA that name no dependency; its text, after the first empty line, stays."""
    head, gap, text = metadata.decode("utf-8").partition("\n\n")
    kept = [line for line in head.split("\n") if not line.lower().startswith(_REQUIRES)]
    return ("\n".join(kept) + gap + text).encode("utf-8")


def _recorded(record: bytes, name: str, content: bytes) -> bytes:
    """RECORD with the hash and the size of a changed file."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    lines = record.decode("utf-8").splitlines()
    changed = [f"{name},sha256={digest},{len(content)}" if line.startswith(f"{name},") else line for line in lines]
    return ("\n".join(changed) + "\n").encode("utf-8")

"""Small Harbor task folders for tests."""

from __future__ import annotations

from pathlib import Path

HELLO = {
    "task.toml": 'schema_version = "1.4"\n[environment]\nnetwork_mode = "no-network"\nenv = { UNIT = "apples" }\n',
    "instruction.md": "<!-- harbor-canary GUID 1234 -->\n\nWrite the sum of numbers.txt to out/sum.txt.\n",
    "environment/Dockerfile": "# note\nFROM ubuntu:24.04\nWORKDIR /app\nRUN mkdir -p out\nCOPY numbers.txt \\\n  .\n",
    "environment/numbers.txt": "1\n2\n39\n",
    "tests/test.sh": """#!/bin/bash
        if [ "$(cat /app/out/sum.txt)" = "$(cat /tests/wanted.txt)" ]
        then echo 1; else echo 0; fi > /logs/verifier/reward.txt
        """,
    "tests/wanted.txt": "42 apples\n",
    "solution/solve.sh": '#!/bin/bash\necho "$(awk -f /solution/sum.awk numbers.txt) $UNIT" > out/sum.txt\n',
    "solution/sum.awk": "{ s += $1 } END { print s }\n",
}


def write_task(folder: Path, **changes: str | None) -> Path:
    """Write the task HELLO with changes; a double underscore in a name stands for a slash, one before an ending for a
    dot. None leaves a file out.
    """
    named = {name.replace("__", "/").replace("_", "."): text for name, text in changes.items()}
    for name, text in {**HELLO, **named}.items():
        if text is not None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text.replace("\n        ", "\n"))
    return folder

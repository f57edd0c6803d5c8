#!/usr/bin/env bash
# Makes .venv-peers, the environment of benchmarks/overhead.py: AgentRL and the frameworks that it is compared with.
# About 1 GB of disk. Nothing is installed into the project's own .venv. PYTHON names another interpreter (3.11).
set -euo pipefail
cd "$(dirname "$0")/.."
venv=.venv-peers
stamp="$venv/.installed"
if [ -e "$stamp" ] && [ ! benchmarks/peers-requirements.txt -nt "$stamp" ] && [ ! pyproject.toml -nt "$stamp" ]; then
  exit 0
fi
echo "Installing the peers into $venv (a few minutes the first time)"
[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
pip=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps)
"${pip[@]}" -r benchmarks/peers-requirements.txt
"${pip[@]}" -e .
"$venv/bin/python" -c 'import agentrl.env.tool_env, gem, gymnasium, openenv.core, skyrl_gym, verifiers.legacy.envs.tool_env'
touch "$stamp"

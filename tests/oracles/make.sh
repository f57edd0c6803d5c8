#!/usr/bin/env bash
# Make the goldens anew. Usage: tests/oracles/make.sh DIR   (DIR: where the environments of trl and verl go)
set -eu
here="$(cd "$(dirname "$0")" && pwd)"
mkdir -p "$1"
for part in trl==1.16.0 verl==0.9.1; do
    name="${part%%=*}"
    if [ ! -e "$1/$name" ]; then
        python3 -m venv "$1/$name"
        "$1/$name/bin/pip" install -q torch==2.13.0 "$part" numpy
    fi
    TRL_EXPERIMENTAL_SILENCE=1 VERL_LOGGING_LEVEL=ERROR OMP_NUM_THREADS=1 "$1/$name/bin/python" "$here/${name}_goldens.py"
done

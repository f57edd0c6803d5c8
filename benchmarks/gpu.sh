#!/usr/bin/env bash
# What a GPU has to show, in under 9 minutes: tests, throughput, a learning curve. From the repository's root:
#
#   benchmarks/gpu.sh OUT [tests] [throughput] [quickstart] [real]      the first three, if none is named
#
# PYTHON is the interpreter (python3), SEEDS the seeds of the learning curves (0,1,2), which run side by side, SIZES the
# models of the throughput. `real` trains SmolLM2-135M for as long as its plan takes: WHEEL names its wheel, where pip
# cannot get it; SETTINGS holds further options of its runs. A part that fails ends the script only after the others;
# every part leaves its log and its numbers in OUT.
set -uo pipefail
OUT=${1:?name a folder for the results}
shift
PARTS=${*:-tests throughput quickstart}
PYTHON=${PYTHON:-python3}
SEEDS=${SEEDS:-0,1,2}
SIZES=${SIZES:-0.6M,135M}
WORK=${WORK:-runs/gpu}
SETTINGS=${SETTINGS:-}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
mkdir -p "$OUT" "$WORK"
status=0

for_each_seed() { # COMMAND with SEED in place of a number, all at once; fails if one fails
  local pids=() failed=0
  for seed in ${SEEDS//,/ }; do
    "${@//SEED/$seed}" >"$OUT/$part-$seed.log" 2>&1 &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid" || failed=1; done
  for seed in ${SEEDS//,/ }; do tail -n 12 "$OUT/$part-$seed.log"; done
  return $failed
}

real_seed() {
  mkdir -p "$WORK/real-$1" && cp -rn "$WORK/real/model" "$WORK/real-$1/" &&
    "$PYTHON" benchmarks/quickstart_real.py --config benchmarks/quickstart_real_gpu.toml --out "$WORK/real-$1" --seed "$1" $SETTINGS
}

for part in $PARTS; do
  began=$SECONDS
  case $part in
    tests) "$PYTHON" -m pytest -m gpu tests/gpu 2>&1 | tee "$OUT/tests.log" ;;
    throughput) "$PYTHON" benchmarks/gpu.py --rounds 1 --sizes "$SIZES" --json "$OUT/throughput.json" 2>&1 | tee "$OUT/throughput.log" ;;
    quickstart) for_each_seed "$PYTHON" -m agentrl train quickstart.toml --out "$WORK/quickstart-SEED" --seed SEED --fresh ;;
    real)
      "$PYTHON" benchmarks/quickstart_real.py --out "$WORK/real" --only-model ${WHEEL:+--wheel "$WHEEL"} &&
        for_each_seed real_seed SEED
      ;;
    *) echo "no part is named $part: tests, throughput, quickstart or real" >&2; false ;;
  esac || status=1
  echo "== $part: $((SECONDS - began)) s"
done
"$PYTHON" benchmarks/gpu_report.py --out "$OUT" --work "$WORK" || status=1
exit $status

#!/usr/bin/env bash
# PL-MAE from nothing to a probed backbone on two CPU cores: sets up an environment, makes the embedded data, pre-trains,
# probes the features against the same encoder at random initialisation, and draws the report.
#
#   bash tools/demo.sh
#
# SEEDS="0" runs one seed instead of three; CONFIG=... another config with a FeatureProbeHook. A demo that was stopped
# goes on where it was.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
start=$SECONDS

# shellcheck source=tools/setup_env.sh
source tools/setup_env.sh

CONFIG=${CONFIG:-configs/pl_mae_demo.py}
SEEDS=${SEEDS:-0 1 2}
WORK_DIR=${WORK_DIR:-work_dirs/$(basename "$CONFIG" .py)}
read -ra seeds <<<"$SEEDS"
threads=$(($(env -u OMP_NUM_THREADS nproc) / ${#seeds[@]}))
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}
mkdir -p "$WORK_DIR"

pretrain() {
    "$PYTHON" tools/train.py "$CONFIG" --work-dir "$WORK_DIR/seed_$1" --resume \
        --cfg-options randomness.seed="$1" model.masking.seed="$1"
}

# All seeds at once: a thread each is more than a tiny model makes of several. The first one is shown.
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true' EXIT
for seed in "${seeds[@]:1}"; do
    pretrain "$seed" >>"$WORK_DIR/seed_$seed.log" 2>&1 &
    pids+=($!)
done
echo "== pre-training, seeds $SEEDS; shown: seed ${seeds[0]}"
pretrain "${seeds[0]}"
for index in "${!pids[@]}"; do
    wait "${pids[$index]}" || {
        log=$WORK_DIR/seed_${seeds[$((index + 1))]}.log
        tail -n 30 "$log" >&2
        echo "seed ${seeds[$((index + 1))]} failed; the whole log is in $log" >&2
        exit 1
    }
done
trap - EXIT

echo "== results"
"$PYTHON" tools/benchmarks/summarise_seeds.py "$WORK_DIR"
"$PYTHON" tools/visualizations/report.py "$WORK_DIR/seed_${seeds[0]}" --out "$WORK_DIR/report.html"
echo "done in $(((SECONDS - start) / 60)) min $(((SECONDS - start) % 60)) s: open $WORK_DIR/report.html (or .png)"

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
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(nproc)}

for seed in $SEEDS; do
    echo "== pre-training, seed $seed"
    "$PYTHON" tools/train.py "$CONFIG" --work-dir "$WORK_DIR/seed_$seed" --resume \
        --cfg-options randomness.seed="$seed" model.masking.seed="$seed"
done

echo "== results"
"$PYTHON" tools/benchmarks/summarise_seeds.py "$WORK_DIR"
first=$WORK_DIR/seed_${SEEDS%% *}
"$PYTHON" tools/visualizations/report.py "$first" --out "$WORK_DIR/report.html"
echo "done in $(((SECONDS - start) / 60)) min $(((SECONDS - start) % 60)) s: open $WORK_DIR/report.html (or .png)"

#!/usr/bin/env bash
# From nothing to probed encoders on two CPU cores: sets up an environment, makes the embedded data (crops of photographs),
# pre-trains PL-MAE and, for as long on the other core, MAE, probes both and the encoder that they start from, and draws
# the report.
#
#   bash tools/demo.sh              # MAE and PL-MAE
#   bash tools/demo.sh CONFIG...    # others with a FeatureProbeHook; the last one is shown
#
# SEEDS="0 1 2" makes a run of each for each seed, all at once. A demo that was stopped goes on where it was.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
start=$SECONDS
configs=("$@")

# shellcheck source=tools/setup_env.sh
source tools/setup_env.sh runtime # without an argument it would get ours

names=() maps=()
if ((${#configs[@]} == 0)); then
    configs=(configs/mae_surfaces_20e.py configs/pl_mae_surfaces.py)
    names=(--names "MAE, 20 epochs" "PL-MAE, 6 epochs")
    maps=(--maps-of data/mmpl_embedded/demo_surfaces/coco/val) # scenes of several things
fi
WORK_DIR=${WORK_DIR:-work_dirs/demo}
read -ra seeds <<<"${SEEDS:-0}"
runs=() folders=()
for config in "${configs[@]}"; do
    folder=$WORK_DIR/$(basename "$config" .py)
    if [[ " ${folders[*]} " == *" $folder "* ]]; then
        echo "demo.sh: each config needs a file name of its own, but got ${configs[*]}" >&2
        exit 1
    fi
    folders+=("$folder")
    for seed in "${seeds[@]}"; do
        runs+=("$config $seed")
    done
done
shown="${configs[-1]} ${seeds[0]}"
threads=$(($(env -u OMP_NUM_THREADS nproc) / ${#runs[@]}))
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}
mkdir -p "${folders[@]}"

pretrain() {
    "$PYTHON" tools/train.py "$1" --work-dir "$WORK_DIR/$(basename "$1" .py)/seed_$2" --resume \
        --cfg-options randomness.seed="$2" model.masking.seed="$2"
}

# All at once: a thread each is more than a tiny model makes of several.
pids=() logs=()
trap 'kill "${pids[@]}" 2>/dev/null || true' EXIT
for run in "${runs[@]}"; do
    [[ $run == "$shown" ]] && continue
    read -r config seed <<<"$run"
    logs+=("$WORK_DIR/$(basename "$config" .py)/seed_$seed.log")
    pretrain "$config" "$seed" >>"${logs[-1]}" 2>&1 &
    pids+=($!)
done
echo "== pre-training ${configs[*]}, seeds ${seeds[*]}; shown: $shown"
pretrain "${configs[-1]}" "${seeds[0]}"
for index in "${!pids[@]}"; do
    wait "${pids[$index]}" || {
        tail -n 30 "${logs[$index]}" >&2
        echo "a run failed; the whole log is in ${logs[$index]}" >&2
        exit 1
    }
done
trap - EXIT

echo "== results"
"$PYTHON" tools/benchmarks/summarise_seeds.py "${folders[@]}" "${names[@]}" --seeds "${seeds[@]}"
"$PYTHON" tools/visualizations/report.py "${folders[-1]}/seed_${seeds[0]}" --out "$WORK_DIR/report.html" \
    "${maps[@]}"
echo "done in $(((SECONDS - start) / 60)) min $(((SECONDS - start) % 60)) s: open $WORK_DIR/report.html (or .png)"

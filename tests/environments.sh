#!/usr/bin/env bash
# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
#
# Draws, trains ten steps of each stage, saves and loads: once with the oldest version of every requirement of setup.py
# on the oldest Python, once with the newest of everything on the newest Python at hand. `make test-environments` runs
# it. It downloads some gigabytes and takes about ten minutes.
#
# Usage: tests/environments.sh [oldest] [newest]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

uv=${UV:-uv}
folder=$PWD/build/environments
export UV_PYTHON_DOWNLOADS=never

"$uv" build --quiet --out-dir "$folder" .  # the wheel from the sdist
wheel=$(ls -t "$folder"/rq_hf-*.whl | head -n 1)

[ $# -gt 0 ] || set -- oldest newest
for age in "$@"; do
    python=3.11 resolution=lowest-direct
    if [ "$age" = newest ]; then
        python=$("$uv" python list --only-installed '>=3.11' | grep -v freethreaded | head -n 1 | awk '{print $2}')
        resolution=highest
    fi
    environment=$folder/$age
    "$uv" venv --quiet --clear --python "$python" "$environment"
    "$uv" pip compile --quiet --no-annotate --python "$environment" --resolution "$resolution" --extra train \
        --extra eval --extra data --extra demo --extra quantization --output-file "$folder/$age.txt" setup.py
    cat "$folder/$age.txt"
    "$uv" pip install --quiet --python "$environment" --requirement "$folder/$age.txt"
    "$uv" pip install --quiet --python "$environment" --no-deps "$wheel"

    runs=$folder/$age-runs
    rm -rf "$runs"
    rq_hf=$environment/bin/rq-hf
    recipes=tests/fixtures/recipes
    export TQDM_DISABLE=1
    options="--use_cpu true --max_steps 10 --save_strategy no"
    "$rq_hf" generate checkpoints/emoji-64 "a castle" --output "$runs/castle.png"
    "$rq_hf" train-rqvae "$recipes/emoji-rqvae-fixture.json" $options --output_dir "$runs/rqvae"
    "$rq_hf" train-rqt "$recipes/emoji-rqt-fixture.json" $options --rqvae_name_or_path "$runs/rqvae" \
        --output_dir "$runs/pipeline"
    "$rq_hf" generate "$runs/pipeline" "a castle" --output "$runs/mine.png"
    "$environment/bin/accelerate" launch --cpu -m rq_hf.cli train-rqt "$recipes/emoji-rqt-fixture.json" $options \
        --output_dir "$runs/launched"
    echo "$age: passed"
done

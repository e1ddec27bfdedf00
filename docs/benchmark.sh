#!/usr/bin/env bash
# Run all that docs/benchmark.md tells of, and put the tables and the pictures there: docs/benchmark.sh [FOLDER]
# In FOLDER, by default build/benchmark, every cell stays: stopped, the same command goes on. Two processes share the work.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
work="${1:-build/benchmark}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

evaluate() { # NAME OF THE TABLE, FOLDER OF THE CELLS, FLAGS
    local name="$1" folder="$work/$2"
    shift 2
    for shard in 0/2 1/2; do
        photoswap evaluate --cache "$work/cache" --out "$folder" --split test --quiet "$@" --shard "$shard" &
    done
    wait -n && wait -n
    cp "$folder/table.md" "docs/results/$name.md"
}

picture() { # ITS NAME, FOLDER OF THE CELLS: the upper half of their grid, in few colours
    python - "$work/$2/grid.png" "docs/$1.png" <<'PYTHON'
import sys
from PIL import Image
from weights.atomic import atomic
with Image.open(sys.argv[1]) as made, atomic(sys.argv[2]) as place:
    top = made.convert("RGB").crop((0, 0, made.width, made.height // 2))
    top.thumbnail((1400, 1400), Image.Resampling.LANCZOS)
    top.quantize(192, Image.Quantize.MAXCOVERAGE, kmeans=4, dither=0).save(place, format="PNG", optimize=True)
PYTHON
}

swaps="photoswap prompt-to-prompt swap-anything masactrl plain"
evaluate published test --tasks 32
picture benchmark test

python -m photoswap.benchmark.tune --tasks 6 --out "$work/tune" --cache "$work/cache"
evaluate tuned test --tasks 32 --settings published tuned
evaluate inversions inversions --tasks 16 --methods plain photoswap --inversions all --guidance 7.5
# shellcheck disable=SC2086
evaluate pair pair --tasks 12 --kind pair --methods $swaps
picture benchmark-pair pair
# shellcheck disable=SC2086
evaluate hidden hidden --tasks 12 --kind hidden --methods $swaps
picture benchmark-hidden hidden
python -m photoswap.benchmark.tune_concepts --tasks 4 --out "$work/tune-concepts" --cache "$work/cache"
evaluate concepts concepts --tasks 12 --methods photoswap --concepts dreambooth dreambooth:tuned lora lora:tuned \
    textual-inversion custom-diffusion custom-diffusion:tuned
picture benchmark-concepts concepts
evaluate presets presets --tasks 6 --methods photoswap --concepts dreambooth:sd21 lora:sd21 textual-inversion:sd21 \
    custom-diffusion:sd21
evaluate painters painters --tasks 32 --methods photoswap painters
picture benchmark-painters painters

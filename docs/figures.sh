#!/usr/bin/env bash
# Draw the pictures of docs/figures.md again: docs/figures.sh [FOLDER]
# In FOLDER, by default build/figures, stay the concept and the inversion, which are not made twice.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
work="${1:-build/figures}"
mkdir -p "$work/references"

python - "$work" <<'PYTHON'
import sys
from pathlib import Path
from photoswap.benchmark.tasks import make_task
work, task = Path(sys.argv[1]), make_task(0)
task.source.image.save(work / "source.png")
for i, picture in enumerate(task.references):
    picture.save(work / "references" / f"{i}.png")
(work / "prompt.txt").write_text(task.prompt)
PYTHON

concept="$work/concept/concept.safetensors"
[ -e "$concept" ] || photoswap learn "$work/references" --class cat --out "$work/concept"
inversion="$work/inversion.safetensors"
[ -e "$inversion" ] || photoswap invert "$work/source.png" --prompt "$(cat "$work/prompt.txt")" --out "$inversion"

photoswap attention "$inversion" --at 1,10,25,50 --out "$work/attention" --overwrite
# Fig. 8: M alone. Fig. 9: each lambda with the others at 0.
for name in M phi A; do
    others="$(printf -- '--%s 0 ' $(printf '%s\n' M phi A | grep -vx "$name"))"
    # shellcheck disable=SC2086
    photoswap sweep --task demo-0 --concept "$concept" "--$name" 0,10,20,30,40,50 $others \
        --out "$work/sweep-$name" --overwrite
done
photoswap sweep --task demo-0 --concept "$concept" --A 20 --phi 0,10,20,30 --M 0,25,40 --out "$work/sweep" --overwrite

# Few colours do for these, and keep the checkout small; this method keeps rare ones, such as a small yellow spot.
python - "$work" <<'PYTHON'
import sys
from pathlib import Path
from PIL import Image
from weights.atomic import atomic
work = Path(sys.argv[1])
names = {"attention/M.png": "M", "attention/A.png": "A", "sweep/sweep.png": "grid", "sweep/curves.png": "grid-curves"}
names |= {f"sweep-{name}/sweep.png": f"lambda-{name}" for name in ("M", "phi", "A")}
for made, name in names.items():
    with Image.open(work / made) as picture, atomic(Path("docs/figures") / f"{name}.png") as place:
        small = picture.convert("RGB")
        small.thumbnail((720, 720), Image.Resampling.LANCZOS)
        small.quantize(160, Image.Quantize.MAXCOVERAGE, kmeans=4, dither=0).save(place, format="PNG", optimize=True)
PYTHON
ls -l docs/figures

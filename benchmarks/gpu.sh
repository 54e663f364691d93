#!/usr/bin/env bash
# The day a GPU is lent: in ten minutes, tests of all functions on it, every chapter small, networks
# rounded and compiled, then chapters at full size, the cheapest first, until the time is over.
#
#   bash benchmarks/gpu.sh
#   DEVICE=cpu MINUTES=5 ONLY=20,35 bash benchmarks/gpu.sh      a rehearsal
#
# DEVICE (cuda), MINUTES in all (10), JOBS side by side (one for two cores), ONLY some chapters,
# PYTHON, OUT: folder of what is kept, eight small files; notebooks and figures stay in WORK
# (_out/gpu-day).
set -u
cd "$(dirname "$0")/.."
DEVICE=${DEVICE:-cuda} MINUTES=${MINUTES:-10} ONLY=${ONLY:-lessons,evidence}
JOBS=${JOBS:-$((($(nproc) + 1) / 2))}
OUT=$(realpath -m "${OUT:-_out/gpu-day/kept}") WORK=$(realpath -m "${WORK:-_out/gpu-day}")
[ -x .venv/bin/python ] && PYTHON=${PYTHON:-$PWD/.venv/bin/python}
PYTHON=${PYTHON:-python3}
END=$((SECONDS + MINUTES * 60 - 15)) # the rest is for closing
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} MANIFOLD_XAI_ROOT=$PWD
export MANIFOLD_XAI_TEST_DEVICE=$DEVICE OMP_WAIT_POLICY=passive PYTHONUNBUFFERED=1
mkdir -p "$OUT" "$WORK"

left() { echo $((END - SECONDS)); }

course() { "$PYTHON" -c 'import sys; from manifold_xai.course.cli import main; sys.exit(main())' "$@"; }

step() { # step NAME MOST COMMAND…: its output in NAME.txt, at most MOST seconds and what is left
    local name=$1 most=$2 start=$SECONDS
    shift 2
    [ "$(left)" -lt "$most" ] && most=$(left)
    if [ "$most" -lt 5 ]; then
        echo "$name: no time left" | tee -a "$OUT/steps.txt"
        return 1
    fi
    timeout --kill-after=5 --signal=INT "$most" "$@" >>"$OUT/$name.txt" 2>&1
    echo "$name: exit $? after $((SECONDS - start)) s of $most" | tee -a "$OUT/steps.txt"
}

run() { # run PROFILE ONLY: chapters into the profile's folder
    "$PYTHON" -c 'import sys; from manifold_xai.course.cli import main; sys.exit(main())' \
        run --profile "$1" --device "$DEVICE" --only "$2" --jobs "$JOBS" --out "$WORK/$1"
}
export -f run
export PYTHON DEVICE JOBS WORK

rm -f "$OUT"/{steps,functions,smoke,precision,gpu}.{txt,json}
"$PYTHON" - >"$OUT/steps.txt" 2>&1 <<'END_OF_PYTHON'
import platform, torch
print(f"python {platform.python_version()}, torch {torch.__version__}, CUDA {torch.version.cuda}")
for i in range(torch.cuda.device_count()):
    print(torch.cuda.get_device_properties(i))
END_OF_PYTHON
git rev-parse HEAD >>"$OUT/steps.txt" 2>/dev/null

step functions $((MINUTES * 12)) "$PYTHON" -m pytest -q -p no:cacheprovider tests/device --tb=short
step smoke $((MINUTES * 24)) bash -c "run smoke '$ONLY'"
step precision $((MINUTES * 6)) "$PYTHON" benchmarks/precision.py --device "$DEVICE" --out "$OUT/precision.json"

# full size, by what it is expected to take; a batch is over when its slowest chapter is
course run --profile gpu --only "$ONLY" --plan >"$WORK/plan.txt" 2>/dev/null
mapfile -t order < <(awk '$2 == "smoke" { print ($NF == "?" ? 1e9 : $(NF - 1)), $1 }' "$WORK/plan.txt" |
    sort -n | cut -d' ' -f2)
for ((i = 0; i < ${#order[@]}; i += JOBS)); do
    batch=$(IFS=,; echo "${order[*]:i:JOBS}")
    [ "$(left)" -lt 40 ] && break
    step gpu "$(left)" bash -c "run gpu '$batch'" || break
done
for profile in smoke gpu; do
    [ -f "$WORK/$profile/summary.json" ] && cp "$WORK/$profile/summary.json" "$OUT/$profile.json"
    "$PYTHON" .github/summary.py "$WORK/$profile" | head -40
done
cat "$OUT/steps.txt"

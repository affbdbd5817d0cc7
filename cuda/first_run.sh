#!/usr/bin/env bash
# The CUDA engine's first run on a GPU, in about ten minutes, on a machine without a network and without an installation.
#
#   bash cuda/first_run.sh --build FOLDER              here: build the pack, a folder under 10 MB (needs numba-cuda)
#   bash FOLDER/first_run.sh [--out OUT] [--seconds S] on the GPU machine: run everything from the pack
#   bash cuda/first_run.sh --pack FOLDER [--out OUT]   the same from a checkout
#   bash cuda/first_run.sh --dry-run                   no GPU: build, pack, check the pack, simulate two tiny shapes
#
# Every result is a line of OUT/results.jsonl as soon as it is known. A case, a peer or a tool that fails does not stop
# the rest. The last thing printed is a summary of at most sixty lines, also in OUT/summary.txt. docs/cuda.md says how
# to read the results.
set -u

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
MODE=run PACK= OUT=${OUT:-} BUDGET=570
while [ $# -gt 0 ]; do
  case $1 in
    --dry-run) MODE=dry; shift ;;
    --build) MODE=build; PACK=${2:?--build needs a folder}; shift 2 ;;
    --pack) PACK=${2:?--pack needs a folder}; shift 2 ;;
    --out) OUT=${2:?--out needs a folder}; shift 2 ;;
    --seconds) BUDGET=${2:?--seconds needs a number}; shift 2 ;;
    *) echo "first_run.sh: unknown option $1; see the top of the file" >&2; exit 2 ;;
  esac
done

# --- the pack: the project's files, the machine code, and packages that the machine may lack -------------------------

# Everything goes into a new folder first, so that a failed build leaves no half pack.
build() { # FOLDER [options of gta_cuda.pack]
  local target=$1 new root; shift
  root=$(dirname "$HERE")
  mkdir -p "$(dirname "$target")" && new=$(mktemp -d "$target.XXXXXX") || return 1
  mkdir -p "$new/gta_ref" "$new/gta_cuda" "$new/tests/gta_cuda" "$new/wheels" || return 1
  # without what a first run does not use: exercises, puzzles, and the tests that need no GPU
  (cd "$root/gta_ref" && find . -name '*.py' -not -path './exercises/*' | tar -cf - -T -) \
    | tar -xf - -C "$new/gta_ref" || return 1
  (cd "$root/cuda" && find . -name '*.py' -not -path './puzzles/*' | tar -cf - -T -) \
    | tar -xf - -C "$new/gta_cuda" || return 1
  cp "$root"/tests/support.py "$root"/tests/conftest.py "$new/tests/" || return 1
  cp "$root"/tests/gta_cuda/conftest.py "$root"/tests/gta_cuda/test_gpu.py "$new/tests/gta_cuda/" || return 1
  cp "$root/pyproject.toml" "$HERE/first_run.sh" "$new/" || return 1
  # bfloat16 in NumPy: a small package that CuPy does not bring along
  "$PYTHON" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --implementation cp \
    --python-version 3.12 --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 \
    --platform manylinux_2_17_x86_64 --dest "$new/download" 'ml-dtypes>=0.5' \
    && "$PYTHON" -m zipfile -e "$new"/download/ml_dtypes-*.whl "$new/wheels" \
    || echo "first_run.sh: ml-dtypes is not in the pack; bfloat16 needs it on the machine" >&2
  rm -rf "$new/download"
  PYTHONPATH=$new "$PYTHON" -m gta_cuda.pack "$new/cubins" "$@" || return 1
  local size; size=$(find "$new" -type f -exec cat {} + | wc -c)
  echo "pack: $target, $size bytes, $(find "$new" -type f | wc -l) files"
  [ "$size" -lt 10000000 ] || { echo "first_run.sh: the pack has $size bytes; expected less than 10 MB" >&2; return 1; }
  rm -rf "$target" && chmod 755 "$new" && mv "$new" "$target"
}

# --- running --------------------------------------------------------------------------------------------------------

note() { # step name ok facts: a result of the script itself; facts are JSON members
  printf '{"step": "%s", "name": "%s", "ok": %s, %s}\n' "$1" "$2" "$3" "$4" >> "$FIRST_RUN_RESULTS"
}

step() { # number seconds name command...
  local number=$1 limit=$2 name=$3 left status begin; shift 3
  left=$((BUDGET - SECONDS))
  if [ "$left" -lt 5 ]; then
    note "$number" "$name" null '"left_out": "no time left"'
    return
  fi
  [ "$limit" -gt "$left" ] && limit=$left
  begin=$SECONDS
  echo "== step $number: $name (at most $limit s)" | tee -a "$OUT/log.txt"
  timeout -k 5 "$limit" "$@" >> "$OUT/log.txt" 2>&1
  status=$?
  case $status in
    0) note "$number" "$name: exit" null "\"status\": 0, \"seconds\": $((SECONDS - begin))" ;;
    124 | 137) note "$number" "$name: exit" null "\"status\": $status, \"cut_off_after\": $((SECONDS - begin))" ;;
    *) note "$number" "$name: exit" false "\"status\": $status, \"seconds\": $((SECONDS - begin))" ;;
  esac
}

tool() { # NAME: where a tool is, on the path or in a CUDA installation
  command -v "$1" 2> /dev/null || ls "${CUDA_HOME:-/usr/local/cuda}"/bin/"$1" /usr/local/cuda*/bin/"$1" \
    /opt/nvidia/nsight-compute/*/"$1" 2> /dev/null | head -n 1
}

run() {
  [ -d "$PACK/gta_cuda" ] || { echo "first_run.sh: $PACK is no pack; build one with --build" >&2; exit 2; }
  PACK=$(cd "$PACK" && pwd)
  OUT=${OUT:-$PWD/first_run_results}
  mkdir -p "$OUT" || exit 2
  OUT=$(cd "$OUT" && pwd)
  export FIRST_RUN_RESULTS=$OUT/results.jsonl PYTHONPATH=$PACK GTA_CUDA_PACK=$PACK/cubins PYTHONDONTWRITEBYTECODE=1
  : > "$FIRST_RUN_RESULTS"; : > "$OUT/log.txt"
  timeout 20 "$PYTHON" -c 'import ml_dtypes' 2> /dev/null || PYTHONPATH=$PYTHONPATH:$PACK/wheels
  # Numba looks for NVVM, libdevice and NVRTC below these; nvcc stands where they are
  local nvcc; nvcc=$(tool nvcc)
  if [ -n "$nvcc" ]; then
    nvcc=$(dirname "$(dirname "$(readlink -f "$nvcc")")")
    export CUDA_HOME=${CUDA_HOME:-$nvcc} CUDA_PATH=${CUDA_PATH:-$nvcc}
  fi
  cd "$PACK" || exit 2
  local program="$PYTHON -m gta_cuda.first_run" check profiler
  step 0 15 environment $program.environment
  step 1 40 "smoke, carried" $program.smoke 1
  step 2 60 "smoke, Numba" env -u GTA_CUDA_PACK $program.smoke 2
  step 3 80 correctness $program.correctness
  step 4 160 timing $program.timing --seconds 140
  step 5 40 wgmma $program.wgmma
  step 5 90 ladder $program.ladder
  step 5 80 variants $program.variants
  check=$(tool compute-sanitizer)
  for which in memcheck racecheck; do
    if [ -n "$check" ]; then
      step 6 60 "$which" "$check" --tool "$which" --error-exitcode 9 $program.smoke 6 --few
    else
      note 6 "$which" null '"left_out": "compute-sanitizer was not found"'
    fi
  done
  profiler=$(tool ncu)
  if [ -n "$profiler" ]; then
    step 7 60 profile "$profiler" --set basic --clock-control none --csv --log-file "$OUT/ncu.csv" --launch-count 24 \
      --kernel-name regex:'forward|decode|backward|merge|delta' $program.smoke 7 --large
  else
    note 7 profile null '"left_out": "ncu was not found"'
  fi
  # another NumPy or numba-cuda may warn of something new, which must not fail a test here
  local parallel=
  "$PYTHON" -c 'import xdist' 2> /dev/null && parallel='-n 8'
  step 8 $((BUDGET - SECONDS > 5 ? BUDGET - SECONDS : 5)) pytest "$PYTHON" -m pytest -q --maxfail 20 -m gpu $parallel \
    -o filterwarnings=default -o addopts= --import-mode=importlib -p no:cacheprovider \
    -p gta_cuda.first_run.numpy_names tests/gta_cuda
  "$PYTHON" -m gta_cuda.first_run.summary "$FIRST_RUN_RESULTS" | tee "$OUT/summary.txt"
}

dry_run() {
  DRY=$(mktemp -d) || exit 1
  trap 'rm -rf "$DRY"' EXIT
  PACK=$DRY/pack OUT=$DRY/out
  mkdir -p "$OUT"
  export FIRST_RUN_RESULTS=$OUT/results.jsonl
  build "$PACK" --small || exit 1
  cd "$DRY" || exit 1
  export PYTHONPATH=$PACK PYTHONDONTWRITEBYTECODE=1
  "$PYTHON" -m gta_cuda.first_run.imports "$PACK" || exit 1
  NUMBA_ENABLE_CUDASIM=1 "$PYTHON" -W ignore -m gta_cuda.first_run.correctness --tiny || exit 1
  "$PYTHON" -m gta_cuda.first_run.summary "$FIRST_RUN_RESULTS" || exit 1
  if grep -q '"ok": false' "$FIRST_RUN_RESULTS"; then
    echo "first_run.sh: the dry run found a wrong result" >&2
    exit 1
  fi
  echo "dry run: ok, $SECONDS s"
}

# the checkout's environment where it is, which make sets up; on the GPU machine the system's Python
find_python() {
  local environment; environment=$(dirname "$HERE")/.venv
  if [ -n "${PYTHON:-}" ]; then return; fi
  if [ "$MODE" != run ] && [ ! -e "$environment/installed-cuda" ] && [ -e "$(dirname "$HERE")/Makefile" ]; then
    make --no-print-directory -C "$(dirname "$HERE")" .venv/installed-cuda || exit 1
  fi
  if [ -x "$environment/bin/python" ] && [ "$MODE" != run ]; then PYTHON=$environment/bin/python; else PYTHON=python3; fi
}

find_python
case $MODE in
  build) build "$PACK" ;;
  dry) dry_run ;;
  run) PACK=${PACK:-$HERE} run ;;
esac

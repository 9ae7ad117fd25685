#!/usr/bin/env bash
# Everything that needs a GPU, by one command: build, CUDA tests, compute-sanitizer, benchmarks, one JSON and one table.
#
#   benchmarks/gpu.sh [--dry-run] [--quick] [--skip STEP]...
#
# Steps: build, tests, memcheck, racecheck, initcheck, synccheck, ops, grad-cam. A step that fails does not keep the rest
# from running, but fails the whole. Writes benchmarks/results/<device>-<date>.json and, beside it, a .md with the tables.
# --dry-run prints the plan and runs nothing; --quick measures for a quarter of the time. PYTHON is the Python to use,
# .venv/bin/python if there is one. Needs an NVIDIA GPU, nvcc, compute-sanitizer, and torch with CUDA.
set -euo pipefail

dry_run=false
quick=false
skipped=" "
while (($#)); do
  case $1 in
    --dry-run) dry_run=true && shift ;;
    --quick) quick=true && shift ;;
    --skip) skipped+="$2 " && shift 2 ;;
    -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" && exit ;;
    *) echo "unknown option $1; --help lists them" >&2 && exit 2 ;;
  esac
done

cd "$(dirname "$0")/.."
if [[ -z ${PYTHON:-} ]]; then
  PYTHON=python3
  [[ ! -x .venv/bin/python ]] || PYTHON=.venv/bin/python
fi
date=$(date -u +%Y-%m-%d)

device="<device>"
if ! $dry_run; then
  for tool in nvidia-smi nvcc compute-sanitizer; do
    command -v "$tool" >/dev/null || { echo "gpu.sh: $tool is not on the path" >&2; exit 1; }
  done
  nvidia-smi --list-gpus | grep -q . || { echo "gpu.sh: nvidia-smi lists no GPU" >&2; exit 1; }
  "$PYTHON" -c 'import torch; assert torch.cuda.is_available()' ||
    { echo "gpu.sh: torch of $PYTHON has no CUDA device" >&2; exit 1; }
  device=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1 | tr '[:upper:] ' '[:lower:]-')
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
else
  work="<work>"
fi
results=benchmarks/results/$device-$date

steps=()
failed=()

step() { # name, then the command
  local name=$1
  shift
  [[ $skipped != *" $name "* ]] || return 0
  if $dry_run; then
    printf '%-10s %s\n' "$name" "$(printf '%q ' "$@")"
    return 0
  fi
  echo "== $name: $*"
  local begin=$SECONDS outcome=passed
  "$@" || outcome=failed
  [[ $outcome == passed ]] || failed+=("$name")
  steps+=("$name $outcome $((SECONDS - begin))")
}

# Only the kernels of this machine: the other architectures are compiled in CI.
architecture=90
$dry_run || architecture=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d .)
step build env WHYLIGHT_NATIVE=1 WHYLIGHT_CUDA=1 WHYLIGHT_CUDA_ARCHS="$architecture" \
  "$PYTHON" -m pip install --quiet --no-deps --editable .
step tests "$PYTHON" -m pytest -q -m cuda tests

# Some tests of every operator, and of the kernels only ours: a sanitizer is slow. Without torch's cache of memory, every
# tensor is an allocation of its own, whose bounds are then watched.
small='test_errs_no_more or test_is_as_close or test_normalises or test_overlay_takes or test_rows_say'
for tool in memcheck racecheck initcheck synccheck; do
  options=(--tool "$tool" --error-exitcode 1 --kernel-name kns=whylight)
  [[ $tool != memcheck ]] || options+=(--padding 64)
  step "$tool" env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer "${options[@]}" \
    "$PYTHON" -m pytest -q -m cuda -p no:cacheprovider --timeout 3000 -k "$small" tests/native
done

ops_seconds=2 grad_cam_seconds=60
! $quick || ops_seconds=0.5 grad_cam_seconds=10
step ops "$PYTHON" benchmarks/ops.py --device cuda --seconds "$ops_seconds" --json "$work/ops.json"
step grad-cam "$PYTHON" benchmarks/grad_cam.py --device cuda --batches 1 8 64 --seconds "$grad_cam_seconds" \
  --json "$work/grad_cam.json"

if $dry_run; then
  echo "writes $results.json and $results.md"
  exit
fi
"$PYTHON" benchmarks/gpu_report.py "$work" "$results" "${steps[@]}"
cat "$results.md"
((${#failed[@]} == 0)) || { echo "gpu.sh: failed: ${failed[*]}" >&2; exit 1; }

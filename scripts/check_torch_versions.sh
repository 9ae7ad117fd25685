#!/usr/bin/env bash
# Builds one wheel of what is committed and runs the operators' tests with several torches, each in its own venv.
#
#   scripts/check_torch_versions.sh [--wheel FILE] [--work FOLDER] ["REQUIREMENTS" ...]
#
# Each argument is what pip is to install as torch, with the Python to use in front if it is another ("python3.13:
# torch"). Left out, it is the oldest torch we support, the newest there is, and one without CUDA, which PyPI has not:
# PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu does. --wheel takes a wheel that is built already. Writes 6 GB
# for a torch with CUDA, and removes them again; the wheel takes minutes, each torch two. Tries all, and fails if one did.
set -euo pipefail

PYTHON=${PYTHON:-python3}
wheel=
work=
torches=()
while (($#)); do
  case $1 in
    --wheel) wheel=$(realpath "$2") && shift 2 ;;
    --work) mkdir -p "$2" && work=$(realpath "$2") && shift 2 ;;
    -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" && exit ;;
    -*) echo "unknown option $1; --help lists them" >&2 && exit 2 ;;
    *) torches+=("$1") && shift ;;
  esac
done
((${#torches[@]})) || torches=("torch==2.11.* torchvision==0.26.*" "torch torchvision" "torch==2.13.0+cpu")

cd "$(dirname "$0")/.."
if [[ -z $work ]]; then
  work=$(mktemp -d -t whylight-torches-XXXXXX)
  trap 'rm -rf "$work"' EXIT
fi
source_folder=$work/source
rm -rf "$source_folder"
mkdir -p "$source_folder"
git archive HEAD | tar -x -C "$source_folder"

if [[ -z $wheel ]]; then
  rm -rf "$work/wheels"
  "$PYTHON" -m pip wheel --quiet --no-deps --wheel-dir "$work/wheels" "$source_folder"
  wheels=("$work"/wheels/*.whl)
  ((${#wheels[@]} == 1)) || { echo "pip wheel made ${#wheels[@]} wheels, not one" >&2; exit 1; }
  wheel=${wheels[0]}
fi
[[ $(basename "$wheel") == *-cp310-abi3-* ]] || { echo "$wheel is no abi3 wheel" >&2; exit 1; }
libraries=$("$PYTHON" -m zipfile --list "$wheel" | awk '$1 ~ /\.so$/ {print $1}')
[[ $libraries == whylight/_C.abi3.so ]] || { echo "the wheel holds '$libraries', not one extension" >&2; exit 1; }
echo "wheel: $(basename "$wheel"); tests of commit $(git rev-parse --short HEAD)"

tests=()
for name in extension cam_pool cam_render colour gram tv_loss; do
  tests+=("tests/native/test_$name.py")
done
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}

# Installs one torch and the wheel into a fresh venv and runs the tests; leaves what it found in `facts`.
check() { # python requirements...
  local python=$1 venv=$work/venv
  shift
  facts="$*, $("$python" --version)"
  rm -rf "$venv" "$work/pytest.log"
  "$python" -m venv "$venv" || return
  "$venv/bin/python" -m pip install --quiet "$@" || return
  "$venv/bin/python" -m pip install --quiet "$wheel" \
    hypothesis matplotlib pluggy pydantic pydantic-settings pytest pytest-asyncio pytest-timeout setuptools || return
  cd "$source_folder"
  facts=$("$venv/bin/python" -P -c '
import platform, sys, torch
from whylight import ops
build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
print(f"torch {torch.__version__} ({build}), Python {platform.python_version()}: {ops.native_status().description}")
sys.exit(not ops.native_status().available)') || return
  "$venv/bin/python" -P -m pytest -q -p no:cacheprovider "${tests[@]}" >"$work/pytest.log" 2>&1 || return
  facts+="; $(tail -n 1 "$work/pytest.log")"
}

repository=$PWD
failed=0
results=()
for torch in "${torches[@]}"; do
  python=$PYTHON
  requirements=$torch
  if [[ $torch == *": "* ]]; then
    python=${torch%%: *}
    requirements=${torch#*: }
  fi
  echo "== $torch"
  read -ra parts <<<"$requirements"
  if check "$python" "${parts[@]}"; then
    results+=("ok      $facts")
  else
    failed=1
    results+=("FAILED  $facts")
    [[ ! -e $work/pytest.log ]] || grep -v ^SKIPPED "$work/pytest.log" | tail -n 40
  fi
  cd "$repository"
done
rm -rf "$work/venv"
printf '%s\n' "${results[@]}"
exit "$failed"

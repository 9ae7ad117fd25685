#!/usr/bin/env bash
# Has tritonclient and KServe's client, each in an environment of its own, talk to a whylight server; prints what held.
#
#   scripts/check_open_inference_clients.sh [--work FOLDER] [--only-install]
#
# Each registers the protocol's names in its process, where two of them clash, and wants a protobuf older than ours may
# be: hence the environments. They are kept in FOLDER, by default cache/open-inference, where tests/open_inference finds
# them too; making them takes a minute or two and 600 MB. One server is open, another wants TLS and tokens (openssl makes
# its certificates); both have a tiny network. Fails if anything did not hold. Needs the .venv of `make install`, or
# PYTHON with whylight in it.
set -euo pipefail

cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-$PWD/.venv/bin/python}
work=cache/open-inference
only_install=
while (($#)); do
  case $1 in
    --work) mkdir -p "$2" && work=$(realpath "$2") && shift 2 ;;
    --only-install) only_install=1 && shift ;;
    -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" && exit ;;
    *) echo "unknown option $1; --help lists them" >&2 && exit 2 ;;
  esac
done

install() { # name requirement
  if ! "$work/$1/bin/python" -c "import $1" 2> /dev/null; then
    rm -rf "${work:?}/$1"
    "$PYTHON" -m venv "$work/$1"
    "$work/$1/bin/python" -m pip install --quiet --disable-pip-version-check "$2"
  fi
}

mkdir -p "$work"
install tritonclient 'tritonclient[grpc]>=2.73'
install kserve 'kserve>=0.21'
[[ -z $only_install ]] || exit 0

exec "$PYTHON" tests/open_inference/conversations.py "$work"

#!/bin/sh
# The wheel as a stranger gets it: built once, installed where there is neither a checkout nor a compiler, and asked.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
python=${1:-python3}
work=$(mktemp -d)
export THALOOM_HOME="$work/home" THALOOM_PORT=17412
trap '"$work/venv/bin/thaloom" down >/dev/null 2>&1; rm -rf "$work"' EXIT
trap 'exit 1' INT TERM HUP

cd "$root"
"$python" -m build --quiet --wheel --outdir "$work/dist" .
"$python" -m venv "$work/venv"
cd "$work"
CXX=/nonexistent "$work/venv/bin/pip" install --quiet --disable-pip-version-check "$work"/dist/thaloom-*.whl
answer=$("$work/venv/bin/thaloom" run --max-tokens 32 --seed 7 tiny "The socket option")
echo "answer: $answer"
[ -n "$answer" ]
"$work/venv/bin/thaloom" ps --json | "$work/venv/bin/python" -c '
import json, sys
(service,) = json.load(sys.stdin)["services"]
degraded = [c for c in service["conditions"] if c["kind"] == "Degraded" and c["status"]]
assert service["phase"] == "ready" and not degraded, service
'
# The manual lies where `man` looks for it, in both languages.
for page in man1/thaloom.1 man1/thaloom-run.1 zh_CN/man1/thaloom-run.1; do [ -s "$work/venv/share/man/$page" ]; done

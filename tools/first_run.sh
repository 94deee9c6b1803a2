#!/bin/sh
# The newcomer's first minute: a node, a model, an answer. Called by `make run` with the environment's bin folder.
set -eu
thaloom="$1/thaloom"

"$thaloom" up --detach
sleeper=""
tidy() {
    [ -z "$sleeper" ] || kill "$sleeper" 2>/dev/null || true  # a closed terminal has ended it already
    "$thaloom" down
}
trap tidy EXIT
trap 'exit 0' INT TERM HUP  # HUP: the terminal was closed

echo
"$thaloom" run --verbose --max-tokens 96 --seed 7 tiny "The socket option"
echo
"$thaloom" ps
"$thaloom" status

if [ "${ONCE:-}" = 1 ]; then
    exit 0
fi
echo
echo "The node stays up until Ctrl-C.   节点将持续运行，按 Ctrl-C 结束。"
while :; do
    sleep 3600 &
    sleeper=$!
    wait "$sleeper"
done

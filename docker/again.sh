#!/bin/sh
# Starts a command again whenever it ends. Compose's own restart policy would do, but `up --exit-code-from run` ends the
# whole federation when any container ends.
while :; do
    "$@"
    echo "ended with status $?; it starts again" >&2
    sleep 3
done

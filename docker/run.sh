#!/bin/sh
# Registers the clients' keys, starts the run and follows it. The arguments are those that trust the SuperLink; without
# any there are no keys to register.
set -e
link="--superlink superlink:8000"
complain() {
    touch /tmp/ready
    sleep 20 # Compose shows no log before it has started all containers
    cat "$1" >&2
    exit 1
}
[ ! -e /federation/refused ] || complain /federation/refused
# shellcheck disable=SC2086  # two words
[ $# -eq 0 ] || fedshield register /federation/clients $link "$@" 2>/tmp/said || complain /tmp/said
touch /tmp/ready
# Ten clients share this machine's cores: with a thread on every core each, they would mostly wait for one another. A
# round goes on without the clients that are lost in it, as long as half of them answer; all are waited for at the start,
# which takes minutes while the machine is also busy with other work.
# shellcheck disable=SC2086  # a preset, and keys
exec fedshield submit $link "$@" --app /app --set threads=1 --set federation.min-fraction=0.5 \
    --set federation.node-wait-seconds=300 $FEDSHIELD_RUN \
    --set data.name=split --set data.root=/federation --set results.dir=/runs --set results.prometheus-port=9464 \
    --set results.prometheus-host=0.0.0.0

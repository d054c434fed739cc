#!/bin/sh
# Makes certificates, keys and each party's data, once. Then it sleeps, since `up --exit-code-from run` ends everything
# when any container ends; what goes wrong is therefore left for the service `run` to tell.
rm -f /federation/operator/refused
{
    fedshield certs --out /federation --clients 10 &&
        # shellcheck disable=SC2086  # a preset, and keys
        fedshield split-data $FEDSHIELD_RUN --out /federation
} 2>/tmp/said || cp /tmp/said /federation/operator/refused
cat /tmp/said >&2
touch /tmp/ready
exec sleep infinity

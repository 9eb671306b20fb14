#!/bin/bash
# The first process of a node's container. It does what systemd does on a host: an agent that ends is begun anew and finds its Postgres running,
# and orphans are taken note of (bash does that by itself). When the container is stopped it hands over and lets Postgres shut down, for with the
# first process all others are killed.
set -uo pipefail
config=${PGVIGIL_CONFIG:-/etc/pgvigil/node.toml}
home=/var/lib/postgresql
data=$home/15/main

say() { echo "entry: $*" >&2; }

if [ "$(id -u)" = 0 ]; then
    say "this is root, and Postgres must not be: start the container without --user root"
    exit 2
fi
# Held by everything that is started here, until the last of it has ended.
exec 9>>"$home/container.lock"
if ! flock --nonblock 9; then
    say "another container works in the volume at $home: each node needs a volume of its own"
    exit 2
fi
# Nobody else is alive in here, so this file is from a container that was killed. Postgres would take whoever has that number now for itself.
rm -f "$data/postmaster.pid"

stop() {
    trap '' TERM INT
    local agent=$!
    say "the container is stopped"
    # Refused at once where this node does not lead or nobody else may; what it does not do in its time a failover does.
    timeout 15 pgvigil switchover --yes --expect-leader "$PGVIGIL__NAME" --reason "the container of $PGVIGIL__NAME is stopped" --wait 12s </dev/null
    kill -TERM "$agent" 2>/dev/null
    wait "$agent"
    if [ -e "$data/postmaster.pid" ]; then pg_ctl stop --pgdata "$data" --mode fast --silent --timeout 3000; fi
    exit 0
}
trap stop TERM INT

while true; do
    pgvigil agent --config "$config" &
    wait $!
    status=$?
    # A mistake in the configuration is none that time mends: the container ends, and says so.
    if [ "$status" = 2 ]; then exit 2; fi
    say "the agent ended with $status and is begun anew; Postgres goes on"
    sleep 0.2
done

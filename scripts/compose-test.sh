#!/bin/bash
# Breaks the cluster of docker-compose.yml under writes and measures what a client of HAProxy sees: the leader's container is killed, its agent
# alone is killed, its container is stopped. No acknowledged row may be missing afterwards, and Prometheus must have seen it without an error in
# a rule. Needs a docker daemon that answers, docker-compose, psql and curl, and `make build` before it; removes everything that it has made.
set -euo pipefail
cd "$(dirname "$0")/.."

export COMPOSE_PROJECT_NAME=pgvigil-test
export PGVIGIL_WRITE_PORT=15000 PGVIGIL_READ_PORT=15001 PGVIGIL_PROMETHEUS_PORT=19090 PGVIGIL_ALERTMANAGER_PORT=19093
work=$(mktemp -d)
writer=
tidy_up() {
    if [ -n "$writer" ]; then kill "$writer" 2>/dev/null || true; fi
    docker-compose down --volumes --timeout 5 >"$work/down" 2>&1 || cat "$work/down" >&2
    rm -rf "$work"
}
trap tidy_up EXIT
fail() { echo "FAILED: $*" >&2; exit 1; }
if ! docker version >/dev/null 2>&1; then fail "no docker daemon answers: start one, or set DOCKER_HOST"; fi

# inside SERVICE COMMAND...
inside() { docker-compose exec -T "$@"; }
# until SECONDS WHAT COMMAND...
until_true() {
    local patience=$1 what=$2 end=$((SECONDS + $1))
    shift 2
    while ! "$@" >/dev/null 2>&1; do
        if [ $SECONDS -ge $end ]; then fail "$what: not within $patience s"; fi
        sleep 0.3
    done
}
json() { python3 -c "import json,sys; d=json.load(sys.stdin); print($1)"; }
asks=pg1
leader() { inside "$asks" pgvigil status -o json | json 'd["leader"] or ""'; }
whole() { [ "$(inside "$asks" pgvigil status -o json | json 'sum(m["state"] in ("writable", "streaming") for m in d["members"])')" = 3 ]; }
sql() { psql -XqAt -v ON_ERROR_STOP=1 "host=127.0.0.1 port=$PGVIGIL_WRITE_PORT user=app dbname=app connect_timeout=2" -c "$1"; }
prometheus() { curl -sfG "http://127.0.0.1:$PGVIGIL_PROMETHEUS_PORT/api/v1/$1" "${@:2}"; }

# One connection a row, as a client without a pool. What was acknowledged is written down with the moment.
write() {
    local row=0
    while true; do
        row=$((row + 1))
        if sql "insert into written values ($row)" 2>/dev/null; then echo "$row $EPOCHREALTIME"; fi
        sleep 0.01
    done
}
rows() { wc -l <"$work/acknowledged"; }
more_than() { [ "$(rows)" -gt "$1" ]; }
# The longest time between two acknowledged rows from row number $1 of the list on, in milliseconds.
gap() { awk -v from="$1" 'NR > from && last && $2 - last > most { most = $2 - last } { last = $2 } END { printf "%d", most * 1000 }' "$work/acknowledged"; }
# measured WHAT COMMAND...: the longest pause of writes while it is done
measured() {
    local what=$1 before
    shift
    before=$(rows)
    "$@" >/dev/null
    until_true 60 "writes after: $what" more_than $((before + 60))
    echo "$what: writes paused for $(gap "$before") ms"
}
other_than() { if [ "$1" = pg1 ]; then echo pg2; else echo pg1; fi; }

docker-compose up -d --build >"$work/up" 2>&1 || { tail -n 30 "$work/up"; fail "the containers do not start"; }
until_true 90 "three members that stream" whole
PGPASSWORD=$(inside pg1 cat /run/keys/app_password)
export PGPASSWORD
until_true 20 "HAProxy leads to the primary" sql "create table if not exists written (row int)"
touch "$work/acknowledged"
write >>"$work/acknowledged" &
writer=$!
until_true 20 "the first rows" more_than 60

for round in $(seq "${ROUNDS:-3}"); do
    first=$(leader)
    asks=$(other_than "$first")
    measured "round $round, container of the leader $first killed" docker-compose kill "$first"
    if [ "$(leader)" = "$first" ]; then fail "$first still leads"; fi
    docker-compose start "$first" >/dev/null 2>&1
    until_true 60 "$first is back" whole
done

first=$(leader)
postmaster=$(inside "$first" head -n 1 /var/lib/postgresql/15/main/postmaster.pid)
measured "agent of the leader $first killed" inside "$first" bash -c 'kill -9 $(for f in /proc/[0-9]*; do [ "$(cat $f/comm)" = pgvigil ] && echo ${f#/proc/}; done)'
if [ "$(leader)" != "$first" ]; then fail "an agent begun anew cost the lead"; fi
if [ "$(inside "$first" head -n 1 /var/lib/postgresql/15/main/postmaster.pid)" != "$postmaster" ]; then fail "Postgres was restarted"; fi

asks=$(other_than "$first")
measured "container of the leader $first stopped" docker-compose stop "$first"
docker-compose start "$first" >/dev/null 2>&1
until_true 60 "$first is back" whole

kill "$writer"
wait "$writer" 2>/dev/null || true
writer=
sql "select row from written" | sort -u >"$work/there"
lost=$(awk '{ print $1 }' "$work/acknowledged" | sort -u | comm -23 - "$work/there" | wc -l)
echo "$(rows) rows acknowledged, $lost lost"
if [ "$lost" != 0 ]; then fail "acknowledged rows are gone"; fi

seen() { [ "$(prometheus query --data-urlencode 'query=max(max_over_time(pgvigil_recorded_transitions{kind="failover",outcome="done"}[10m]))' | json 'int(float(d["data"]["result"][0]["value"][1]))')" -ge 1 ]; }
until_true 30 "Prometheus sees the failover" seen
wrong=$(prometheus rules | json '[r["name"] + ": " + r["lastError"] for g in d["data"]["groups"] for r in g["rules"] if r["health"] == "err"]')
if [ "$wrong" != "[]" ]; then fail "rules with errors: $wrong"; fi
fires() { prometheus alerts | json '[a["labels"]["alertname"] for a in d["data"]["alerts"] if a["state"] == "firing"]' | grep -q "'PgvigilFailover'"; }
until_true 30 "the alert PgvigilFailover" fires
echo "Prometheus has the transition, PgvigilFailover fires, no rule has an error"

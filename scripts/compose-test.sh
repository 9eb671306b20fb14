#!/bin/bash
# Breaks the cluster of docker-compose.yml under writes and measures what a client of HAProxy sees: the leader's container is killed, its agent
# alone is killed, its container is stopped. No acknowledged row may be missing afterwards; the page at /ui, Prometheus with its rules and alerts, and every
# expression of the dashboards must show what happened. Needs a docker daemon that answers, docker-compose, psql, curl and
# python3, chromium to look at the page, and `make build` before it; removes everything that it has made.
set -euo pipefail
cd "$(dirname "$0")/.."

export COMPOSE_PROJECT_NAME=pgvigil-test
export PGVIGIL_WRITE_PORT=15000 PGVIGIL_READ_PORT=15001 PGVIGIL_PROMETHEUS_PORT=19090 PGVIGIL_ALERTMANAGER_PORT=19093
work=$(mktemp -d)
began=$SECONDS
. scripts/writes.sh
tidy_up() {
    end_writer
    docker-compose down --volumes --timeout 5 >"$work/down" 2>&1 || cat "$work/down" >&2
    rm -rf "$work"
}
trap tidy_up EXIT
if ! docker version >/dev/null 2>&1; then fail "no docker daemon answers: start one, or set DOCKER_HOST"; fi

# inside SERVICE COMMAND...
inside() { docker-compose exec -T "$@"; }
pgvigil() { local host=$1; shift; inside "$host" pgvigil "$@"; }
sql() { psql -XqAt -v ON_ERROR_STOP=1 "host=127.0.0.1 port=$PGVIGIL_WRITE_PORT user=app dbname=app connect_timeout=2" -c "$1"; }
prometheus() { curl -sfG "http://127.0.0.1:$PGVIGIL_PROMETHEUS_PORT/api/v1/$1" "${@:2}"; }

# seen_by_people FROM TO: the page of an agent that lives tells of the failover, in its events and, where there is a browser, in what it draws.
page_of() { echo "http://$(docker inspect --format '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' "$(docker-compose ps -q "$1")"):8008/ui"; }
# The events never end: the first one is enough.
picture() { { curl -sN --max-time 3 "$1/events" || true; } | sed -n '/^data: /{s///p;q}'; }
tells() { picture "$1" | json "[t for t in d['transitions'] if t['kind'] == 'failover' and (t['from'], t['to']) == ('$2', '$3')][-1]['write_outage_ms'] * 1"; }
draws() {
    chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --timeout=4000 --user-data-dir="$work/chromium" --dump-dom "$1" >"$work/page" 2>/dev/null
    grep -q "failover $2 → $3" "$work/page"
}
seen_by_people() {
    local page
    page=$(page_of "$asks")
    until_true 20 "/ui/events tells of the failover" tells "$page" "$1" "$2"
    if command -v chromium >/dev/null; then until_true 40 "/ui draws the failover" draws "$page" "$1" "$2"; fi
    echo "/ui of $asks tells of the failover from $1 to $2: no writes for $(tells "$page" "$1" "$2") ms by the record"
}

docker-compose up -d --build >"$work/up" 2>&1 || { tail -n 30 "$work/up"; fail "the containers do not start"; }
until_true 90 "three members that stream" whole
PGPASSWORD=$(inside pg1 cat /run/keys/app_password)
export PGPASSWORD
begin_writer

for round in $(seq "${ROUNDS:-3}"); do
    first=$(leader)
    asks=$(other_than "$first")
    measured "round $round, container of the leader $first killed" docker-compose kill "$first"
    if [ "$(leader)" = "$first" ]; then fail "$first still leads"; fi
    seen_by_people "$first" "$(leader)"
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

no_row_is_lost

# Prometheus: what agents tell, what our rules make of it, and the alert.
value() { prometheus query --data-urlencode "query=$1" | json 'd["data"]["result"][0]["value"][1]'; }
is_so() { [ "$(value "$1")" != "" ]; }
until_true 30 "Prometheus sees the failover" is_so 'max(max_over_time(pgvigil_recorded_transitions{kind="failover",outcome="done"}[10m])) >= 1'
until_true 30 "a rule sees another term" is_so 'changes(cluster:pgvigil_leader_term:max{cluster="compose"}[10m]) >= 1'
until_true 30 "a rule sees what it cost" is_so 'cluster:pgvigil_recorded_budget_left:ratio30d{cluster="compose"} < 1'
until_true 30 "the alert PgvigilFailover" is_so 'ALERTS{alertname="PgvigilFailover",alertstate="firing"} == 1'
wrong=$(prometheus rules | json '[r["name"] + ": " + r["lastError"] for g in d["data"]["groups"] for r in g["rules"] if r["health"] == "err"]')
if [ "$wrong" != "[]" ]; then fail "rules with errors: $wrong"; fi
echo "Prometheus has the transition, two rules and PgvigilFailover show it, no rule has an error"
scripts/dashboards.py "http://127.0.0.1:$PGVIGIL_PROMETHEUS_PORT" compose $(((SECONDS - began) / 60 + 1)) --failover || fail "the dashboards"

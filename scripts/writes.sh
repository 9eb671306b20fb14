# What scripts/compose-test.sh and scripts/deb-test.sh have in common: a writer that remembers every acknowledged row, the pauses that it saw, and at the
# end whether a row is missing. To be sourced by a script that has $work, a directory of its own, `sql STATEMENT`, which goes to wherever writes go,
# and `pgvigil HOST COMMAND...`; its exit trap calls end_writer.

fail() { echo "FAILED: $*" >&2; exit 1; }
json() { python3 -c "import json,sys; d=json.load(sys.stdin); print($1)"; }
# until_true SECONDS WHAT COMMAND...
until_true() {
    local patience=$1 what=$2 end=$((SECONDS + $1))
    shift 2
    while ! "$@" >/dev/null 2>&1; do
        if [ $SECONDS -ge $end ]; then fail "$what: not within $patience s"; fi
        sleep 0.2
    done
}

# --- the cluster ------------------------------------------------------------------------------------------------------------------------------
# Whom questions are put to: whoever is about to be broken cannot answer.
asks=pg1
leader() { pgvigil "$asks" status -o json | json 'd["leader"] or ""'; }
whole() { [ "$(pgvigil "$asks" status -o json | json 'sum(m["state"] in ("writable", "streaming") for m in d["members"])')" = 3 ]; }
leads_other_than() { local now; now=$(leader); [ -n "$now" ] && [ "$now" != "$1" ]; }
other_than() { if [ "$1" = pg1 ]; then echo pg2; else echo pg1; fi; }

# --- the writer -------------------------------------------------------------------------------------------------------------------------------
writer=
# One connection a row, as a client without a pool. What was acknowledged is written down with the moment.
write() {
    local row=0
    while true; do
        row=$((row + 1))
        if sql "insert into written values ($row)" 2>/dev/null; then echo "$row $EPOCHREALTIME"; fi
        sleep 0.01
    done
}
# Makes the table where it can, which proves that writes work, and begins.
begin_writer() {
    until_true 60 "writes" sql "create table if not exists written (row int)"
    touch "$work/acknowledged"
    write >>"$work/acknowledged" &
    writer=$!
    until_true 60 "the first rows" more_than 60
}
end_writer() {
    if [ -z "$writer" ]; then return; fi
    kill "$writer" 2>/dev/null || true
    wait "$writer" 2>/dev/null || true
    writer=
}
rows() { wc -l <"$work/acknowledged"; }
more_than() { [ "$(rows)" -gt "$1" ]; }
# The longest time between two acknowledged rows from row number $1 of the list on, in milliseconds.
gap() { awk -v from="$1" 'NR > from && last && $2 - last > most { most = $2 - last } { last = $2 } END { printf "%d", most * 1000 }' "$work/acknowledged"; }
# measured WHAT COMMAND...: the longest pause of writes while it is done, and while 60 rows are written after it
measured() {
    local what=$1 before
    shift
    before=$(rows)
    "$@" >"$work/told" 2>&1 || { cat "$work/told" >&2; fail "$what"; }
    until_true 60 "writes after: $what" more_than $(($(rows) + 60))
    echo "$what: writes paused for $(gap "$before") ms"
}
# Ends the writer, and fails where a row is missing that was acknowledged.
no_row_is_lost() {
    local lost
    end_writer
    sql "select row from written" | sort -u >"$work/there"
    lost=$(awk '{ print $1 }' "$work/acknowledged" | sort -u | comm -23 - "$work/there" | wc -l)
    echo "$(rows) rows acknowledged, $lost lost"
    if [ "$lost" != 0 ]; then fail "acknowledged rows are gone"; fi
}

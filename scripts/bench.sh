#!/bin/bash
# Runs the demo several times with each fault and prints the medians. Usage: bench.sh BINARY; RUNS=5 and FAULTS="..." may be set.
set -euo pipefail
binary=$1
runs=${RUNS:-5}

# The value of one number in the last line of the demo.
field() { grep -o "\"$1\": *[0-9.]*" | grep -o '[0-9.]*$'; }
median() { sort -n | awk '{ v[NR] = $1 } END { print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }

status=0
format='%-11s %9s %12s %12s %12s %18s %10s\n'
# shellcheck disable=SC2059
printf "$format" fault "runs good" "outage ms" "least" "most" "redundancy ms" "rows lost"
for fault in ${FAULTS:-node postgres hang switchover}; do
    outages="" redundancies="" lost=0 good=0
    for run in $(seq "$runs"); do
        # A run that fails is told, and is no number: the others go on.
        if result=$("$binary" demo --json --fault "$fault" 2>/tmp/pgvigil-bench.$$ | tail -n 1); then
            good=$((good + 1))
        else
            status=1
            echo "run $run of --fault $fault failed:" >&2
            tail -n 15 /tmp/pgvigil-bench.$$ >&2
        fi
        [ -n "$result" ] || continue
        outages+="$(field write_outage_ms <<<"$result")"$'\n'
        redundancies+="$(field redundancy_restored_ms <<<"$result")"$'\n'
        lost=$((lost + $(field lost_rows <<<"$result")))
    done
    outages=${outages%$'\n'} redundancies=${redundancies%$'\n'}
    # shellcheck disable=SC2059
    printf "$format" "$fault" "$good/$runs" "$(median <<<"$outages")" "$(sort -n <<<"$outages" | head -n 1)" \
        "$(sort -n <<<"$outages" | tail -n 1)" "$(median <<<"$redundancies")" "$lost"
done
rm -f /tmp/pgvigil-bench.$$
exit $status

#!/bin/bash
# Runs the demo several times with each fault and prints the medians. Usage: bench.sh BINARY; RUNS=5 and FAULTS="..." may be set.
set -euo pipefail
binary=$1
runs=${RUNS:-5}

# The value of one number in the last line of the demo.
field() { grep -o "\"$1\": *[0-9.]*" | grep -o '[0-9.]*$'; }
median() { sort -n | awk '{ v[NR] = $1 } END { print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }

printf '%-12s %6s %16s %16s %12s\n' fault runs "outage ms (med)" "outage ms (max)" "rows lost"
for fault in ${FAULTS:-node postgres hang switchover}; do
    outages="" lost=0
    for _ in $(seq "$runs"); do
        result=$("$binary" demo --json --fault "$fault" | tail -n 1)
        outages+="$(field write_outage_ms <<<"$result")"$'\n'
        lost=$((lost + $(field lost_rows <<<"$result")))
    done
    outages=${outages%$'\n'}
    printf '%-12s %6s %16s %16s %12s\n' "$fault" "$runs" "$(median <<<"$outages")" "$(sort -n <<<"$outages" | tail -n 1)" "$lost"
done

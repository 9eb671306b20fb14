#!/bin/bash
# Builds and runs every test of the workspace, and ends with one line that says how it went. The whole output stays in target/test.log.
# PG=17 takes another PostgreSQL than Debian's (scripts/postgres.sh), and plays only the tests that have to do with one. Without, a few of them are
# played against PostgreSQL 17 as well, where that can be had: what a version changes shows there. Programs that were made for Patroni are run
# where they can be had (scripts/programs.sh).
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

mkdir -p target
# Whole clusters wait most of the time, for a lease or a timeout: one more than there are cores.
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$(($(nproc) + 1))}
started=$SECONDS
tests=()
if [ "${PG:-15}" != 15 ]; then
    PGVIGIL_TEST_BIN_DIR=$(scripts/postgres.sh "$PG") || exit
    export PGVIGIL_TEST_BIN_DIR
    tests=(--package pg-control --package agent --package chaos --test '*')
elif PGVIGIL_TEST_BIN_DIR_17=$(scripts/postgres.sh 17); then
    export PGVIGIL_TEST_BIN_DIR_17
else
    unset PGVIGIL_TEST_BIN_DIR_17
fi
without=
if PGVIGIL_TEST_PROGRAMS=$(scripts/programs.sh); then
    export PGVIGIL_TEST_PROGRAMS
else
    unset PGVIGIL_TEST_PROGRAMS
    without=", WITHOUT CHECK_PATRONI, PATRONICTL, SCHEMATHESIS, TERRAFORM'S PARSER AND VIP-MANAGER, as far as they are not here"
fi
cargo build --workspace --all-targets || exit

# A failure is told by its message; twenty lines of the runtime's own frames after it are what a short log has no room for.
export RUST_BACKTRACE=0

# All of it, even after a failure: one run should tell everything that is wrong.
cargo test --no-fail-fast "${tests[@]:---workspace}" 2>&1 | tee target/test.log
status=${PIPESTATUS[0]}

# A machine that stands still for a second can make a cluster miss what a test waits for. Up to three plays of whole clusters, or tests of
# a real server, that failed are run once more, alone, and told at the end: what fails twice is wrong. Nothing is run again after a word that
# a promise was broken (UNSAFE, in agent/tests/whole): once is once too often.
again_alone=
plays=$(sed -nE 's/^test ([a-z_0-9:]+) \.\.\. FAILED$/\1/p' target/test.log | sort -u)
servers=$(sed -nE 's/^FAILED ([a-z_0-9:]+) \(.*/\1/p' target/test.log | sort -u)
# Of no other target, and of these each by its name: a doc test, a crash of the binary and a build that failed are not forgiven.
only_those() {
    local targets
    targets=$(sed -n '/^error: [0-9]* targets\? failed:$/,$p' target/test.log | sed 1d)
    [ -n "$targets" ] && ! grep -qvE '^    `-p (agent --test whole|pg-control --test it)`$' <<<"$targets" || return
    [ -z "$plays" ] || grep -q "^test result: FAILED\..* $(wc -w <<<"$plays") failed" target/test.log || return
    [ -z "$servers" ] || grep -q "^$(wc -w <<<"$servers") failures, " target/test.log || return
    [ "$(wc -l <<<"$targets")" = "$(( (${#plays} > 0) + (${#servers} > 0) ))" ]
}
once_more() {
    echo "$2 failed; once more, alone" | tee -a target/test.log
    cargo test --workspace --test "$1" -- ${3:+"$3"} "$2" 2>&1 | tee target/test-alone.log | tee -a target/test.log
    grep -qE "$4" target/test-alone.log || status=1
    again_alone+=" $2"
}
if [ "$status" != 0 ] && [ "$(wc -w <<<"$plays $servers")" -le 3 ] && only_those && ! grep -q UNSAFE target/test.log; then
    cp target/test.log target/test-first.log
    status=0
    for play in $plays; do once_more whole "$play" --exact '^test result: ok. 1 passed'; done
    for server in $servers; do once_more it "$server" "" "^ok    $server "; done
fi

if [ -n "${PGVIGIL_TEST_BIN_DIR_17:-}" ]; then
    # With all of the workspace, for a part of it would have its dependencies built anew.
    # Whatever reads, writes or waits for something of Postgres that a version may name otherwise; and one leader after another.
    again() { PGVIGIL_TEST_BIN_DIR=$PGVIGIL_TEST_BIN_DIR_17 cargo test --workspace --no-fail-fast "$@" 2>&1 | tee -a target/test.log; }
    echo "Some again, against PostgreSQL 17" | tee -a target/test.log
    again --test it -- lifecycle::a_new lifecycle::another lifecycle::a_fast replication::a_clone \
        replication::a_standby_is_repointed replication::a_pledge rejoin::a_diverged rejoin::the_end_of_wal \
        durability::names_count settings:: slots:: || status=1
    again --test whole -- --exact failover::a_leader_that_dies_is_replaced_and_returns_by_itself || status=1
elif [ "${PG:-15}" = 15 ]; then
    without+=", NONE OF THEM AGAINST POSTGRESQL 17, which is not here"
fi

# What failed comes last as well, for whoever sees only the end: the output of each, as its binary told it.
[ "$status" = 0 ] || sed -n '/^failures:$/,/^test result: FAILED/p' target/test.log | tail -n 200

# "test result: ok. 24 passed; 0 failed; 1 ignored; ..." once for each test binary
[ -z "$again_alone" ] || without+=", PLAYED AGAIN, ALONE:$again_alone (target/test-first.log)"
awk -v seconds=$((SECONDS - started)) -v status="$status" -v without="$without" '
    /^test result:/ { passed += $4; failed += $6; ignored += $8; binaries++ }
    END {
        printf "\n%s: %d passed, %d failed, %d ignored in %d test binaries, %d min %d s with the build (target/test.log)%s\n",
            status == 0 ? "ALL GOOD" : "FAILED", passed, failed, ignored, binaries, seconds / 60, seconds % 60, without
    }' target/test.log
exit "$status"

#!/bin/bash
# Builds and runs every test of the workspace, and ends with one line that says how it went. The whole output stays in target/test.log.
# PG=17 takes another PostgreSQL than Debian's (scripts/postgres.sh), and plays only the tests that have to do with one.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

mkdir -p target
started=$SECONDS
tests=()
if [ "${PG:-15}" != 15 ]; then
    PGVIGIL_TEST_BIN_DIR=$(scripts/postgres.sh "$PG") || exit
    export PGVIGIL_TEST_BIN_DIR
    tests=(--package pg-control --package agent --package chaos --test '*')
fi
cargo build --workspace --all-targets || exit

# All of it, even after a failure: one run should tell everything that is wrong.
cargo test --no-fail-fast "${tests[@]:---workspace}" 2>&1 | tee target/test.log
status=${PIPESTATUS[0]}

# "test result: ok. 24 passed; 0 failed; 1 ignored; ..." once for each test binary
awk -v seconds=$((SECONDS - started)) -v status="$status" '
    /^test result:/ { passed += $4; failed += $6; ignored += $8; binaries++ }
    END {
        printf "\n%s: %d passed, %d failed, %d ignored in %d test binaries, %d min %d s with the build (target/test.log)\n",
            status == 0 ? "ALL GOOD" : "FAILED", passed, failed, ignored, binaries, seconds / 60, seconds % 60
    }' target/test.log
exit "$status"

#!/bin/bash
# Makes sure of the systems that `make bench` measures beside pgvigil: pg_auto_failover from Debian, and Patroni from PyPI in a virtual
# environment under target/. Nothing else needs them. Nothing happens when all is there, and no service is started.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=target/bench/venv
# Every package at one version, so that two runs measure the same program.
pinned=(
    patroni==4.1.5 psycopg==3.3.9 psycopg-binary==3.3.9 python-etcd==0.4.5 dnspython==2.9.2 urllib3==2.8.0 psutil==7.2.2 PyYAML==6.0.4
    python-dateutil==4.0.0 click==8.5.1 prettytable==3.18.0 wcwidth==0.9.4 ydiff==1.4.2 typing_extensions==4.16.0
)

scripts/setup.sh bench

installed() { "$venv/bin/python" -m patroni --version && [ "$(cat "$venv/pinned")" = "${pinned[*]}" ]; }
if ! installed >/dev/null 2>&1; then
    echo "Patroni is installed in $venv."
    rm -rf "$venv"
    mkdir -p "$(dirname "$venv")"
    # Debian's own Python: the user postgres runs it, and may not reach another one in somebody's home.
    /usr/bin/python3 -m venv "$venv"
    pip() { "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps "$@"; }
    pip wheel==0.45.1
    pip "${pinned[@]}"
    echo "${pinned[*]}" >"$venv/pinned"
fi

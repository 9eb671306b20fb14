#!/bin/bash
# Makes sure of the systems that `make bench` measures beside pgvigil: pg_auto_failover from Debian, and Patroni from PyPI in a virtual
# environment under target/. Nothing else needs them. Nothing happens when all is there, and no service is started.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/python.sh

scripts/setup.sh bench
python_packages target/bench/venv "${patroni_pins[@]}"

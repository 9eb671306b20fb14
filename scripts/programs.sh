#!/bin/bash
# Prints the directory of programs that tests run against pgvigil: check_patroni and patronictl, made for Patroni, and schemathesis, which makes up
# requests, from PyPI, as is Terraform's own parser; vip-manager from Debian 13; each in one version. Debian 12's own vip-manager speaks etcd's old API alone, which knows none of the keys of the new.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/python.sh

vip_manager=vip-manager2_3.0.0-2+b7_amd64.deb
vip_manager_hash=b62b3939217af9f5a10fa05242a902c3e23a478c260720a93ef8afde0b8fc9f9

place=${PGVIGIL_PROGRAMS_DIR:-/var/tmp/pgvigil-programs}
mkdir -p "$place"
# Two at once would take each other's files away.
exec 9>"$place/lock"
flock 9

if [ ! -x "$place/venv/bin/python" ]; then scripts/setup.sh wheels >&2; fi
if ! python_packages "$place/venv" "${patroni_pins[@]}" "${check_patroni_pins[@]}"; then
    echo "check_patroni and patronictl are not here: PyPI could not be reached. With a network run  $0  again;" >&2
    echo "without one copy $place from a machine that has it." >&2
    exit 1
fi

if ! python_packages "$place/schemathesis" "${schemathesis_pins[@]}"; then
    echo "schemathesis is not here: PyPI could not be reached, as above." >&2
    exit 1
fi

if ! python_packages "$place/terraform" "${terraform_pins[@]}"; then
    echo "Terraform's parser is not here: PyPI could not be reached, as above." >&2
    exit 1
fi

if [ "$(cat "$place/vip-manager.pinned" 2>/dev/null)" != "$vip_manager_hash" ]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    echo "vip-manager comes from Debian 13: $vip_manager" >&2
    pool=http://deb.debian.org/debian/pool/main/v/vip-manager2
    if ! /usr/lib/apt/apt-helper download-file "$pool/$vip_manager" "$work/$vip_manager" "SHA256:$vip_manager_hash" >&2; then
        echo "vip-manager is not here: Debian could not be reached, or has no $vip_manager with that hash any more." >&2
        exit 1
    fi
    dpkg-deb --fsys-tarfile "$work/$vip_manager" | tar -x -C "$work" ./usr/bin/vip-manager
    mv "$work/usr/bin/vip-manager" "$place/vip-manager"
    echo "$vip_manager_hash" >"$place/vip-manager.pinned"
fi
echo "$place"

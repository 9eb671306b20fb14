#!/bin/bash
# What docker-compose.yml needs on a Debian that may have none of it, and may not pull: containers.sh start
#   start   installs docker.io and docker-compose where they are missing, starts a docker daemon where none answers, and makes the base image
#           pgvigil-base by debootstrap where debian:12-slim is neither there nor can be pulled. Prints what to set: eval "$(scripts/containers.sh start)"
#   stop    ends the daemon that start has started, and no other.
# As root. The daemon's files are in PGVIGIL_DOCKER_DIR (/var/tmp/pgvigil-docker), the root of the image is kept in PGVIGIL_IMAGE_ROOT (/var/tmp/pgvigil-root).
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin"
place=${PGVIGIL_DOCKER_DIR:-/var/tmp/pgvigil-docker}
root=${PGVIGIL_IMAGE_ROOT:-/var/tmp/pgvigil-root}
image=pgvigil-base
say() { echo "$*" >&2; }

programs() {
    local missing=()
    command -v dockerd >/dev/null || missing+=(docker.io)
    command -v docker-compose >/dev/null || missing+=(docker-compose)
    command -v debootstrap >/dev/null || missing+=(debootstrap)
    command -v iptables >/dev/null || missing+=(iptables)
    if [ ${#missing[@]} = 0 ]; then return; fi
    say "installed by apt-get: ${missing[*]}"
    local no_start=/usr/sbin/policy-rc.d made=
    if [ ! -e $no_start ]; then
        printf '#!/bin/sh\nexit 101\n' >$no_start
        chmod 755 $no_start
        made=$no_start
    fi
    apt-get update -qq >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
    if [ -n "$made" ]; then rm "$made"; fi
}

answers() { docker version >/dev/null 2>&1; }
daemon() {
    if answers; then return; fi
    mkdir -p "$place"
    export DOCKER_HOST=unix://$place/docker.sock
    if answers; then return; fi
    say "a docker daemon is started; its files and its log are in $place"
    setsid dockerd --host "$DOCKER_HOST" --data-root "$place/data" --exec-root "$place/exec" --pidfile "$place/pid" >"$place/log" 2>&1 </dev/null &
    local end=$((SECONDS + 60))
    until answers; do
        if [ $SECONDS -ge $end ]; then
            tail -n 20 "$place/log" >&2
            say "the daemon does not answer within 60 s"
            exit 1
        fi
        sleep 0.5
    done
}

base() {
    local wanted=debian:12-slim
    if docker image inspect $wanted >/dev/null 2>&1 || timeout 60 docker pull --quiet $wanted >/dev/null 2>&1; then
        echo "export PGVIGIL_BASE=$wanted"
        return
    fi
    if ! docker image inspect $image >/dev/null 2>&1; then
        if [ ! -e "$root/etc/debian_version" ]; then
            say "$wanted cannot be pulled: a Debian 12 is made in $root"
            debootstrap --variant=minbase --include=ca-certificates bookworm "$root" http://deb.debian.org/debian >"$place.log" 2>&1 || { tail -n 20 "$place.log" >&2; exit 1; }
        fi
        tar --directory "$root" --create . | docker import - $image >/dev/null
        say "the image $image is made of $root"
    fi
    echo "export PGVIGIL_BASE=$image"
}

case "${1:-}" in
    start)
        if [ "$(id -u)" != 0 ]; then say "this takes root"; exit 1; fi
        programs
        daemon
        if [ -n "${DOCKER_HOST:-}" ]; then echo "export DOCKER_HOST=$DOCKER_HOST"; fi
        base
        ;;
    stop)
        if [ -e "$place/pid" ]; then
            kill "$(cat "$place/pid")"
            until [ ! -e "$place/pid" ]; do sleep 0.2; done
        fi
        ;;
    *)
        say "usage: containers.sh start | stop"
        exit 2
        ;;
esac

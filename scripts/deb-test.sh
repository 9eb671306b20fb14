#!/bin/bash
# The Debian package under a real systemd: three hosts, each a container of systemd-nspawn with systemd as its first process on a network of its own, etcd from Debian
# beside each node. The package is installed, agents are restarted, killed, hung, upgraded and stopped, hosts are rebooted, under a writer that
# remembers every acknowledged row. Says what each cost, and fails where a row is lost, or where Postgres ends that should not.
# Needs root, debootstrap, systemd-container, iproute2, psql, and the package (`make deb`). The clean Debian is made once in PGVIGIL_DEB_BASE
# (900 MB); PGVIGIL_KEEP=1 waits for Enter before all is taken away.
# With PGVIGIL_ANSIBLE=.../ansible-playbook the hosts are set up by packaging/ansible, over ssh.
set -euo pipefail
cd "$(dirname "$0")/.."
base=${PGVIGIL_DEB_BASE:-/var/tmp/pgvigil-deb/base}
# Mounts and networks end with these namespaces, whatever happens to this script.
if [ "${1:-}" != inside ]; then
    for program in debootstrap systemd-nspawn ip psql unshare; do
        if ! command -v $program >/dev/null; then echo "$program is missing: apt-get install debootstrap systemd-container iproute2 postgresql-client" >&2; exit 1; fi
    done
    if [ "$(id -u)" != 0 ]; then echo "this takes root: containers with systemd" >&2; exit 1; fi
    exec unshare --mount --net --propagation private "$0" inside
fi

work=$(mktemp -d -p "$(dirname "$base")" run-XXXX 2>/dev/null || mktemp -d -p /var/tmp)
hosts=(pg1 pg2 pg3)
declare -A nspawn
. scripts/writes.sh
tidy_up() {
    local status=$? host leader
    set +e
    if [ "${PGVIGIL_KEEP:-}" = 1 ]; then read -rp "the hosts run; Enter ends them"; fi
    end_writer
    for host in "${!nspawn[@]}"; do
        if [ $status != 0 ]; then echo "--- $host"; on "$host" journalctl --no-pager -q -n 25 -u pgvigil@test -u etcd; fi 2>&1
        leader=$(first_process "$host")
        # Whose first process ends, all of it ends.
        if [ -n "$leader" ]; then kill -KILL "$leader"; fi
        wait "${nspawn[$host]}"
        umount "$work/$host/root"
    done 2>/dev/null
    rm -rf "$work"
    exit $status
}
trap tidy_up EXIT

# --- the clean Debian -------------------------------------------------------------------------------------------------------------------------
packages=systemd,systemd-sysv,dbus,iproute2,procps,ca-certificates
make_base() {
    if [ -e "$base/etc/pgvigil-base" ]; then return; fi
    echo "a clean Debian 12 is made in $base"
    rm -rf "$base"
    mkdir -p "$base"
    if ! debootstrap --variant=minbase --include=$packages bookworm "$base" http://deb.debian.org/debian >"$work/debootstrap" 2>&1; then
        tail -n 20 "$work/debootstrap" >&2
        fail "debootstrap"
    fi
    printf '#!/bin/sh\nexit 101\n' >"$base/usr/sbin/policy-rc.d"
    chmod 755 "$base/usr/sbin/policy-rc.d"
    nsenter --net=/proc/1/ns/net chroot "$base" env DEBIAN_FRONTEND=noninteractive sh -ec '
        apt-get update -qq
        apt-get install -y -qq --no-install-recommends postgresql-15 etcd-server etcd-client openssh-server sudo python3-apt
        systemctl disable -q etcd' >"$work/apt" 2>&1 || { tail -n 20 "$work/apt" >&2; fail "apt-get in $base"; }
    rm "$base/usr/sbin/policy-rc.d"
    touch "$base/etc/pgvigil-base"
}

# --- hosts ------------------------------------------------------------------------------------------------------------------------------------
address() { echo "172.30.90.${1#pg}"; }
first_process() { pgrep -P "${nspawn[$1]}" | head -n 1; }
# on HOST COMMAND...
on() {
    local leader
    leader=$(first_process "$1")
    if [ -z "$leader" ]; then return 1; fi
    shift
    nsenter --target "$leader" --mount --uts --ipc --net --pid --cgroup -- env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
        PGVIGIL_CONFIG=/etc/pgvigil/test.toml "$@"
}
up() { [[ $(on "$1" systemctl is-system-running 2>/dev/null) =~ ^(running|degraded)$ ]]; }
network() {
    mkdir -p /run/netns
    mount -t tmpfs tmpfs /run/netns
    ip link set lo up
    ip link add bridge type bridge
    ip address add 172.30.90.100/24 dev bridge
    ip link set bridge up
    local host
    for host in "${hosts[@]}"; do
        ip netns add "$host"
        ip link add "to-$host" type veth peer name eth0 netns "$host"
        ip link set "to-$host" master bridge up
        ip -n "$host" link set lo up
        ip -n "$host" address add "$(address "$host")/24" dev eth0
        ip -n "$host" link set eth0 up
    done
}
start_host() {
    local host=$1
    mkdir -p "$work/$host"/{upper,work,root}
    mount -t overlay overlay -o "lowerdir=$base,upperdir=$work/$host/upper,workdir=$work/$host/work" "$work/$host/root"
    # Every host has a name and a machine id of its own.
    rm -f "$work/$host/root/etc/machine-id"
    echo "$host" >"$work/$host/root/etc/hostname"
    local one
    for one in "${hosts[@]}"; do echo "$(address "$one") $one"; done >>"$work/$host/root/etc/hosts"
    boot "$host"
}
boot() {
    local host=$1
    SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 systemd-nspawn --quiet --register=no --keep-unit --boot --machine="$host" --directory="$work/$host/root" \
        --network-namespace-path="/run/netns/$host" --console=pipe --link-journal=no --capability=CAP_IPC_LOCK </dev/null >"$work/$host/console" 2>&1 &
    nspawn[$host]=$!
}
start_etcd() {
    local host=$1 all
    all=$(for one in "${hosts[@]}"; do echo -n "$one=http://$(address "$one"):2380,"; done)
    cat >"$work/$host/root/etc/default/etcd" <<END
ETCD_NAME=$host
ETCD_DATA_DIR=/var/lib/etcd/test
ETCD_LISTEN_CLIENT_URLS=http://$(address "$host"):2379
ETCD_ADVERTISE_CLIENT_URLS=http://$(address "$host"):2379
ETCD_LISTEN_PEER_URLS=http://$(address "$host"):2380
ETCD_INITIAL_ADVERTISE_PEER_URLS=http://$(address "$host"):2380
ETCD_INITIAL_CLUSTER=${all%,}
ETCD_PRE_VOTE=true
END
    on "$host" systemctl enable -q etcd
    on "$host" systemctl restart --no-block etcd
}
configuration() {
    cat <<END
cluster = "test"
[etcd]
endpoints = ["http://172.30.90.1:2379", "http://172.30.90.2:2379", "http://172.30.90.3:2379"]
[postgres]
version = 15
advertise = "$(address "$1"):5432"
hba = ["host app app 172.30.90.0/24 scram-sha-256"]
[api]
listen = "$(address "$1"):8008"
END
}

# --- questions --------------------------------------------------------------------------------------------------------------------------------
pgvigil() { local host=$1; shift; on "$host" runuser -u postgres -- pgvigil "$@"; }
postmaster() { on "$1" head -n 1 /var/lib/postgresql/15/main/postmaster.pid; }
agent() { on "$1" systemctl show --property MainPID --value pgvigil@test; }
fencer() { on "$1" pgrep --exact pgvigil-fencer; }

# --- clients --------------------------------------------------------------------------------------------------------------------------------
export PGPASSWORD=only-for-this-test PGCONNECT_TIMEOUT=2
sql() { psql -XqAt -v ON_ERROR_STOP=1 "host=172.30.90.1,172.30.90.2,172.30.90.3 target_session_attrs=read-write user=app dbname=app" -c "$1"; }
# undisturbed WHAT HOST COMMAND...: afterwards the same node leads, with the same Postgres, and another agent than before
undisturbed() {
    local what=$1 host=$2 led postgres was
    shift 2
    led=$(leader) postgres=$(postmaster "$host") was=$(agent "$host")
    measured "$what" "$@"
    until_true 20 "$what: another agent" another_agent "$host" "$was"
    until_true 30 "$what: everybody streams" whole
    if [ "$(postmaster "$host")" != "$postgres" ]; then fail "$what: Postgres was restarted"; fi
    if [ "$(leader)" != "$led" ]; then fail "$what: $led leads no longer"; fi
}
another_agent() { local now; now=$(agent "$1"); [ "$now" != 0 ] && [ "$now" != "$2" ]; }

# --- the play ---------------------------------------------------------------------------------------------------------------------------------
version=0.1.0+test
package=$(PGVIGIL_DEB_COMPRESSION="-Zgzip -z1" scripts/deb.sh "${PGVIGIL_BINARIES:-target/release}" "$work/first")
next_package=$(PGVIGIL_DEB_COMPRESSION="-Zgzip -z1" PGVIGIL_DEB_VERSION=$version scripts/deb.sh "${PGVIGIL_BINARIES:-target/release}" "$work/next")
make_base
network
for host in "${hosts[@]}"; do start_host "$host"; done
for host in "${hosts[@]}"; do until_true 60 "$host has booted" up "$host"; done
for host in "${hosts[@]}"; do
    start_etcd "$host"
    cp "$package" "$work/$host/root/root/first.deb"
    cp "$next_package" "$work/$host/root/root/next.deb"
    on "$host" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq /root/first.deb >"$work/told" 2>&1 || { cat "$work/told"; fail "the package on $host"; }
    if [ -n "$(on "$host" systemctl list-units --plain --no-legend 'pgvigil@*')" ]; then fail "an installation started something"; fi
    on "$host" id postgres | grep -q pgvigil || fail "postgres is not in the group pgvigil"
done
echo "installed on three clean hosts: $(on pg1 pgvigil --version)"
on pg1 systemd-analyze verify pgvigil@test.service >"$work/told" 2>&1 || { cat "$work/told"; fail "systemd-analyze verify"; }
if [ -s "$work/told" ]; then cat "$work/told"; fail "systemd-analyze verify has something to say"; fi
on pg1 systemd-analyze security --no-pager --threshold=38 pgvigil@test.service >"$work/told" 2>&1 || { cat "$work/told"; fail "the unit exposes more than 3.8"; }
echo "systemd-analyze verify: nothing; security: $(tail -n 1 "$work/told" | sed 's/^[^O]*//')"

for host in "${hosts[@]}"; do on "$host" pg_dropcluster --stop 15 main; done
by_hand() {
    for host in "${hosts[@]}"; do
        configuration "$host" >"$work/$host/root/etc/pgvigil/test.toml"
        on "$host" systemctl enable --now -q pgvigil@test
    done
}
by_ansible() {
    ssh-keygen -q -t ed25519 -N "" -f "$work/key"
    for host in "${hosts[@]}"; do
        install -D --mode 600 "$work/key.pub" "$work/$host/root/root/.ssh/authorized_keys"
        on "$host" systemctl start ssh
    done
    {
        echo "[pgvigil]"
        for host in "${hosts[@]}"; do echo "$host ansible_host=$(address "$host")"; done
        cat <<END
[pgvigil:vars]
ansible_user=root
ansible_ssh_private_key_file=$work/key
ansible_ssh_common_args=-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null
ansible_python_interpreter=/usr/bin/python3
pgvigil_cluster=test
pgvigil_package=$package
pgvigil_etcd_endpoints=["http://172.30.90.1:2379", "http://172.30.90.2:2379", "http://172.30.90.3:2379"]
pgvigil_hba=["host app app 172.30.90.0/24 scram-sha-256"]
pgvigil_parameters={"work_mem": "5MB"}
END
    } >"$work/inventory"
    play site.yml
    # Once more, with nothing to do.
    play site.yml
    if grep -E '^pg[123] .*changed=[1-9]' "$work/told"; then cat "$work/told"; fail "the second run changed something"; fi
    echo "set up by $("$PGVIGIL_ANSIBLE" --version | head -n 1); a second run changes nothing"
}
play() {
    (cd packaging/ansible && LANG=C.UTF-8 ANSIBLE_NOCOLOR=1 "$PGVIGIL_ANSIBLE" -i "$work/inventory" "$@") >"$work/told" 2>&1 || { tail -n 40 "$work/told"; fail "ansible-playbook $*"; }
}
if [ -n "${PGVIGIL_ANSIBLE:-}" ]; then by_ansible; else by_hand; fi
until_true 90 "three members that stream" whole
first=$(leader)
on "$first" runuser -u postgres -- psql -XqAt -c "create role app login password '$PGPASSWORD'" -c "create database app owner app"
begin_writer
asks=$(other_than "$first")

measured "nothing, for comparison" sleep 5
undisturbed "agent of the leader restarted (systemctl restart)" "$first" on "$first" systemctl restart pgvigil@test
undisturbed "agent of the leader killed (SIGKILL)" "$first" on "$first" systemctl kill --kill-whom=main --signal=KILL pgvigil@test
undisturbed "agent of the leader hung (SIGSTOP), killed by systemd's watchdog" "$first" on "$first" sh -c "kill -STOP $(agent "$first"); sleep 5"
undisturbed "agent and fencer of the leader killed at once" "$first" on "$first" sh -c "kill -KILL $(agent "$first") $(fencer "$first")"
measured "file read again (systemctl reload)" on "$first" systemctl reload pgvigil@test

install_next() { on "$1" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --reinstall /root/next.deb; }
if [ -n "${PGVIGIL_ANSIBLE:-}" ]; then
    postmasters() { for host in "${hosts[@]}"; do postmaster "$host"; done; }
    were=$(postmasters)
    measured "package upgraded on all hosts by packaging/ansible" play upgrade.yml -e "pgvigil_package=$next_package"
    if [ "$(postmasters)" != "$were" ]; then fail "an upgrade by Ansible restarted a Postgres"; fi
    if [ "$(leader)" != "$first" ]; then fail "an upgrade by Ansible cost the lead"; fi
fi
for host in "${hosts[@]}"; do
    if [ "$host" != "$first" ]; then undisturbed "package upgraded on the standby $host" "$host" install_next "$host"; fi
done
# An agent that the next version would not start is left alone.
echo 'no_such_key = 1' | cat - "$work/$first/root/etc/pgvigil/test.toml" >"$work/wrong"
cp "$work/$first/root/etc/pgvigil/test.toml" "$work/right"
was=$(agent "$first")
cat "$work/wrong" >"$work/$first/root/etc/pgvigil/test.toml"
install_next "$first" >"$work/told" 2>&1
if [ "$(agent "$first")" != "$was" ]; then fail "an agent was ended that cannot start again"; fi
grep -q "no_such_key" "$work/told" || { cat "$work/told"; fail "the upgrade does not say why the agent was left"; }
cat "$work/right" >"$work/$first/root/etc/pgvigil/test.toml"
echo "package upgraded on the leader $first with a mistake in its file: the agent was left, and told"
undisturbed "package upgraded on the leader $first" "$first" on "$first" apt-get install -y -qq --reinstall /root/next.deb
on "$first" dpkg-query --show --showformat '${Version}' pgvigil | grep -qx "$version" || fail "not the next version"
if on "$first" readlink "/proc/$(agent "$first")/exe" | grep -q deleted; then fail "the old program runs"; fi

stop() {
    on "$first" systemctl stop pgvigil@test
    until_true 30 "another leads" leads_other_than "$first"
}
measured "agent of the leader $first stopped (systemctl stop)" stop
if on "$first" pgrep --exact postgres >/dev/null; then fail "Postgres of a leader without an agent lives"; fi
on "$first" systemctl start pgvigil@test
until_true 60 "$first is back" whole

first=$(leader)
asks=$(other_than "$first")
reboot() {
    on "$first" systemctl reboot || true
    until_true 30 "another leads" leads_other_than "$first"
}
measured "host of the leader $first rebooted" reboot
# All its processes have been ended by its systemd, as on a host; the container itself is not begun again by itself.
wait "${nspawn[$first]}" || true
boot "$first"
until_true 60 "$first has booted" up "$first"
until_true 90 "$first is back after its reboot" whole

standby=$(other_than "$(leader)")
asks=$(leader)
postgres=$(postmaster "$standby")
measured "package removed from the standby $standby" on "$standby" env DEBIAN_FRONTEND=noninteractive apt-get purge -y -qq pgvigil
if [ "$(postmaster "$standby")" != "$postgres" ]; then fail "the removal ended Postgres"; fi
on "$standby" test -e /etc/pgvigil/test.toml || fail "the removal took an administrator's file"

no_row_is_lost

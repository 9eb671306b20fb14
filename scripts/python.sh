# Python packages for tests and comparisons, each in one version, so that two runs meet the same program. To be sourced.

patroni_pins=(
    patroni==4.1.5 psycopg==3.3.9 psycopg-binary==3.3.9 python-etcd==0.4.5 dnspython==2.9.2 urllib3==2.8.0 psutil==7.2.2 PyYAML==6.0.4
    python-dateutil==4.0.0 click==8.5.1 prettytable==3.18.0 wcwidth==0.9.4 ydiff==1.4.2 typing_extensions==4.16.0
)
check_patroni_pins=(
    check_patroni==2.2.0 nagiosplugin==1.4.0 attrs==26.1.0 requests==2.34.2 urllib3==2.8.0 certifi==2026.10.19.post1 idna==3.20
    charset-normalizer==3.5.3 click==8.5.1
)

# python_packages DIRECTORY PACKAGE==VERSION...: a virtual environment with these packages and no others. Nothing happens when it is there.
python_packages() {
    local venv=$1
    shift
    if [ -x "$venv/bin/python" ] && [ "$(cat "$venv/pinned" 2>/dev/null)" = "$*" ]; then return; fi
    echo "Python packages are installed in $venv." >&2
    rm -rf "$venv"
    mkdir -p "$(dirname "$venv")"
    # Debian's own Python: the user postgres runs it, and may not reach another one in somebody's home.
    /usr/bin/python3 -m venv "$venv" || return
    local pip=("$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps)
    "${pip[@]}" wheel==0.45.1 >&2 && "${pip[@]}" "$@" >&2 || return
    echo "$*" >"$venv/pinned"
}

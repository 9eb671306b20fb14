# Python packages for tests and comparisons, each in one version, so that two runs meet the same program. To be sourced.

patroni_pins=(
    patroni==4.1.5 psycopg==3.3.9 psycopg-binary==3.3.9 python-etcd==0.4.5 dnspython==2.9.2 urllib3==2.8.0 psutil==7.2.2 PyYAML==6.0.4
    python-dateutil==4.0.0 click==8.5.1 prettytable==3.18.0 wcwidth==0.9.4 ydiff==1.4.2 typing_extensions==4.16.0
)
check_patroni_pins=(
    check_patroni==2.2.0 nagiosplugin==1.4.0 attrs==26.1.0 requests==2.34.2 urllib3==2.8.0 certifi==2026.10.19.post1 idna==3.20
    charset-normalizer==3.5.3 click==8.5.1
)

schemathesis_pins=(
    schemathesis==4.32.5 anyio==4.16.0 attrs==26.1.0 certifi==2026.10.19.post1 charset-normalizer==3.5.3 click==8.5.1 graphql-core==3.3.2
    harfile==0.6.0 hypothesis==6.170.17 hypothesis-graphql==0.13.5 idna==3.20 iniconfig==2.3.1 jsonschema_rs==0.60.3 markdown-it-py==4.3.0
    MarkupSafe==3.0.4 mdurl==0.1.2 packaging==26.4 pluggy==1.7.0 Pygments==2.21.0 pyrate-limiter==4.5.1 pytest==9.2.0 PyYAML==6.0.4
    requests==2.34.2 rich==15.0.0 sortedcontainers==2.4.0 typing_extensions==4.16.0 urllib3==2.8.0 Werkzeug==3.1.9
)

# Terraform's own parser, as a library: Terraform itself is in no registry of packages.
terraform_pins=(pygohcl==1.2.9 cffi==2.1.1 pycparser==3.12)

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

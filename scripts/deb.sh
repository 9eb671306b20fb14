#!/bin/bash
# Makes the Debian package and prints where it is: deb.sh [DIRECTORY OF THE BINARIES] [DIRECTORY FOR THE PACKAGE], target/release and target/deb
# otherwise. Needs dpkg-dev and binutils. The C library of this host is the oldest that the package installs on. PGVIGIL_DEB_VERSION overrides the version of
# Cargo.toml, DEBFULLNAME and DEBEMAIL the maintainer, PGVIGIL_DEB_COMPRESSION (-Zxz) trades size for time.
set -euo pipefail
binaries=$(realpath "${1:-${CARGO_TARGET_DIR:-target}/release}")
into=$(realpath --canonicalize-missing "${2:-target/deb}")
cd "$(dirname "$0")/.."

version=${PGVIGIL_DEB_VERSION:-$(sed -n '/^\[workspace.package\]/,/^$/s/^version = "\(.*\)"/\1/p' Cargo.toml)}
maintainer="${DEBFULLNAME:-pgvigil maintainers} <${DEBEMAIL:-maintainers@pgvigil.invalid}>"
architecture=$(dpkg --print-architecture)
# The same commit makes the same package.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat --format %Y CHANGELOG.md)}
export SOURCE_DATE_EPOCH

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
put() { install -D --mode "$1" "$2" "$root$3"; }

put 755 "$binaries/pgvigil" /usr/bin/pgvigil
put 755 "$binaries/pgvigil-fencer" /usr/bin/pgvigil-fencer
strip --remove-section=.comment --remove-section=.note "$root"/usr/bin/*
put 644 packaging/systemd/pgvigil@.service /lib/systemd/system/pgvigil@.service
put 644 packaging/systemd/pgvigil.toml.example /etc/pgvigil/pgvigil.toml.example

mkdir -p "$work/man"
"$binaries/pgvigil" man "$work/man" 2>/dev/null
cp packaging/deb/pgvigil-fencer.8 "$work/man"
for page in "$work"/man/*; do
    gzip --best --no-name "$page"
    put 644 "$page.gz" "/usr/share/man/man${page##*.}/$(basename "$page").gz"
done
"$binaries/pgvigil" completions bash >"$work/bash"
"$binaries/pgvigil" completions zsh >"$work/zsh"
"$binaries/pgvigil" completions fish >"$work/fish"
put 644 "$work/bash" /usr/share/bash-completion/completions/pgvigil
put 644 "$work/zsh" /usr/share/zsh/vendor-completions/_pgvigil
put 644 "$work/fish" /usr/share/fish/vendor_completions.d/pgvigil.fish

documents=/usr/share/doc/pgvigil
# Uncompressed, for the unit and every alert point at them.
(cd docs && find . -name '*.md' -not -path './adr/*' -printf '%P\n') | while read -r file; do put 644 "docs/$file" "$documents/$file"; done
put 644 packaging/deb/copyright "$documents/copyright"
put 644 packaging/deb/lintian-overrides /usr/share/lintian/overrides/pgvigil
put 644 packaging/prometheus/pgvigil.rules.yml "$documents/examples/prometheus/pgvigil.rules.yml"
put 644 packaging/prometheus/prometheus.yml "$documents/examples/prometheus/prometheus.yml"
put 644 packaging/prometheus/alertmanager.yml "$documents/examples/prometheus/alertmanager.yml"
for board in packaging/grafana/*.json; do put 644 "$board" "$documents/examples/grafana/$(basename "$board")"; done
cat >"$work/changelog" <<END
pgvigil ($version) unstable; urgency=medium

  * What has changed is told in CHANGELOG.md of the sources.

 -- $maintainer  $(date --utc --rfc-email --date "@$SOURCE_DATE_EPOCH")
END
gzip --best --no-name "$work/changelog"
put 644 "$work/changelog.gz" "$documents/changelog.gz"

mkdir -p "$work/debian" "$root/DEBIAN"
printf 'Source: pgvigil\n\nPackage: pgvigil\nArchitecture: any\n' >"$work/debian/control"
libraries=$(cd "$work" && dpkg-shlibdeps -O root/usr/bin/pgvigil root/usr/bin/pgvigil-fencer | sed -n 's/^shlibs:Depends=//p')
size=$(du --summarize --apparent-size --block-size 1024 "$root" | cut -f 1)
sed -e "s/@VERSION@/$version/" -e "s/@ARCHITECTURE@/$architecture/" -e "s/@MAINTAINER@/$maintainer/" -e "s/@SIZE@/$size/" \
    -e "s/@LIBRARIES@/$libraries/" packaging/deb/control >"$root/DEBIAN/control"
for script in postinst prerm postrm; do install --mode 755 packaging/deb/$script "$root/DEBIAN/$script"; done
(cd "$root" && find etc -type f -printf '/%p\n' | sort >DEBIAN/conffiles)
(cd "$root" && find usr lib -type f -print0 | sort --zero-terminated | xargs --null md5sum >DEBIAN/md5sums)
find "$root" -type d -exec chmod 755 {} +
find "$root" -newermt "@$SOURCE_DATE_EPOCH" -exec touch --no-dereference --date "@$SOURCE_DATE_EPOCH" {} +

mkdir -p "$into"
package=$into/pgvigil_${version}_$architecture.deb
read -ra compression <<<"${PGVIGIL_DEB_COMPRESSION:--Zxz}"
dpkg-deb --build --root-owner-group "${compression[@]}" "$root" "$package" >/dev/null
echo "$package"

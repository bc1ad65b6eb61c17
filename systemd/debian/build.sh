#!/bin/bash
# build.sh STAGE VERSION OUT: a Debian package of what `make stage` has put into STAGE, the same bytes on every machine.
# Needs dpkg-deb only. SOURCE_DATE_EPOCH says how old the files are, COMPRESSION how they are packed (xz).
set -euo pipefail
here=$(dirname "$0") stage=$1 version=$2 out=$3
: "${SOURCE_DATE_EPOCH:?}"

umask 022
control=$stage/DEBIAN
mkdir "$control"
size=$(du -sk --apparent-size --exclude=DEBIAN "$stage" | cut -f1)
sed "s/@VERSION@/$version/; s/@ARCH@/$(dpkg --print-architecture)/; s/@SIZE@/$size/" "$here/control" >"$control/control"
install -m755 "$here"/{postinst,prerm,postrm} "$control"
(cd "$stage" && find etc -type f -printf '/%p\n' | LC_ALL=C sort) >"$control/conffiles"
(cd "$stage" && find . -path ./DEBIAN -prune -o -type f -printf '%P\0' | LC_ALL=C sort -z | xargs -0 md5sum) >"$control/md5sums"
find "$stage" -newermt "@$SOURCE_DATE_EPOCH" -print0 | xargs -0r touch --no-dereference --date="@$SOURCE_DATE_EPOCH"
mkdir -p "$(dirname "$out")"
dpkg-deb --root-owner-group -Z"${COMPRESSION:-xz}" --build "$stage" "$out" >/dev/null

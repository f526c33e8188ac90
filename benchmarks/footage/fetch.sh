#!/usr/bin/env bash
# Gets the five videos that the annotations beside this file speak of, on Debian or Ubuntu:
#   benchmarks/footage/fetch.sh [FOLDER]     (runs/footage, which git ignores)
# They are OpenCV's own samples, in the package opencv-doc (96 MB), which is unpacked, not installed.
set -euo pipefail
folder=$(realpath -m "${1:-$(dirname "$0")/../../runs/footage}")
command -v apt-get dpkg-deb > /dev/null || {
    echo "apt-get and dpkg-deb are needed; elsewhere copy the videos of OpenCV's samples to $folder" >&2
    exit 1
}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
apt-get download opencv-doc || {
    echo "apt found no opencv-doc; run 'apt-get update' as root, and enable universe on Ubuntu" >&2
    exit 1
}
dpkg-deb --fsys-tarfile opencv-doc_*.deb | tar -x --wildcards '*/vtest.avi*' '*/tree.avi*' \
    '*/Megamind.avi*' '*/box.mp4*' '*/cup.mp4*'
find usr -name '*.gz' -exec gunzip {} +
mkdir -p "$folder"
find usr -type f -exec mv {} "$folder" \;
cd "$folder"
# Annotations hold for these bytes only.
sha256sum -c << 'SUMS'
45cddc9490be69345cbdab64ca583be65987e864ca408038e648db99e10516cf  vtest.avi
4666099d0f704e310047b2f0a5ec9f936cb76a7271de9a2e70a0c57f82ac82dc  tree.avi
0057387cb7e75c8fd1663b62cfdc51fa53f527795d0fe3c1fea2fd159d3130b5  Megamind.avi
62b744b99403f899707c43398a3822441add6160379ab6dd6c12bde9e3075f8d  box.mp4
37db9cee98f70b1458985a15ad2e5b0183e90e24c281b534afcf812e5986154f  cup.mp4
SUMS

#!/bin/sh
# Distribution packages that tests use. Debian and its kin; elsewhere this names them and changes nothing.
set -eu
packages="g++ make xz-utils g++-aarch64-linux-gnu qemu-user prometheus mandoc zsh fish systemd dpkg"

missing=""
for package in $packages; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok' || missing="$missing $package"
done
if [ -z "$missing" ]; then
    echo "system packages: all there ($packages)"
elif ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
    echo "please install:$missing   (as root: apt-get install$missing)"
else
    apt-get update -qq && apt-get install -qq -y --no-install-recommends $missing
fi

#!/bin/sh
# Distribution packages that tests use. Debian and its kin; elsewhere this names them and changes nothing.
set -eu
packages="g++ make xz-utils g++-aarch64-linux-gnu qemu-user prometheus mandoc zsh fish systemd dpkg"
[ "$(uname -m)" = x86_64 ] && packages="$packages qemu-system-x86"

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

# The kernel of the guest (tests/hardware/guest): only unpacked, for a kernel that is installed changes how this machine
# starts. 27 MB to fetch, 14 MB kept.
guest="${XDG_CACHE_HOME:-$HOME/.cache}/thaloom-guest"

fetch_kernel() {  # into the empty folder $1
    image=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | sed -n 's/.*Depends: \(linux-image-[^ ]*\).*/\1/p' | head -n 1)
    [ -n "$image" ] && (cd "$1" && rm -f -- *.deb && apt-get -o APT::Sandbox::User=root download -qq "$image") &&
        dpkg-deb -x "$1"/*.deb "$1/root" && kernel=$(basename "$1"/root/boot/vmlinuz-*) && mkdir -p "$guest" &&
        cp "$1/root/boot/$kernel" "$guest/$kernel.partial" && mv "$guest/$kernel.partial" "$guest/$kernel"
}

if [ "$(uname -m)" != x86_64 ] || ls "$guest"/vmlinuz-*-cloud-amd64 >/dev/null 2>&1; then
    exit 0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if command -v apt-get >/dev/null && { fetch_kernel "$work" || { apt-get update -qq && fetch_kernel "$work"; }; }; then
    echo "kernel of the guest: $guest/$kernel"
else
    echo "no kernel of the guest: put the vmlinuz of Debian's linux-image-cloud-amd64 into $guest"
fi

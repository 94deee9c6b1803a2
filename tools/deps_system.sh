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
if [ "$(uname -m)" != x86_64 ] || ls "$guest"/vmlinuz-*-cloud-amd64 >/dev/null 2>&1; then
    :
elif ! command -v apt-get >/dev/null; then
    echo "no kernel for the guest: put the vmlinuz of Debian's linux-image-cloud-amd64 into $guest"
else
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    if image=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | sed -n 's/.*Depends: \(linux-image-[^ ]*\).*/\1/p' | head -n 1) &&
        [ -n "$image" ] && (cd "$work" && apt-get -o APT::Sandbox::User=root download -qq "$image") && dpkg-deb -x "$work"/*.deb "$work/root"; then
        mkdir -p "$guest"
        kernel=$(basename "$work"/root/boot/vmlinuz-*)
        cp "$work/root/boot/$kernel" "$guest/$kernel.partial" && mv "$guest/$kernel.partial" "$guest/$kernel"
        echo "kernel of the guest: $guest/$kernel"
    else
        echo "no kernel for the guest: this distribution has no linux-image-cloud-amd64 to fetch"
    fi
fi

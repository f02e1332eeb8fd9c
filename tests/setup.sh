#!/bin/sh
# Install the Debian packages that the tests and the demo need: those of tests/packages.txt, or of another list, that are not installed yet.
# Nothing missing: nothing done, and no root needed.
set -eu

list=${1:-$(dirname "$0")/packages.txt}

if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
    echo "setup: this machine has no apt-get. Install by its own means what these Debian packages hold:" >&2
    cat "$list" >&2
    exit 1
fi

# "Provides" counts too: Ubuntu has renamed some packages (libfuse2t64 provides libfuse2).
# shellcheck disable=SC2016 # the ${…} are dpkg-query's
installed=$(
    dpkg-query --show --showformat '${db:Status-Status} ${Package}, ${Provides}\n' |
        sed -n 's/^installed //p' | tr ',' '\n' | sed 's/^ *//; s/ .*//' | sort -u
)
missing=$(sed '/^#/d; /^$/d' "$list" | grep -vxF -e "$installed" | tr '\n' ' ') || true
if [ -z "$missing" ]; then
    exit 0
fi

echo "setup: installing $missing"
if [ "$(id -u)" = 0 ]; then
    as_root=""
elif command -v sudo >/dev/null; then
    as_root=sudo
else
    echo "setup: installing packages needs root, and there is no sudo here. Run as root: apt-get install $missing" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
$as_root apt-get update --quiet
# Replacing what is there (such as fuse by fuse3) is apt's decision, never forced; no recommended packages: nothing here is a desktop.
# shellcheck disable=SC2086 # a list of names
$as_root apt-get install --quiet --yes --no-install-recommends $missing

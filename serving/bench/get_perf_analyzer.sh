#!/bin/sh
# Fetch Triton's perf_analyzer into FOLDER, without changing the system; run it as FOLDER/perf_analyzer.
#
# Its wheel is built for glibc 2.38. Where the system's is older, as on Debian 12, the C library and what else it needs
# are taken from Debian 13, by this system's own mirror and keys, and its loader starts the program.
set -eu

VERSION=2.60.0
RELEASE=trixie
PACKAGES="libc6 libstdc++6 libgcc-s1 libssl3t64 zlib1g libzstd1"

[ $# -eq 1 ] || { echo "usage: $0 FOLDER" >&2; exit 2; }
mkdir -p "$1"
cd "$1"
folder=$(pwd)

${PYTHON:-python3} -m pip download --quiet --no-deps --only-binary :all: --platform manylinux_2_38_x86_64 \
    --python-version 3.12 "perf-analyzer==$VERSION"
${PYTHON:-python3} -m zipfile -e perf_analyzer-$VERSION-*.whl wheel
program=$folder/wheel/perf_analyzer/bin/perf_analyzer
chmod +x "$program"

if "$program" --version >/dev/null 2>&1; then
    ln -sf "$program" perf_analyzer
else
    mirror=$(apt-get indextargets --format '$(SITE) $(RELEASE)' | awk '/\/debian / { print $1; exit }')
    keys=/usr/share/keyrings/debian-archive-keyring.gpg
    mkdir -p apt/lists/partial apt/archives/partial packages root
    echo "deb [signed-by=$keys] ${mirror:?no mirror of Debian is configured} $RELEASE main" > apt/sources.list
    options="-o Dir::Etc::sourcelist=$folder/apt/sources.list -o Dir::Etc::sourceparts=/dev/null
        -o Dir::State::lists=$folder/apt/lists -o Dir::State::status=/dev/null -o Dir::Cache=$folder/apt -o APT::Sandbox::User="
    apt-get -qq $options update
    (cd packages && apt-get -qq $options download $PACKAGES)
    for package in packages/*.deb; do dpkg-deb -x "$package" root; done
    libraries=$folder/root/usr/lib/x86_64-linux-gnu
    printf '#!/bin/sh\nexec "%s" --library-path "%s" "%s" "$@"\n' \
        "$libraries/ld-linux-x86-64.so.2" "$libraries" "$program" > perf_analyzer
    chmod +x perf_analyzer
fi
./perf_analyzer --version

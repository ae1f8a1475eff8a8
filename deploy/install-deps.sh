#!/usr/bin/env bash
# Installs the Debian packages Understudy needs, and only those that are missing. Says nothing and touches nothing when
# none is. Root is needed only to install.
#
#   deploy/install-deps.sh             to build it, run it and run deploy/demo.sh
#   deploy/install-deps.sh --tests     also what tests/run.sh uses. The kernel of the guest that a test boots is not installed, which
#                                      would change how this machine boots, but unpacked into ~/.cache/understudy/guest (120 MB)
#   deploy/install-deps.sh --bench     also what tests/bench/run.sh uses
#   deploy/install-deps.sh --lint      also clang, clang-tidy and clang-format
#   deploy/install-deps.sh --image     what deploy/image.sh needs, and nothing else
#   deploy/install-deps.sh --runtime   what installed binaries need to run, and nothing else
set -euo pipefail

# libgrpc++-dev depends on none of protobuf, c-ares and re2, though its headers and CMake files need them.
BUILD=(
  g++ cmake ninja-build pkg-config ccache git ca-certificates
  libgrpc++-dev protobuf-compiler-grpc protobuf-compiler libprotobuf-dev libc-ares-dev libre2-dev
  libabsl-dev librocksdb-dev prometheus-cpp-dev libcli11-dev libgtest-dev libgmock-dev
  nbdkit nbdkit-plugin-dev libxxhash-dev
)
DEMO=(libnbd-bin qemu-utils e2fsprogs util-linux jq curl)
TESTS=(prometheus python3 fio clang-format xfsprogs qemu-system-x86)
BENCH=(fio python3 xfsprogs)
LINT=(clang clang-tidy clang-format)
IMAGE=(buildah mmdebstrap ca-certificates)
RUNTIME=(
  ca-certificates nbdkit
  libgrpc++1.51 libprotobuf32 librocksdb7.8
  libprometheus-cpp-core1.0 libprometheus-cpp-pull1.0
)

wanted=("${BUILD[@]}" "${DEMO[@]}")
guest=
for group in "$@"; do
  case $group in
    --tests) wanted+=("${TESTS[@]}") guest=${XDG_CACHE_HOME:-$HOME/.cache}/understudy/guest ;;
    --bench) wanted+=("${BENCH[@]}") ;;
    --lint) wanted+=("${LINT[@]}") ;;
    --image) wanted=("${IMAGE[@]}") ;;
    --runtime) wanted=("${RUNTIME[@]}") ;;
    *)
      echo "install-deps.sh: unknown group '$group' (--tests, --bench, --lint, --image, --runtime)" >&2
      exit 2
      ;;
  esac
done

installed=$(dpkg-query --show --showformat '${db:Status-Abbrev} ${Package}\n' | sed -n 's/^ii *//p')
mapfile -t missing < <(printf '%s\n' "${wanted[@]}" | sort -u | grep -vxFf <(echo "$installed") || true)
export DEBIAN_FRONTEND=noninteractive

install_missing() {
  if ((EUID != 0)); then
    echo "install-deps.sh: run as root to install: ${missing[*]}" >&2
    exit 1
  fi
  echo "installing ${#missing[@]} packages: ${missing[*]}"

  # The prometheus package is here for promtool: its server must neither start now (policy-rc.d) nor at the next boot.
  policy=/usr/sbin/policy-rc.d
  if [[ ! -e $policy ]]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod 755 "$policy"
  fi

  log=$(mktemp)
  if ! { apt-get update -qq && apt-get install -qq --no-install-recommends "${missing[@]}"; } > "$log" 2>&1 < /dev/null; then
    cat "$log" >&2
    echo "install-deps.sh: apt-get failed; its output is above" >&2
    rm -f "$log"
    exit 1
  fi
  rm -f "$log"
  if [[ " ${missing[*]} " == *' prometheus '* ]] && command -v systemctl > /dev/null; then
    systemctl --quiet disable prometheus.service 2> /dev/null || true
  fi
}

# Debian's newest cloud kernel and busybox, for tests/integration/guest.py.
unpack_guest() {
  local work=$guest.new kernel
  rm -rf "$work" && mkdir -p "$work/root" && cd "$work" &&
    { ((EUID != 0)) || apt-get update -qq; } &&
    kernel=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p') &&
    apt-get download -qq -o APT::Sandbox::User=root "$kernel" busybox-static &&
    for package in *.deb; do dpkg-deb -x "$package" root || return; done &&
    mv root "$guest" && rm -rf "$work"
}

((${#missing[@]} == 0)) || install_missing
if [[ -n $guest && ! -d $guest && $(dpkg --print-architecture) == amd64 ]]; then
  echo "unpacking a kernel and busybox for guest_test into $guest"
  (unpack_guest) > /dev/null < /dev/null || echo "install-deps.sh: that failed; guest_test will be skipped" >&2
fi

#!/usr/bin/env bash
# Installs the Debian packages Understudy needs, and only those that are missing. Says nothing and touches nothing when
# none is. Root is needed only to install.
#
#   deploy/install-deps.sh             to build it, run it and run deploy/demo.sh
#   deploy/install-deps.sh --tests     also what tests/run.sh uses
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
for group in "$@"; do
  case $group in
    --tests) wanted+=("${TESTS[@]}") ;;
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
((${#missing[@]})) || exit 0

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

export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
install_missing() {
  apt-get update -qq && apt-get install -qq --no-install-recommends "${missing[@]}"
}
if ! install_missing > "$log" 2>&1 < /dev/null; then
  cat "$log" >&2
  echo "install-deps.sh: apt-get failed; its output is above" >&2
  rm -f "$log"
  exit 1
fi
rm -f "$log"
if [[ " ${missing[*]} " == *' prometheus '* ]] && command -v systemctl > /dev/null; then
  systemctl --quiet disable prometheus.service 2> /dev/null || true
fi

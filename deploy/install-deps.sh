#!/usr/bin/env bash
# Installs the Debian packages Understudy needs, and only those that are missing. Says nothing and touches nothing when
# none is. Root is needed only to install. While another apt, dpkg or copy of this is at work, it waits its turn: for ten minutes,
# or UNDERSTUDY_APT_WAIT seconds. What takes longer than ten seconds says how far it is (UNDERSTUDY_TICK: other than ten).
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
  libxxhash-dev mold
)
DEMO=(libnbd-bin qemu-utils e2fsprogs util-linux jq curl)
TESTS=(nbdkit prometheus python3 python3-libnbd fio clang libclang-rt-dev clang-format xfsprogs btrfs-progs qemu-system-x86)
BENCH=(nbdkit fio python3 xfsprogs)
LINT=(clang clang-tidy clang-format)
IMAGE=(buildah mmdebstrap ca-certificates)
RUNTIME=(
  ca-certificates
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

export DEBIAN_FRONTEND=noninteractive
wait_max=${UNDERSTUDY_APT_WAIT:-600}
tick=${UNDERSTUDY_TICK:-10}

find_missing() {
  local installed
  installed=$(dpkg-query --show --showformat '${db:Status-Abbrev} ${Package}\n' | sed -n 's/^ii *//p')
  mapfile -t missing < <(printf '%s\n' "${wanted[@]}" | sort -u | grep -vxFf <(echo "$installed") || true)
}
guest_is_missing() { [[ -n $guest && ! -d $guest && $(dpkg --print-architecture) == amd64 ]]; }

# One copy of this at a time, of whichever checkout: what one has installed the next need not, and none takes policy-rc.d from
# another. Held until the end of this shell; the lock leaves no file, and means nothing to dpkg.
take_turn() {
  exec 9< /var/lib/dpkg
  flock -w 2 9 && return
  echo "waiting for another install-deps.sh" >&2
  flock -w "$wait_max" 9 && return
  echo "install-deps.sh: another install-deps.sh has been at work for $wait_max s; wait for it or end it, then try again" >&2
  exit 1
}

# say_how_far FILE: the newest of what apt notes there, as "pmstatus:PACKAGE:PERCENT:TEXT", every few seconds.
say_how_far() {
  while sleep "$tick" &> /dev/null && kill -0 $$ 2> /dev/null; do
    tail -n 1 "$1" | sed -n 's/^[a-z]*:[^:]*:\([0-9]*\)[^:]*:\(.*\)/  \1 %, \2/p' >&2
  done
}

# apt_get ARGUMENT...: waits for every lock that apt takes. Its own DPkg::Lock::Timeout is for those of dpkg, not for those of the
# lists and of the downloaded packages.
apt_get() {
  local log lock ticker start=$SECONDS said="" status=0
  log=$(mktemp)
  say_how_far "$log.status" 9<&- &
  ticker=$!
  while ! LC_ALL=C apt-get -qq -o APT::Status-Fd=8 "$@" > "$log" 2>&1 < /dev/null 8> "$log.status" 9<&-; do
    lock=$(sed -n 's/^E: Could not get lock \([^ ]*\)\. It is held by /\1, held by /p
      s/^dpkg: error: \(.* lock\) was locked by another process with pid /the \1, held by process /p' "$log" | head -n 1)
    if [[ -z $lock ]]; then
      cat "$log" >&2
      echo "install-deps.sh: apt-get $1 failed; its output is above" >&2
      status=1
      break
    fi
    if ((SECONDS - start >= wait_max)); then
      echo "install-deps.sh: apt-get $1 has waited $wait_max s for $lock; wait for that process or end it, then try again" >&2
      status=1
      break
    fi
    if [[ -z $said ]] && ((SECONDS - start >= 2)); then
      echo "waiting for $lock" >&2
      said=1
    fi
    sleep 0.5
  done
  kill "$ticker" 2> /dev/null || true
  rm -f "$log" "$log.status"
  return "$status"
}

install_missing() {
  if ((EUID != 0)); then
    echo "install-deps.sh: run as root to install: ${missing[*]}" >&2
    exit 1
  fi
  echo "installing ${#missing[@]} packages: ${missing[*]}"

  # The prometheus package is here for promtool: its server must neither start now (policy-rc.d) nor at the next boot.
  policy=/usr/sbin/policy-rc.d
  if [[ " ${missing[*]} " == *' prometheus '* && ! -e $policy ]]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod 755 "$policy"
  fi
  apt_get update && apt_get install --no-install-recommends "${missing[@]}" || exit 1
  if [[ " ${missing[*]} " == *' prometheus '* ]] && command -v systemctl > /dev/null; then
    systemctl --quiet disable prometheus.service 2> /dev/null || true
  fi
}

# Debian's newest cloud kernel and busybox, for tests/integration/guest.py.
unpack_guest() {
  local work=$guest.new kernel
  rm -rf "$work" && mkdir -p "$work/root" && cd "$work" &&
    { ((EUID != 0)) || apt_get update; } &&
    kernel=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p') &&
    apt_get download -o APT::Sandbox::User=root "$kernel" busybox-static &&
    for package in *.deb; do dpkg-deb -x "$package" root || return; done &&
    mv root "$guest" && rm -rf "$work"
}

find_missing
if ((${#missing[@]} == 0)) && ! guest_is_missing; then exit 0; fi
take_turn
find_missing
((${#missing[@]} == 0)) || install_missing
if guest_is_missing; then
  echo "unpacking a kernel and busybox for guest_test into $guest"
  (unpack_guest) > /dev/null < /dev/null || echo "install-deps.sh: that failed; guest_test will be skipped" >&2
fi

#!/usr/bin/env bash
# deploy/install-deps.sh beside another apt. The real apt-get works in a root of its own: a repository of one small package, and a
# dpkg that only notes what it is told to unpack. Nothing is fetched from a network, nothing is installed.
#
# usage: install_deps_test.sh WORK_DIR       exit status 77 (skipped) without apt-get or python3, or where nobody can be root
set -euo pipefail
script=$(cd "$(dirname "$0")/../../deploy" && pwd)/install-deps.sh

skip() {
  echo "skipped: $*"
  exit 77
}
for tool in apt-get dpkg-deb flock python3; do
  command -v "$tool" > /dev/null || skip "no $tool"
done
if ((EUID != 0)); then
  unshare --map-root-user true 2> /dev/null || skip "not root, and no user namespaces"
  exec unshare --map-root-user "$0" "$@"
fi

rm -rf "$1"
mkdir -p "$1"
cd "$1"
root=$PWD/root
holder='' first='' second=''
fail() {
  echo "FAILED: $*"
  tail -n 20 ./*.out
  exit 1
}

# ---- a machine on which mmdebstrap is missing ---------------------------------------------------------------------------------

mkdir -p bin package/DEBIAN repository "$root"/{etc,dpkg,lists/partial,cache/archives/partial,log}
: > "$root/dpkg/status"
: > installed
printf 'Package: mmdebstrap\nVersion: 9\nArchitecture: all\nMaintainer: nobody\nDescription: nothing\n' > package/DEBIAN/control
dpkg-deb --build package repository/mmdebstrap.deb > deb.out
{
  cat package/DEBIAN/control
  printf 'Filename: ./mmdebstrap.deb\nSize: %s\n' "$(stat -c %s repository/mmdebstrap.deb)"
  printf 'SHA256: %s\n' "$(sha256sum repository/mmdebstrap.deb | cut -d ' ' -f 1)"
} > repository/Packages
echo "deb [trusted=yes] copy:$PWD/repository ./" > "$root/etc/sources.list"
cat > apt.conf << EOF
Dir::Etc "$root/etc"; Dir::Etc::parts "/dev/null"; Dir::Etc::main "none";
Dir::State "$root"; Dir::State::lists "$root/lists"; Dir::State::status "$root/dpkg/status";
Dir::Cache "$root/cache"; Dir::Log "$root/log";
Dir::Bin::dpkg "$PWD/bin/dpkg"; APT::Sandbox::User "root";
EOF
cat > bin/dpkg << EOF
#!/bin/sh
[ ! -e "$PWD/slow" ] || sleep 1
case " \$* " in *' --unpack '*) echo "ii  mmdebstrap" >> "$PWD/installed" ;; esac
EOF
cat > bin/dpkg-query << EOF
#!/bin/sh
printf 'ii  buildah\nii  ca-certificates\n'
cat "$PWD/installed"
EOF
chmod +x bin/*
export APT_CONFIG=$PWD/apt.conf PATH=$PWD/bin:$PATH

install() { "$script" --image < /dev/null; }
uninstall() { : > installed; }
installed_times() { wc -l < installed; }

# hold LOCK: as apt and dpkg hold theirs. Returns once it is held.
hold() {
  rm -f held
  python3 - "$@" << 'EOF' > held &
import fcntl, sys, time
with open(sys.argv[1], "w") as lock:
    fcntl.lockf(lock, fcntl.LOCK_EX)
    print("held", flush=True)
    time.sleep(120)
EOF
  holder=$!
  until [[ -s held ]]; do sleep 0.05; done
}
release() {
  kill "$holder"
  wait "$holder" || true
}
trap 'kill $holder $first $second 2> /dev/null || true' EXIT
# wait_for TEXT FILE...: until one of the files has it.
wait_for() {
  local deadline=$((SECONDS + 60))
  until grep -qF "$1" "${@:2}"; do
    ((SECONDS < deadline)) || fail "nobody says '$1'"
    sleep 0.1
  done
}

# ---- who else installs ---------------------------------------------------------------------------------------------------------

# Nobody: what does not go through install-deps.sh waits for no lock. (findings/ only downloads.)
others=$(cd "$(dirname "$script")/.." && grep -rlE '\b(apt|apt-get|aptitude) (-[^ ]+ )*(install|update|upgrade)\b|\bdpkg (-i|--install)\b' \
  --include='*.sh' --include='run' --include='Containerfile' --exclude-dir='build*' --exclude-dir=.git . \
  | grep -vxF -e ./deploy/install-deps.sh -e ./tests/deploy/install_deps_test.sh || true)
[[ -z $others ]] || fail "these install without deploy/install-deps.sh: $others"
echo "ok: whoever installs asks install-deps.sh"

# ---- the tests ----------------------------------------------------------------------------------------------------------------

install > free.out 2>&1 || fail "nobody is at work"
(($(installed_times) == 1)) || fail "installed $(installed_times) times"
grep -q waiting free.out && fail "it waits for nobody"
install > again.out 2>&1 || fail "nothing is missing"
[[ ! -s again.out ]] || fail "it talks though nothing is missing"
echo "ok: installs what is missing, says nothing when nothing is"

uninstall
: > slow
UNDERSTUDY_TICK=0.4 install > slow.out 2>&1 || fail "nobody is at work"
rm slow
grep -qE '^  [0-9]+ %, .' slow.out || fail "it does not say how far it is"
echo "ok: $(grep -m 1 ' %, ' slow.out)"

for lock in lists/lock dpkg/lock-frontend dpkg/lock cache/archives/lock; do
  uninstall
  hold "$root/$lock"
  install > held.out 2>&1 &
  first=$!
  wait_for "waiting for $root/$lock, held by process $holder (python3)" held.out
  (($(installed_times) == 0)) || fail "it went on though $lock was held"
  release
  wait "$first" || fail "it does not go on once $lock is free"
  (($(installed_times) == 1)) || fail "installed $(installed_times) times after $lock"
  (($(grep -c waiting held.out) == 1)) || fail "it says more than once that it waits"
  echo "ok: $(grep waiting held.out)"
done

uninstall
hold "$root/lists/lock"
UNDERSTUDY_APT_WAIT=3 install > late.out 2>&1 && fail "it installs beside a lock that is held"
grep -qF "apt-get update has waited 3 s for $root/lists/lock, held by process $holder (python3)" late.out \
  || fail "it does not say what it has waited for"
release
(($(installed_times) == 0)) || fail "installed beside a lock that is held"
echo "ok: $(tail -n 1 late.out)"

# Something else than a lock is not waited for.
mv repository/Packages repository/Nothing
rm -rf "$root"/lists/*_*
SECONDS=0
install > broken.out 2>&1 && fail "it installs from nowhere"
((SECONDS < 20)) || fail "it waits for a repository that is broken"
grep -q 'apt-get .* failed; its output is above' broken.out || fail "it does not say what failed"
mv repository/Nothing repository/Packages
echo "ok: $(tail -n 1 broken.out)"

uninstall
hold "$root/lists/lock"
install > first.out 2>&1 &
first=$!
install > second.out 2>&1 &
second=$!
wait_for 'waiting for another install-deps.sh' first.out second.out
release
wait "$first" || fail "the first of two copies"
wait "$second" || fail "the second of two copies"
(($(installed_times) == 1)) || fail "two copies installed $(installed_times) times"
echo "ok: two copies at once"

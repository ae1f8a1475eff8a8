#!/usr/bin/env bash
# deploy/demo.sh tells its story to the end with the programs that were just built, leaves nothing behind, and refuses what it
# does not know.
set -uo pipefail
cd "$(dirname "$0")/../.."
PATH=$PATH:/usr/sbin:/sbin
for tool in qemu-io nbdcopy nbdinfo mke2fs debugfs e2fsck jq; do
  command -v "$tool" > /dev/null || {
    echo "skipped, not installed: $tool"
    exit 77
  }
done
fail() {
  echo "FAILED: $*"
  exit 1
}

TMPDIR=$(mktemp -d)
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT
bin=$(dirname "$UNDERSTUDYCTL")

output=$(cd / && "$OLDPWD/deploy/demo.sh" --bin "$bin" 2>&1)
status=$?
echo "$output"
((status == 0)) || fail "demo.sh exited with $status"
grep -q '^PASSED' <<< "$output" || fail "no verdict"
for seen in \
  'the drill VM sees checkpoint 1' '/drilled: "written by the drill VM' 'the standby shows nothing of it' 'removed without trace'; do
  grep -q "✓ $seen" <<< "$output" || fail "the fire drill did not say: $seen"
done
grep -q $'\e' <<< "$output" && fail "colours without a terminal"
[[ -z $(ls -A "$TMPDIR") ]] || fail "left behind: $(ls -A "$TMPDIR")"

deploy/demo.sh --frobnicate > /dev/null 2>&1
(($? == 2)) || fail "an unknown argument was accepted"

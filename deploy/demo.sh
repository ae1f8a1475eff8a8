#!/usr/bin/env bash
# Understudy's story on real data, from an empty machine: a primary's writes reach the standby, a checkpoint shows them, the
# failover is tried on a clone while replication goes on, the primary dies, the standby takes over with exactly the disk of the
# checkpoint.
#
#   deploy/demo.sh              installs what is missing, builds into build/release, runs; about half a minute after the build
#   deploy/demo.sh --keep       leaves the disks and logs for you to look at
#   deploy/demo.sh --bin DIR    uses the programs in DIR instead of building
#
# Everything runs on this machine, over unix sockets in a temporary directory. Exit status: 0 if every comparison held.
set -euo pipefail
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PATH=$PATH:/usr/sbin:/sbin # mke2fs, for those who are not root
export LC_ALL=C.UTF-8

keep=
bin=
while (($#)); do
  case $1 in
    --keep) keep=1 ;;
    --bin)
      bin=$(realpath "${2:?--bin needs a directory}")
      shift
      ;;
    -h | --help)
      sed -n '2,/^set/{s/^# \{0,1\}//;/^set/d;p}' "${BASH_SOURCE[0]}"
      exit 0
      ;;
    *)
      echo "demo.sh: unknown argument '$1' (--keep, --bin DIR)" >&2
      exit 2
      ;;
  esac
  shift
done

# ---- how it talks ---------------------------------------------------------------------------------------------------------------

bold='' green='' red='' dim='' plain=''
if [[ -t 1 ]]; then
  bold=$'\e[1m' green=$'\e[32m' red=$'\e[31m' dim=$'\e[2m' plain=$'\e[0m'
fi
number=0
failures=0

step() {
  number=$((number + 1))
  printf '\n%s%2d  %s%s\n' "$bold" "$number" "$1" "$plain"
}
show() { printf '    %s\n' "${*//$'\n'/$'\n'    }"; }
good() { printf '    %s✓%s %s\n' "$green" "$plain" "$*"; }
bad() {
  failures=$((failures + 1))
  printf '    %s✗ %s%s\n' "$red" "$*" "$plain"
}
die() {
  bad "$*"
  exit 1
}
# expect WHAT FOUND EXPECTED: one line that says whether two checksums are equal.
expect() {
  if [[ $2 == "$3" ]]; then good "$1 (blake2b ${2:0:12})"; else bad "$1: blake2b ${2:0:12}, expected ${3:0:12}"; fi
}
mib() { awk -v bytes="$1" 'BEGIN { printf "%.1f MiB", bytes / 1048576 }'; }

# ---- programs -------------------------------------------------------------------------------------------------------------------

# progress LOG PID: how far the build that writes LOG is, until PID ends. Redrawn in place on a terminal; elsewhere a line for each
# tenth, and one after half a minute without.
progress() {
  local log=$1 builder=$2 start=$SECONDS told=$SECONDS tenth=0 compiled total percent now bar
  while kill -0 "$builder" 2> /dev/null; do
    compiled=0 total=0 percent=0
    # ninja says "[63/190] ..."; cmake before it does not.
    read -r compiled total < <(sed -n 's/^\[\([0-9]*\)\/\([0-9]*\)\].*/\1 \2/p' "$log" | tail -n 1) || true
    ((${total:=0} == 0)) || percent=$((100 * compiled / total))
    printf -v now '%d:%02d' $(((SECONDS - start) / 60)) $(((SECONDS - start) % 60))
    if [[ -t 1 ]]; then
      printf -v bar '%*s' $((percent / 5)) ''
      printf -v bar '[%-20s] %3d %%' "${bar// /#}" "$percent"
      if ((total)); then now="compiling $compiled of $total $bar $now"; else now="configuring $now"; fi
      printf '\r%s%s%s\e[K' "$dim" "$now" "$plain"
    elif ((percent / 10 != tenth || SECONDS - told >= 30)); then
      tenth=$((percent / 10)) told=$SECONDS
      if ((total)); then echo "compiled $compiled of $total, $now"; else echo "configuring, $now"; fi
    fi
    sleep 0.5
  done
  if [[ -t 1 ]]; then printf '\r\e[K'; fi
}

build() {
  "$repository/deploy/install-deps.sh"
  bin=$repository/build/release/bin
  local log=$repository/build/demo-build.log
  mkdir -p "$repository/build"
  : > "$log"
  printf '%sbuilding into build/release (a few minutes the first time, then seconds; log: build/demo-build.log)%s\n' \
    "$dim" "$plain"
  (
    cd "$repository"
    cmake --preset release && cmake --build --preset release \
      --target understudyd understudyctl understudy-agent understudy-inspect
  ) > "$log" 2>&1 < /dev/null &
  local builder=$!
  progress "$log" "$builder"
  if ! wait "$builder"; then
    tail -n 40 "$log" >&2
    die "the build failed; all of it is in $log"
  fi
}

[[ -n $bin ]] || build

dir=$(mktemp -d "${TMPDIR:-/tmp}/understudy-demo.XXXXXX")
service_pid=
agent_pid=
clean_up() {
  local status=$? pid
  for pid in $agent_pid $service_pid; do
    kill -9 "$pid" 2> /dev/null || true
    wait "$pid" 2> /dev/null || true
  done
  if ((status)) && [[ -f $dir/service.log ]]; then
    printf '\nlast words of the daemons:\n'
    tail -n 8 "$dir"/*.log
  fi
  if [[ -n $keep ]]; then
    printf '\n%skept: %s%s\n' "$dim" "$dir" "$plain"
  else
    rm -rf "$dir"
  fi
  exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

primary_disk=$dir/primary.img
secondary_disk=$dir/secondary.img
service=unix:$dir/service.grpc
agent=unix:$dir/agent.grpc
primary_export="nbd+unix:///vm1/vda?socket=$dir/agent.nbd"
secondary_export="nbd+unix:///vm1/vda?socket=$dir/service.nbd"
drill_export="nbd+unix:///vm1%40drill/vda?socket=$dir/service.nbd"

at_service() { "$bin/understudyctl" --server "$service" "$@"; }
at_agent() { "$bin/understudyctl" --server "$agent" "$@"; }
# A call that must succeed, and what it said.
say() {
  local said
  said=$("$@" 2>&1) || die "$* failed: $said"
  show "$said"
}

# wait_ready PID LOG: until the daemon has said that it serves.
wait_ready() {
  local deadline=$((SECONDS + 30))
  until grep -qs '_ready ' "$2"; do
    kill -0 "$1" 2> /dev/null || die "the daemon ended before it was ready: $(tail -n 1 "$2")"
    ((SECONDS < deadline)) || die "the daemon was not ready after 30 s: $(tail -n 1 "$2")"
    sleep 0.02
  done
}

# Until the standby has received everything: the queue of the agent says so.
wait_received() {
  local deadline=$((SECONDS + 30))
  until [[ $(at_agent --json status vm1 | jq -r '.forward_queue_bytes | tonumber') == 0 ]]; do
    ((SECONDS < deadline)) || die "the standby has not received everything after 30 s"
    sleep 0.02
  done
}

hidden_bytes() { at_service --json status vm1 | jq -r '.volumes[0].hidden_bytes | tonumber'; }

# What a client of the export reads, from the first byte to the last.
read_export() { nbdcopy "$1" "$2"; }
# Twice as fast as sha256sum: there are some twenty sums of whole disks.
sum() { b2sum "$1" | cut -d ' ' -f 1; }
sum_of_standby() {
  read_export "$secondary_export" "$dir/seen.img"
  sum "$dir/seen.img"
}
# Prints a file inside the file system of an image.
cat_in() { debugfs -R "cat $2" "$1" 2> "$dir/debugfs.out"; }
check_file_system() {
  if e2fsck -fn "$1" > "$dir/e2fsck.out" 2>&1; then
    good "e2fsck -fn: $(sed -n 's/^.*: \([0-9]*\/[0-9]* files.*\)$/clean, \1/p' "$dir/e2fsck.out")"
  else
    bad "e2fsck -fn: $(tail -n 3 "$dir/e2fsck.out")"
  fi
}
# write_ledger URI RECORD PATTERN [more of the same]: 4 KiB records inside the blocks of the file /ledger, by qemu-io.
write_ledger() {
  local target=$1 commands=()
  shift
  while (($#)); do
    commands+=(-c "write -q -P $2 $((ledger[$1] * 4096)) 4096")
    shift 2
  done
  qemu-io -f raw "${commands[@]}" -c flush "$target" || die "qemu-io could not write to $target"
}
milliseconds_since() { awk -v from="$1" -v to="$(date +%s%N)" 'BEGIN { printf "%.0f ms", (to - from) / 1e6 }'; }

# ---- the story ------------------------------------------------------------------------------------------------------------------

step "A disk full of real files"
files=$dir/files
mkdir "$files"
for source in storage server client proto docs deploy tests; do cp -a "$repository/$source" "$files/"; done
for source in /usr/share/doc /usr/share/zoneinfo /usr/include; do
  (($(du -sm "$files" | cut -f 1) < 48)) || break
  find "$source" -type f -size -256k 2> /dev/null | head -n 4000 | xargs -d '\n' cp --parents -t "$files" 2> /dev/null || true
done
head -c 1M /dev/urandom > "$files/ledger"
mke2fs -q -t ext4 -b 4096 -E root_owner=0:0 -d "$files" "$primary_disk" 128M > "$dir/mke2fs.out" 2>&1 \
  || die "mke2fs: $(cat "$dir/mke2fs.out")"
# The blocks of the disk that hold the records of /ledger, 4 KiB each.
read -ra ledger < <(debugfs -R 'blocks /ledger' "$primary_disk" 2> "$dir/debugfs.out")
((${#ledger[@]} == 256)) || die "debugfs does not find the blocks of /ledger: $(cat "$dir/debugfs.out")"
cp --sparse=always "$primary_disk" "$secondary_disk"
original=$(sum "$primary_disk")
show "ext4, $(mib "$(stat -c %s "$primary_disk")"), $(find "$files" -type f | wc -l) files; the standby gets a copy"

step "The standby: understudyd with an empty data directory"
"$bin/understudyd" --data-dir "$dir/data" --disk-dir "$dir" --listen "$service" --metrics-listen 127.0.0.1:0 \
  --history-epochs 4 --nbd-socket "$dir/service.nbd" > "$dir/service.log" 2>&1 < /dev/null &
service_pid=$!
wait_ready "$service_pid" "$dir/service.log"
say at_service start vm1 --mode secondary --volume "vda,disk=$secondary_disk"

step "The primary: understudy-agent serves the disk to the VM and forwards its writes"
"$bin/understudy-agent" --server "$service" --group vm1 --volume "vda,disk=$primary_disk" --start --stall-timeout 10s \
  --nbd-socket "$dir/agent.nbd" --listen "$agent" --metrics-listen 127.0.0.1:0 > "$dir/agent.log" 2>&1 < /dev/null &
agent_pid=$!
wait_ready "$agent_pid" "$dir/agent.log"
say at_agent list

step "The VM works: new files, a deleted one, records in a ledger"
cp --sparse=always "$primary_disk" "$dir/next.img"
date -u '+written by the primary VM on %F at %T UTC' > "$dir/letter"
{
  printf 'write %s /letter\n' "$dir/letter"
  printf 'mkdir /backup\nwrite %s /backup/programs.bin\n' "$bin/understudyctl"
  printf 'rm /docs/operations.md\n'
} > "$dir/commands"
debugfs -w -f "$dir/commands" "$dir/next.img" > "$dir/debugfs.out" 2>&1 || die "debugfs: $(cat "$dir/debugfs.out")"
started=$(date +%s%N)
nbdcopy "$dir/next.img" "$primary_export"
show "nbdcopy wrote $(mib "$(stat -c %s "$dir/next.img")") over NBD in $(milliseconds_since "$started")"
write_ledger "$primary_export" 0 0x11 7 0x12 42 0x13
show "qemu-io wrote 3 records into /ledger"
wait_received
read_export "$primary_export" "$dir/seen.img"
expect "the VM reads back what it wrote" "$(sum "$dir/seen.img")" "$(sum "$primary_disk")"

step "The standby has the writes and does not show them: no checkpoint yet"
show "hidden on the standby: $(mib "$(hidden_bytes)")"
expect "its VM still sees the original disk" "$(sum_of_standby)" "$original"
if [[ -z $(cat_in "$dir/seen.img" /letter) ]]; then good "no /letter there"; else bad "/letter is visible before its checkpoint"; fi
expect "the secondary disk was not touched" "$(sum "$secondary_disk")" "$original"

step "Checkpoint"
say at_agent checkpoint vm1
cp --sparse=always "$primary_disk" "$dir/checkpoint.img"
checkpoint=$(sum "$dir/checkpoint.img")
expect "the standby shows the primary's disk" "$(sum_of_standby)" "$checkpoint"
if [[ $(cat_in "$dir/seen.img" /letter) == "$(< "$dir/letter")" ]]; then
  good "/letter: \"$(cat_in "$dir/seen.img" /letter)\""
else
  bad "/letter is not readable on the standby"
fi

step "A fire drill: the failover is tried on a clone while replication goes on"
write_ledger "$primary_export" 1 0x14
at_agent checkpoint vm1 > "$dir/newer.out" || die "no second checkpoint: $(cat "$dir/newer.out")"
cp --sparse=always "$primary_disk" "$dir/newer.img"
newer=$(sum "$dir/newer.img")
say at_service history vm1
say at_service clone vm1 --epoch 1 --name drill --ttl 10m
read_export "$drill_export" "$dir/seen.img"
expect "the drill VM sees checkpoint 1" "$(sum "$dir/seen.img")" "$checkpoint"
check_file_system "$dir/seen.img"
# A new file, written through the clone while the primary writes too.
date -u '+written by the drill VM on %F at %T UTC' > "$dir/drilled"
printf 'write %s /drilled\n' "$dir/drilled" > "$dir/commands"
debugfs -w -f "$dir/commands" "$dir/seen.img" > "$dir/debugfs.out" 2>&1 || die "debugfs: $(cat "$dir/debugfs.out")"
nbdcopy "$dir/seen.img" "$drill_export"
write_ledger "$primary_export" 1 0x15
wait_received
read_export "$drill_export" "$dir/drill.img"
if [[ $(cat_in "$dir/drill.img" /drilled) == "$(< "$dir/drilled")" ]]; then
  good "/drilled: \"$(cat_in "$dir/drill.img" /drilled)\""
else
  bad "/drilled is not readable on the clone"
fi
expect "the standby shows nothing of it" "$(sum_of_standby)" "$newer"
at_service clone vm1 --remove drill > "$dir/remove.out" 2>&1 || die "clone --remove: $(cat "$dir/remove.out")"
if nbdinfo "$drill_export" > "$dir/nbdinfo.out" 2>&1; then bad "the clone is still there"; else good "removed without trace"; fi
checkpoint=$newer
mv "$dir/newer.img" "$dir/checkpoint.img"

step "The VM goes on writing, and its host dies"
write_ledger "$primary_export" 1 0x21 7 0x22 200 0x23
qemu-io -f raw -c 'write -q -P 0x66 100M 8M' "$primary_export"
wait_received
show "after the checkpoint: $(mib "$(hidden_bytes)") more, hidden on the standby"
if [[ $(sum "$primary_disk") != "$checkpoint" ]]; then good "the primary's disk has moved on"; else bad "nothing was written"; fi
{ kill -9 "$agent_pid" && wait "$agent_pid"; } 2> /dev/null || true
show "kill -9 $agent_pid: the agent is gone"
agent_pid=

step "Failover"
started=$(date +%s%N)
say at_service stop vm1 --failover
took=$(milliseconds_since "$started")
good "understudyctl came back after $took; the disk can be written from now on"
expect "the secondary VM sees the checkpoint, not a byte more" "$(sum_of_standby)" "$checkpoint"
check_file_system "$dir/seen.img"
# The secondary VM's own write goes to the kept copy as well, which is from now on what must be there.
write_ledger "$secondary_export" 3 0x31 42 0x32
write_ledger "$dir/checkpoint.img" 3 0x31 42 0x32
expect "it writes 2 records of its own and reads them" "$(sum_of_standby)" "$(sum "$dir/checkpoint.img")"

step "The commit job finishes: the raw file is the disk"
deadline=$((SECONDS + 60))
until [[ $(at_service --json status vm1 | jq -r .stage) == DONE ]]; do
  ((SECONDS < deadline)) || die "not DONE after 60 s: $(at_service status vm1)"
  sleep 0.05
done
say at_service get-error vm1
if cmp "$secondary_disk" "$dir/checkpoint.img"; then
  good "secondary.img is equal to the checkpoint and those 2 records: $(stat -c %s "$secondary_disk") bytes compared"
else
  bad "secondary.img differs"
fi
kill "$service_pid"
if wait "$service_pid"; then good "understudyd ended in order"; else bad "understudyd ended with an error"; fi
service_pid=

if ((failures)); then
  printf '\n%s%sFAILED: %d of the comparisons above did not hold.%s\n' "$bold" "$red" "$failures" "$plain"
  exit 1
fi
printf '\n%s%sPASSED: every byte was where it belonged; failover took %s.%s\n' "$bold" "$green" "$took" "$plain"

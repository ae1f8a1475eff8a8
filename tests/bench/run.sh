#!/usr/bin/env bash
# Measures Understudy on this machine: writes through the agent to the service, checkpoints, the apply job, many groups, outages, processor
# time, the write-intent log. docs/performance.md explains the figures. Prints Markdown.
#
#   tests/bench/run.sh              installs what is missing, builds, measures; about twelve minutes after the build
#   tests/bench/run.sh --bin DIR    uses the programs in DIR
#   UNDERSTUDY_BENCH_SECONDS=10     per fio job, default 6
#
# Beside each job of Understudy runs the same job on nbdkit's own file plugin, on the same disk and in the same minute: what NBD and
# a raw file cost without replication. Exit status: 0 if everything was measured; a slow machine is no error.
set -euo pipefail
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
seconds=${UNDERSTUDY_BENCH_SECONDS:-6}
export LC_ALL=C.UTF-8

bin=
case ${1:-} in
  --bin) bin=$(realpath "${2:?--bin needs a directory}") ;;
  '') ;;
  *)
    echo "run.sh: unknown argument '$1' (--bin DIR)" >&2
    exit 2
    ;;
esac
if [[ -z $bin ]]; then
  "$repository/deploy/install-deps.sh" --bench
  bin=$repository/build/release/bin
  mkdir -p "$repository/build"
  (
    cd "$repository"
    cmake --preset release && cmake --build --preset release \
      --target understudyd understudyctl understudy-agent apply_bench index_bench nbd_memory_server \
      understudy_stub
  ) > "$repository/build/bench-build.log" 2>&1 < /dev/null || {
    tail -n 40 "$repository/build/bench-build.log" >&2
    exit 1
  }
fi

dir=$(mktemp -d "${TMPDIR:-/tmp}/understudy-bench.XXXXXX")
pids=()
end_daemons() {
  local pid
  for pid in "${pids[@]}"; do
    kill "$pid" 2> /dev/null && { wait "$pid" 2> /dev/null || true; }
  done
  pids=()
  rm -rf "$dir/data" "$dir"/*.raw "$dir"/*.state "$dir"/*.log
}
trap 'status=$?; ((status)) && tail -n 5 "$dir"/*.log >&2; end_daemons; rm -rf "$dir"; exit $status' EXIT

disk_bytes=$((1 << 30))
service=unix:$dir/service.grpc
agent=unix:$dir/agent.grpc
at_service() { "$bin/understudyctl" --server "$service" --json --timeout 60s "$@"; }
at_agent() { "$bin/understudyctl" --server "$agent" --json --timeout 60s "$@"; }

wait_for_line() {
  local deadline=$((SECONDS + 30))
  until grep -q "$2" "$1" 2> /dev/null; do
    ((SECONDS < deadline)) || { echo "no \"$2\" in $1" >&2; exit 1; }
    sleep 0.02
  done
}

# A file whose blocks exist, as those of a disk in use do.
make_disk() { fallocate -l "$disk_bytes" "$1" && dd if=/dev/zero of="$1" bs=4M count=$((disk_bytes >> 22)) conv=notrunc status=none; }

# start_pair MODE DURABILITY: service and agent, MODE tee or forward.
start_pair() {
  make_disk "$dir/secondary.raw"
  "$bin/understudyd" --data-dir "$dir/data" --disk-dir "$dir" --listen "$service" --metrics-listen 127.0.0.1:0 \
    --nbd-socket "$dir/service.nbd" --durability "$2" > "$dir/service.log" 2>&1 < /dev/null &
  pids+=($!)
  wait_for_line "$dir/service.log" understudyd_ready
  at_service start bench --mode secondary --volume "vda,disk=$dir/secondary.raw" > /dev/null
  local volume=vda,size=$disk_bytes
  if [[ $1 == tee ]]; then
    make_disk "$dir/primary.raw"
    volume=vda,disk=$dir/primary.raw
  fi
  "$bin/understudy-agent" --server "$service" --group bench --volume "$volume" --nbd-socket "$dir/agent.nbd" --listen "$agent" \
    --metrics-listen 127.0.0.1:0 --state-dir "$dir/agent.state" --start > "$dir/agent.log" 2>&1 < /dev/null &
  pids+=($!)
  wait_for_line "$dir/agent.log" stream_connected
  wait_for_line "$dir/agent.log" agent_ready
}

start_baseline() {
  make_disk "$dir/baseline.raw"
  nbdkit -f -U "$dir/agent.nbd" -t 4 file "$dir/baseline.raw" > "$dir/baseline.log" 2>&1 < /dev/null &
  pids+=($!)
  local deadline=$((SECONDS + 30))
  until nbdinfo --size "nbd+unix:///?socket=$dir/agent.nbd" > /dev/null 2>&1; do
    ((SECONDS < deadline)) || exit 1
    sleep 0.02
  done
}

# fio_write EXPORT JOB...: prints "IOPS MB/S" of one fio job against the primary's socket.
fio_write() {
  local export=$1
  shift
  fio --name=job --ioengine=nbd --uri="nbd+unix:///$export?socket=$dir/agent.nbd" --size=1g --output-format=json \
    --randrepeat=1 --norandommap --output="$dir/fio.json" "$@" > /dev/null
  jq -r '.jobs[0] | select(.error == 0) | .write | "\(.iops) \(.bw_bytes / 1000000)"' "$dir/fio.json"
}

# Nothing was skipped, or the figure is of something else.
check_complete() {
  local status
  status=$(at_agent status bench)
  [[ $(jq -r .incomplete <<< "$status") == false ]] || { echo "the run degraded: $status" >&2; exit 1; }
}

# measure NAME UNIT FIO-OPTIONS...: one row for forward, tee and the baseline; UNIT is iops or mb.
measure() {
  local name=$1 unit=$2 column figures=() mode
  shift 2
  [[ $unit == iops ]] && column=1 || column=2
  for mode in forward tee; do
    start_pair "$mode" checkpoint
    figures+=("$(fio_write bench/vda "$@" | awk -v c=$column '{ print $c }')")
    check_complete
    end_daemons
  done
  start_baseline
  figures+=("$(fio_write '' "$@" | awk -v c=$column '{ print $c }')")
  end_daemons
  awk -v name="$name" -v f="${figures[0]}" -v t="${figures[1]}" -v b="${figures[2]}" \
    'BEGIN { printf "| %s | %.0f | %.0f | %.0f | %.2f | %.2f |\n", name, f, t, b, f / b, t / b }'
}

# checkpoints DURABILITY: the median and the extremes of 10, each after 256 MiB of 64 KiB random writes, in ms: at the service,
# from the marker's arrival, and as the caller of understudyctl sees it.
checkpoints() {
  start_pair forward "$1"
  local i begun answer
  : > "$dir/inner"
  : > "$dir/outer"
  for ((i = 0; i < 10; i++)); do
    fio_write bench/vda --rw=randwrite --bs=64k --iodepth=16 --io_size=256m --randseed=$((i + 1)) > /dev/null
    begun=$(date +%s%N)
    answer=$(at_agent checkpoint bench)
    echo $((($(date +%s%N) - begun) / 1000)) >> "$dir/outer"
    jq -r '.duration_micros | tonumber' <<< "$answer" >> "$dir/inner"
  done
  check_complete
  end_daemons
  local which
  for which in inner outer; do
    sort -n "$dir/$which" | awk '{ v[NR] = $1 / 1000 } END { printf "%.2f (%.2f to %.2f) | ", (v[5] + v[6]) / 2, v[1], v[NR] }'
  done
}

# written FILE-SYSTEM: what reaches a device of its own, per byte received. Needs root and a free loop device.
written() {
  local image=$dir/device.img mount=$dir/mount
  truncate -s 3G "$image"
  "mkfs.$1" -q "$image"
  mkdir -p "$mount"
  mount -o loop "$image" "$mount"
  printf '| %s |' "$1"
  "$bin/apply_bench" written "$mount" 256 2> "$dir/apply.log" || { umount "$mount"; exit 1; }
  umount "$mount"
  rm "$image"
}

echo "$(nproc) cores, $(awk -F': ' '/model name/ { print $2; exit }' /proc/cpuinfo), Linux $(uname -r), $(df --output=fstype "$dir" | tail -n 1)," \
  "$(date -u +%F), load before: $(cut -d ' ' -f 1-3 /proc/loadavg)"
echo
echo "| fio's nbd engine, one connection, ${seconds} s | forward | tee | nbdkit file | forward / file | tee / file |"
echo "| --- | --- | --- | --- | --- | --- |"
timed=(--time_based --runtime="$seconds" --ramp_time=1)
measure "4 KiB random writes, queue depth 32, per second" iops --rw=randwrite --bs=4k --iodepth=32 "${timed[@]}"
measure "4 KiB random writes, queue depth 1, per second" iops --rw=randwrite --bs=4k --iodepth=1 "${timed[@]}"
measure "1 MiB sequential writes, queue depth 4, MB/s" mb --rw=write --bs=1m --iodepth=4 "${timed[@]}"
echo
echo "| checkpoint after 256 MiB of 64 KiB random writes, median of 10 (range), ms | at the service | understudyctl, process included |"
echo "| --- | --- | --- |"
for durability in none checkpoint; do
  printf '| --durability=%s | %s\n' "$durability" "$(checkpoints "$durability")"
done
if [[ -x $bin/apply_bench ]]; then
  echo
  "$bin/apply_bench" speed "$dir/apply" 2> "$dir/apply.log"
  echo
  "$bin/apply_bench" stream "$dir/apply" 256 2> "$dir/apply.log"
  rm -rf "$dir/apply"
  if ((EUID == 0)) && losetup -f > /dev/null 2>&1; then
    echo
    echo "| bytes to the device per byte received, up to the secondary disk | 256 KiB in order | 64 KiB at random | 4 KiB at random |"
    echo "| --- | --- | --- | --- |"
    for file_system in ext4 xfs; do
      command -v "mkfs.$file_system" > /dev/null && written "$file_system"
    done
  fi
fi
if [[ -x $bin/index_bench ]]; then
  echo
  mkdir "$dir/index"
  "$bin/index_bench" "$dir/index" 2> "$dir/index.log"
  rm -rf "$dir/index"
fi
if [[ -x $bin/../tests/understudy_stub ]]; then
  echo
  python3 -B "$repository/tests/bench/groups.py" --bin "$bin"
fi
for part in nbd map resync cpu intent failback; do
  echo
  python3 -B "$repository/tests/bench/$part.py" --bin "$bin"
done

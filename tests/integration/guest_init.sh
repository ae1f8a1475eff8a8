#!/bin/busybox sh
# shellcheck shell=dash
# /init of the guest that guest.py boots: busybox and nothing else. Reads commands from the second serial port, runs each, and
# answers "done STATUS" after its output. Kernel messages go to the first one.
#
# /mnt/a and /mnt/b are file systems on two disks. The small database is /mnt/a/journal and /mnt/b/table: a record is written to the
# journal and fsynced, then to the table and fsynced, and only then acknowledged. So whatever instant the disks are from, if both are
# from the same one: the journal is a gapless prefix of what was written, and the table equal to it or one record behind.

start() {
  /bin/busybox mkdir -p /proc /sys /dev /mnt/a /mnt/b /tmp
  /bin/busybox --install -s /bin
  mount -t proc proc /proc
  mount -t sysfs sys /sys
  mount -t devtmpfs dev /dev
  while read -r module; do
    insmod "/modules/$module.ko" || echo "insmod $module failed" > /dev/ttyS0
  done < /modules/order
  stty -F /dev/ttyS1 raw -echo
  serve < /dev/ttyS1 > /dev/ttyS1 2>&1
}

serve() {
  echo "ready $(uname -r)"
  while read -r command; do
    eval "$command"
    echo "done $?"
  done
}

mount_both() {
  mount -t ext4 -o "$1" /dev/vda /mnt/a && mount -t ext4 -o "$1" /dev/vdb /mnt/b
}

unmount_both() {
  umount /mnt/a && umount /mnt/b
}

# Files of many sizes, some moved, removed, overwritten in the middle and with holes; all synced.
write_files() {
  mkdir -p /mnt/a/files/deep/er && cd /mnt/a/files || return
  for size in 0 1 511 4096 5000 70000 1048577 6000000; do
    head -c "$size" /dev/urandom > "deep/$size"
  done
  head -c 3000000 /dev/urandom > removed
  sync
  rm removed
  mv deep/70000 deep/er/moved
  head -c 4096 /dev/urandom | dd of=deep/6000000 bs=4096 seek=77 conv=notrunc 2> /dev/null
  echo end | dd of=hole bs=1 seek=20000000 2> /dev/null
  ln -s deep/4096 link
  sync
  cd /
}

checksums() {
  (cd "$1" && find . -type f | sort | xargs sha256sum)
}

append() {
  dd of="$1" oflag=append conv=notrunc,fsync 2> /dev/null
}

# Appends records FIRST to LAST; each is acknowledged with "ack RECORD".
write_records() {
  number=$1
  while [ "$number" -le "$2" ]; do
    read -r uuid < /proc/sys/kernel/random/uuid
    sum=$(echo "$number $uuid" | md5sum)
    record="$number $uuid ${sum%% *}"
    echo "$record" | append /mnt/a/journal && echo "$record" | append /mnt/b/table || return
    echo "ack $record"
    number=$((number + 1))
  done
}

# Replaces files all the time, as careful programs do: write a new one, fsync, rename. Its first line is the checksum of the rest.
replace_files() {
  mkdir -p /mnt/b/replaced
  turn=0
  while true; do
    head -c 300000 /dev/urandom > /tmp/content
    sum=$(md5sum < /tmp/content)
    { echo "${sum%% *}"; cat /tmp/content; } | dd of=/mnt/b/replaced/new bs=64k conv=fsync 2> /dev/null
    mv /mnt/b/replaced/new "/mnt/b/replaced/$((turn % 16))"
    turn=$((turn + 1))
  done
}

check_replaced() {
  rm -f /mnt/b/replaced/new
  for file in /mnt/b/replaced/*; do
    sum=$(tail -n +2 "$file" | md5sum)
    [ "$(head -n 1 "$file")" = "${sum%% *}" ] || { echo "$file is damaged"; return 1; }
    echo "$file"
  done
}

start

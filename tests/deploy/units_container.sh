#!/bin/sh
# A host with nothing but systemd and what is in this machine's /usr, for units_test.py, which runs this in namespaces of its own.
#
# usage: units_container.sh WORK_DIR       WORK_DIR/usr is laid over /usr, WORK_DIR/etc becomes /etc; ends as systemd
set -eu
root=$1/root

mount --make-rprivate /
mkdir -p "$root"
mount -t tmpfs -o mode=755 none "$root"
mkdir -p "$root/usr" "$root/var/log" "$root/var/lib" "$root/run" "$root/proc" "$root/sys" "$root/dev" "$root/tmp" "$root/srv" "$root/old"
for link in bin sbin lib lib64; do
  [ ! -L "/$link" ] || cp -P "/$link" "$root/"
done
mount -t overlay -o "lowerdir=$1/usr:/usr" none "$root/usr"
cp -r "$1/etc" "$root/etc"
for file in ld.so.cache nsswitch.conf; do
  [ ! -e "/etc/$file" ] || cp "/etc/$file" "$root/etc/"
done

# The kernel is this machine's: what is set there stays as it is.
mount -t proc proc "$root/proc"
for path in proc/sys proc/sysrq-trigger; do
  [ -e "$root/$path" ] || continue
  mount --bind "$root/$path" "$root/$path"
  mount -o remount,bind,ro "$root/$path"
done
mount -t sysfs -o ro sysfs "$root/sys"
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
  mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
else
  mount -t tmpfs -o mode=755 none "$root/sys/fs/cgroup"
  mkdir "$root/sys/fs/cgroup/systemd" "$root/sys/fs/cgroup/unified"
  mount -t cgroup -o none,name=systemd,xattr cgroup "$root/sys/fs/cgroup/systemd"
  mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup/unified"
fi
mount -t tmpfs -o mode=755 none "$root/dev"
for device in null zero full random urandom tty; do
  : > "$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/shm" "$root/dev/pts"
mount -t tmpfs -o mode=1777 none "$root/dev/shm"
mount -t tmpfs -o mode=755 none "$root/run"

cd "$root"
pivot_root . old
umount -l /old
exec env -i container=understudy-units PATH=/usr/sbin:/usr/bin:/sbin:/bin \
  /lib/systemd/systemd --system --unit=basic.target --log-target=null --show-status=no < /dev/null

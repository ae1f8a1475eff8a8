#!/usr/bin/env bash
# Debian 12: librocksdb7.8 7.8.3-2, g++-12 12.2.0-14+deb12u1, python3 3.11.
#
# One would expect kPointInTimeRecovery (the default) to end at the first record of the write-ahead
# log that is missing, whatever made it missing. It ends at the first that is *damaged*. A power cut
# may lose the end of one log file, cut between two records, and keep the file after it, when
# neither was synced: both can be read, nothing is damaged, and RocksDB replays the second behind
# the first, though its sequence numbers do not follow. The database then has a later write without
# an earlier one. track_and_verify_wals_in_manifest does not help: it knows synced files only.
#
# Output seen: "a record is damaged: first", "a record is missing between two files: first third".
# Needs: bash, apt, g++ 12, python3. Exits with 1 when the behaviour has changed.
set -euo pipefail
packages=(librocksdb7.8=7.8.3-2 librocksdb-dev=7.8.3-2 libsnappy1v5=1.1.9-3 libgflags2.2=2.2.2-2 liblz4-1=1.9.4-1)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
apt-get download -qq "${packages[@]}"
for package in *.deb; do dpkg -x "$package" root; done
library=$(dirname "$(find "$work/root" -name 'librocksdb.so.7.8')")

# "program DIR write" ends as if it were killed; "program DIR" tells which keys are there.
cat > program.cc <<'CODE'
#include <iostream>
#include <string>
#include <unistd.h>

#include <rocksdb/db.h>

int main(int argc, char** argv) {
  rocksdb::Options options;
  options.create_if_missing = true;
  options.wal_recovery_mode = rocksdb::WALRecoveryMode::kPointInTimeRecovery;
  options.track_and_verify_wals_in_manifest = true;
  rocksdb::DB* db = nullptr;
  if (!rocksdb::DB::Open(options, argv[1], &db).ok()) return 1;
  for (const char* const key : {"first", "second", "third"}) {
    std::string value;
    if (argc > 2 && !db->Put({}, key, "x").ok()) return 1;
    if (argc == 2 && db->Get({}, key, &value).ok()) std::cout << " " << key;
  }
  std::cout << std::flush;
  _exit(0);
}
CODE
g++ -std=c++17 program.cc -Iroot/usr/include -L"$library" -lrocksdb -Wl,-rpath-link,"$library" -o program

# Records of the log: a checksum (4 bytes), a length (2), a type (1), and so many bytes.
cat > change.py <<'CODE'
import pathlib
import sys

(log,) = pathlib.Path(sys.argv[1]).glob("*.log")
data = log.read_bytes()
ends = [0]
while ends[-1] + 7 <= len(data) and data[ends[-1] + 6] != 0:
    ends.append(ends[-1] + 7 + int.from_bytes(data[ends[-1] + 4 : ends[-1] + 6], "little"))
assert len(ends) == 4, ends
if sys.argv[2] == "damage":
    log.write_bytes(data[: ends[2] - 1] + b"?" + data[ends[2] :])
else:
    log.write_bytes(data[: ends[1]])
    log.with_name("000999.log").write_bytes(data[ends[2] : ends[3]])
CODE

run() { LD_LIBRARY_PATH=$library ./program "$@"; }
for change in damage gap; do
  run "$work/$change" write
  python3 change.py "$work/$change" $change
done
damaged=$(run "$work/damage") gap=$(run "$work/gap")
echo "a record is damaged:$damaged"
echo "a record is missing between two files:$gap"
[[ $damaged == " first" && $gap == " first third" ]]

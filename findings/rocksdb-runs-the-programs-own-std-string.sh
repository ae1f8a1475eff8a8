#!/usr/bin/env bash
# Debian 12: librocksdb7.8 7.8.3-2, g++-12 12.2.0-14+deb12u1, libstdc++6 of the same source.
#
# One would expect a shared library to use the std::string functions of libstdc++.so. RocksDB does, in a C++17 program. In C++20 the functions
# of std::string are constexpr, so a program that is built with -Og or -O0 has copies of its own; the dynamic linker puts them before those of
# libstdc++, and from then on RocksDB appends to its own buffers with the program's code. For a program built with a sanitizer that is
# instrumented code, run by a library that is not: ThreadSanitizer sees the bytes of RocksDB's write batches go from thread to thread and does
# not see RocksDB's hand-over, and ignore_noninstrumented_modules=1 does not help, as the code is the program's. It reported a race between
# rocksdb::WriteBatchInternal::Append() and rocksdb::WriteBatch::Clear(), once in thousands of runs.
#
# Output seen: "C++17: RocksDB uses 0 of the program's std::string functions that change a string", "C++20: RocksDB uses 7 of ...".
# Needs: bash, apt, g++ 12. Exits with 1 when the behaviour has changed.
set -euo pipefail
packages=(librocksdb7.8=7.8.3-2 librocksdb-dev=7.8.3-2 libsnappy1v5=1.1.9-3 libgflags2.2=2.2.2-2 liblz4-1=1.9.4-1)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
apt-get download -qq "${packages[@]}"
for package in *.deb; do dpkg -x "$package" root; done
library=$(dirname "$(find "$work/root" -name 'librocksdb.so.7.8')")

cat > program.cc <<'CODE'
#include <string>

#include <rocksdb/db.h>

int main(int argc, char** argv) {
  std::string value(argv[1]);
  value.append(argc, 'x').resize(value.size() + 1, 'y');
  value += argv[1];
  value.replace(0, 1, "z");
  rocksdb::Options options;
  options.create_if_missing = true;
  rocksdb::DB* db = nullptr;
  if (!rocksdb::DB::Open(options, argv[1], &db).ok()) return 1;
  const bool ok = db->Put({}, "key", value).ok();
  delete db;
  return ok ? 0 : 1;
}
CODE

declare -A used
for standard in 17 20; do
  g++ -std=c++$standard -Og program.cc -Iroot/usr/include -L"$library" -lrocksdb -Wl,-rpath-link,"$library" -o program
  LD_LIBRARY_PATH=$library LD_DEBUG=bindings LD_DEBUG_OUTPUT=bindings$standard ./program "$work/db$standard"
  used[$standard]=$(grep -h 'librocksdb.* to \./program ' bindings$standard.* | sed 's/.*symbol `\([^'"'"']*\).*/\1/' | c++filt | sort -u |
    grep -c 'basic_string.*::\(_M_[a-z]*\|append\|resize\)(' || true)
  echo "C++$standard: RocksDB uses ${used[$standard]} of the program's std::string functions that change a string"
done
[[ ${used[17]} == 0 && ${used[20]} -gt 0 ]]

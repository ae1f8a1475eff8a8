#!/bin/bash
# Installs the build tree's development files to a temporary prefix, builds a consumer from there alone, and runs it where nobody
# listens: it must end with UNAVAILABLE, not hang and not crash.
# Usage: install_test.sh BUILD-DIR SOURCE-DIR-OF-THIS-TEST CXX-FLAGS
set -euo pipefail
build=$1 here=$2 flags=${3:-}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# The parts that find_package(understudy) needs; the daemons may not be built yet.
for part in storage/base proto client; do
  cmake -DCMAKE_INSTALL_PREFIX="$work/prefix" -DCMAKE_INSTALL_LOCAL_ONLY=1 -P "$build/$part/cmake_install.cmake" > "$work/install.log"
done
cmake -DCMAKE_INSTALL_PREFIX="$work/prefix" -DCMAKE_INSTALL_LOCAL_ONLY=1 -P "$build/client/rpc/cmake_install.cmake" >> "$work/install.log"
cmake -DCMAKE_INSTALL_PREFIX="$work/prefix" -DCMAKE_INSTALL_LOCAL_ONLY=1 -P "$build/cmake_install.cmake" >> "$work/install.log"
# The image holds what is installed. Asked of the install scripts, as the programs may not be built yet.
for program in understudyd understudy-agent understudyctl understudy-inspect; do
  grep -rqF --include=cmake_install.cmake "/bin/$program\"" "$build" || { echo "not installed: $program"; exit 1; }
done
mkdir "$work/consumer"
cp "$here/example.cc" "$work/consumer/"
cp "$here/consumer.cmake.txt" "$work/consumer/CMakeLists.txt"
cmake -S "$work/consumer" -B "$work/out" -DCMAKE_PREFIX_PATH="$work/prefix" -DCMAKE_CXX_FLAGS="$flags" > "$work/configure.log" ||
  { cat "$work/configure.log"; exit 1; }
cmake --build "$work/out" > "$work/build.log" || { cat "$work/build.log"; exit 1; }
status=0
timeout 30 "$work/out/example" "unix:$work/nobody.sock" > "$work/stdout" 2> "$work/stderr" || status=$?
cat "$work/stderr"
[ "$status" -eq 1 ] || { echo "exit status $status, wanted 1"; exit 1; }
grep -q '^UNAVAILABLE: group vm1: no connection to the standby' "$work/stderr" || { echo "no such message"; exit 1; }
echo "install_test: the consumer was built from the install tree and gave the defined answer"

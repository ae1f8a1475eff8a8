#!/usr/bin/env bash
# Crash runs for as long as one likes: the sweep once, with seven seeds for each power cut and two for each other fault, where
# continuous integration has one; then random operations, faults and seeds on every core.
#
#   tests/crash/soak.sh SECONDS
#
# Exit status: 0 if no run found anything. What one finds is printed with the command that repeats it.
set -uo pipefail
cd "$(dirname "$0")/../.."

seconds=${1:-}
if [[ ! $seconds =~ ^[0-9]+$ ]]; then
  echo "usage: tests/crash/soak.sh SECONDS" >&2
  exit 2
fi
deploy/install-deps.sh --tests > /dev/null || exit 1
cmake --preset release > /dev/null || exit 1
cmake --build build/release -j"$(nproc)" --target crash_sweep_test crash_order_test crash_random_test || exit 1

end=$((SECONDS + seconds))
failed=0
for program in crash_sweep_test crash_order_test; do
  UNDERSTUDY_CRASH_THOROUGH=1 build/release/tests/$program --gtest_brief=1 || failed=1
done
# Each core goes on with a seed of its own until the time is over, or it finds something.
left=$((end - SECONDS))
workers=()
if ((left > 0)); then
  for ((i = 0; i < $(nproc); ++i)); do
    UNDERSTUDY_CRASH_SECONDS=$left build/release/tests/crash_random_test --gtest_brief=1 &
    workers+=($!)
  done
fi
for worker in "${workers[@]}"; do wait "$worker" || failed=1; done
exit "$failed"

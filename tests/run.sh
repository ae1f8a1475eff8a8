#!/usr/bin/env bash
# Builds Understudy and runs its tests: as released, under ASan+UBSan, under TSan what does not link
# gRPC, and fuzzes what reads bytes of others. This is what continuous integration runs;
# docs/testing.md says which test belongs to which phase.
#
#   tests/run.sh                    everything
#   tests/run.sh --quick            the release phase only
#   tests/run.sh [--quick] -R name  further arguments go to each phase's ctest
#
# Exit status: 0 if every build and every test passed.
set -uo pipefail
cd "$(dirname "$0")/.."

phases=(release asan tsan fuzz)
if [[ ${1:-} == --quick ]]; then
  phases=(release)
  shift
fi
ctest_args=("$@")
# A phase in which nothing runs is a mistake, unless somebody asked for a single test.
((${#ctest_args[@]})) || ctest_args=(--no-tests=error)

logs=build/logs
rm -rf "$logs"
mkdir -p "$logs"
failed=0

# Runs a command into its log; one line says how it went and how long it took.
step() {
  local name=$1 log="$logs/${1// /-}.log" start=$SECONDS verdict=ok
  shift
  "$@" > "$log" 2>&1 < /dev/null || verdict=FAILED
  printf -- '-- %-20s %-6s %5d s\n' "$name" "$verdict" $((SECONDS - start))
  [[ $verdict == ok ]] && return
  failed=1
  tail -n 60 "$log"
  return 1
}

# The same for ctest, whose output is worth seeing while it runs.
run_tests() {
  local preset=$1 log="$logs/$1-tests.log" start=$SECONDS verdict=ok
  ctest --preset "$preset" "${ctest_args[@]}" 2>&1 < /dev/null | tee "$log" || verdict=FAILED
  printf -- '-- %-20s %-6s %5d s\n' "$preset tests" "$verdict" $((SECONDS - start))
  [[ $verdict == ok ]] || failed=1
}

if step "dependencies" deploy/install-deps.sh --tests; then
  for phase in "${phases[@]}"; do
    step "$phase configure" cmake --preset "$phase" || continue
    step "$phase build" cmake --build --preset "$phase" -j"$(nproc)" || continue
    run_tests "$phase"
  done
fi

# The failed tests' output without their log lines of level I, among which an assertion is hard to find: 80 lines of each.
what_failed() {
  awk '/^ *[0-9]+\/[0-9]+ Test +#/ { lines = /\*\*\*/ ? 80 : 0 }
       /^ +Start +[0-9]+:/ { lines = 0 }
       lines > 0 && !/^[0-9TZ:.-]+ I / { print; --lines }' "$1"
}

echo
for phase in "${phases[@]}"; do
  echo "== $phase"
  what_failed "$logs/$phase-tests.log" 2> /dev/null
  closing=$(sed -n '/% tests passed,/,$p' "$logs/$phase-tests.log" 2> /dev/null)
  echo "${closing:-no test was run}"
done
exit "$failed"

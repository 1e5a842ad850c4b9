#!/bin/sh
# Compiles each known bug in (or those that are named) and shows that the tests catch it. Exits non-zero if one survives.
cd "$(dirname "$0")/.." || exit 2
suites="${LOGDRIVE_MUTANT_SUITES:-field crash space open model reclaim reclaim_crash}"
survivors=0
[ $# -gt 0 ] || set -- $(sed -n 's/^    "\([a-z_]*\)",$/\1/p' build.rs)
for mutant in "$@"; do
    tests=""
    for suite in $suites; do tests="$tests --test $suite"; done
    # shellcheck disable=SC2086
    if ! LOGDRIVE_MUTANT=$mutant cargo test --locked --quiet --no-run $tests >/dev/null 2>&1; then
        echo "$mutant: does not compile"
        exit 2
    fi
    caught=""
    for suite in $suites; do
        # A bug may also make the log wait for ever.
        if ! LOGDRIVE_MUTANT=$mutant timeout 120 cargo test --locked --quiet --test "$suite" >/dev/null 2>&1; then
            caught="$caught $suite"
        fi
    done
    if [ -n "$caught" ]; then
        echo "$mutant: caught by$caught"
    else
        echo "$mutant: SURVIVES"
        survivors=1
    fi
done
exit $survivors

#!/bin/sh
# Compiles each known bug in and shows that the tests catch it. Exits non-zero if one survives.
cd "$(dirname "$0")/.." || exit 2
survivors=0
for mutant in $(sed -n 's/^    "\([a-z_]*\)",$/\1/p' build.rs); do
    caught=""
    if ! LOGDRIVE_MUTANT=$mutant cargo test --locked --quiet --no-run >/dev/null 2>&1; then
        echo "$mutant: does not compile"
        exit 2
    fi
    for suite in field scripts random; do
        if ! LOGDRIVE_MUTANT=$mutant LOGDRIVE_SEEDS=2000 cargo test --locked --quiet --test $suite >/dev/null 2>&1; then
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

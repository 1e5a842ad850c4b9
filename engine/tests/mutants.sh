#!/usr/bin/env bash
# Compiles each known bug in (or those that are named) and shows which tests catch it. Exits non-zero if one survives.
#
#   tests/mutants.sh               all mutants, until the first suite that catches each
#   LOGDRIVE_MUTANT_SUITES="core_field core_random" tests/mutants.sh vouches_early
cd "$(dirname "$0")/.." || exit 2
suites="${LOGDRIVE_MUTANT_SUITES:-core_field core_leases core_members core_damage core_leaders mesh core_random}"
[ $# -gt 0 ] || set -- $(sed -n 's/^    "\([a-z_]*\)",$/\1/p' build.rs)
export RUST_BACKTRACE=0

survivors=0
for mutant; do
    caught=""
    for suite in $suites; do
        if ! LOGDRIVE_ENGINE_MUTANT=$mutant cargo test --locked --quiet --test "$suite" --no-run >/dev/null 2>&1; then
            echo "$mutant: does not compile" >&2
            exit 2
        fi
        # A bug may also make the tests wait for ever.
        if ! LOGDRIVE_ENGINE_MUTANT=$mutant timeout 300 cargo test --locked --quiet --test "$suite" >/dev/null 2>&1; then
            caught=$suite
            break
        fi
    done
    [ -n "$caught" ] || survivors=1
    printf '%-24s %s\n' "$mutant" "${caught:-NOTHING: it survives}"
done
exit $survivors

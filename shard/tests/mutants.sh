#!/usr/bin/env bash
# Compiles each known bug in, one at a time, and shows which tests catch it. Exits non-zero if one survives.
#
#   tests/mutants.sh               all mutants, all suites: which of them catches which
#   tests/mutants.sh NAME...       these mutants, and only until the first suite that catches each
cd "$(dirname "$0")/.." || exit 2
suites="${LOGDRIVE_MUTANT_SUITES:-scripts field field_members lease lost snapshots members stories random linear explore}"
first_only=${1:+yes}
[ $# -gt 0 ] || set -- $(sed -n 's/^    "\([a-z_]*\)",$/\1/p' build.rs)
export LOGDRIVE_SEEDS=${LOGDRIVE_SEEDS:-2000} RUST_BACKTRACE=0

survivors=0
printf '%-24s %-48s %s\n' mutant "caught by" seconds
for mutant; do
    export LOGDRIVE_MUTANT=$mutant
    begin=$SECONDS
    caught=""
    for suite in $suites; do
        [ -f "tests/$suite.rs" ] || continue
        if ! cargo test --locked --quiet --test "$suite" --no-run >/dev/null 2>&1; then
            echo "$mutant: does not compile" >&2
            exit 2
        fi
        if ! timeout 300 cargo test --locked --quiet --test "$suite" >/dev/null 2>&1; then
            caught="$caught $suite"
            [ -z "$first_only" ] || break
        fi
    done
    [ -n "$caught" ] || { caught=" NOTHING: it survives"; survivors=1; }
    printf '%-24s %-48s %s\n' "$mutant" "${caught# }" $((SECONDS - begin))
done
exit $survivors

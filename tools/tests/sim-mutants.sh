#!/usr/bin/env bash
# Shows that the simulator alone finds each known bug (src/mutant.rs of wal, shard and engine). Exits non-zero if one survives.
#
#   tests/sim-mutants.sh               all mutants, one after the other: which seed found it, and which assertion
#   tests/sim-mutants.sh NAME...       these mutants
#
# All mutants are built at once, from a copy of the sources in which each of them is asked for by name at run time; what the product
# is built from has constants there. So one build does for all of them, and what is found in them is no different.
#
#   LOGDRIVE_SEEDS      seeds at most, over all profiles (2000)
#   LOGDRIVE_PROFILES   profiles, in turn (default membership network disk swarm)
#   LOGDRIVE_CHUNK      seeds of a profile before the next one has its turn (10)
#   LOGDRIVE_TICKS      simulated milliseconds of troubles (20000)
#   LOGDRIVE_BUILD      `no`: what was built last time is used
cd "$(dirname "$0")/../.." || exit 2
seeds_max=${LOGDRIVE_SEEDS:-2000}
profiles=${LOGDRIVE_PROFILES:-default membership network disk swarm}
chunk=${LOGDRIVE_CHUNK:-10}
ticks=${LOGDRIVE_TICKS:-20000}
target=${CARGO_TARGET_DIR:-$PWD/target/sim-mutants}
tree=$target/tree
export RUST_BACKTRACE=0

names() {
    sed -n 's/.*cfg!(mutant_\([a-z_]*\)).*/\1/p' wal/src/mutant.rs shard/src/mutant.rs engine/src/mutant.rs
}

# The copy; files that are the same stay untouched, so that little is built again.
copy_sources() {
    git ls-files -co --exclude-standard | while IFS= read -r file; do
        [ -f "$file" ] || continue
        case $file in
        wal/src/mutant.rs | shard/src/mutant.rs | engine/src/mutant.rs) by_name "$file" ;;
        wal/src/*.rs | shard/src/*.rs | engine/src/*.rs)
            sed -E 's/\bmutant::([A-Z_]+)\b/mutant::on("\L\1\E")/g' "$file"
            ;;
        *) cat "$file" ;;
        esac >"$target/file"
        cmp -s "$target/file" "$tree/$file" && continue
        mkdir -p "$(dirname "$tree/$file")"
        cp "$target/file" "$tree/$file"
    done
    rm -f "$target/file"
}

by_name() {
    cat <<'RUST'
//! The mutants, by name at run time.

/// Whether this one is wanted.
pub(crate) fn on(name: &str) -> bool {
    static CHOSEN: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    CHOSEN.get_or_init(|| std::env::var("LOGDRIVE_SIM_MUTANT").unwrap_or_default()) == name
}
RUST
}

if [ "${LOGDRIVE_BUILD:-yes}" != no ]; then
    mkdir -p "$tree" || exit 2
    copy_sources
    (cd "$tree" && CARGO_TARGET_DIR="$target" cargo build --locked --quiet --profile sim --package logdrive-tools --bin logdrive) || exit 2
fi
logdrive=$target/sim/logdrive

# Runs seeds until one breaks. Prints how many it took and what broke.
hunt() {
    local tried=0 from=1 profile found
    while :; do
        for profile in $profiles; do
            [ "$tried" -lt "$seeds_max" ] || return 1
            found=$(LOGDRIVE_SIM_MUTANT=$1 "$logdrive" sim --seeds "$from..$((from + chunk))" --ticks "$ticks" \
                --profile "$profile" | awk '
                    /^BROKEN: / { what = substr($0, 9) }
                    /^  seed [0-9]+ profile/ && (!seed || $2 < seed) { seed = $2; told = what }
                    END { if (seed) print seed " " told }')
            if [ -n "$found" ]; then
                printf '%5d seeds  %-10s %-5s %s\n' $((tried + ${found%% *} - from + 1)) "$profile" "${found%% *}" "${found#* }"
                return 0
            fi
            tried=$((tried + chunk))
        done
        from=$((from + chunk))
    done
}

[ $# -gt 0 ] || set -- $(names)
survivors=0
for mutant; do
    names | grep -qx "$mutant" || { [ "$mutant" = none ] || { echo "no such mutant: $mutant" >&2; exit 2; }; }
    printf '%-26s ' "$mutant"
    begin=$SECONDS
    hunt "$mutant" | cut -c1-220 || true
    if [ "${PIPESTATUS[0]}" -ne 0 ]; then
        echo "NOT FOUND in $seeds_max seeds ($((SECONDS - begin)) s)"
        survivors=1
    fi
done
exit $survivors

#!/bin/bash
# Runs the recipes of README.md, each on throw-away servers, and says at the end which were run, which were skipped and why.
#
# usage: tests/recipes/run.sh [RECIPE...]     all of them by default: plain, patroni, cnpg, cascade
#
# The exit code is 1 if one does not do what README.md says. Each script says at its head what it installs. WALRING (a
# program; otherwise one is built), WALRING_PG (a directory with PostgreSQL's programs) and KEEP=1 (keep what a recipe that
# fails has left) are used if set.
set -euo pipefail
cd "$(dirname "$0")"

# run_recipe NAME: prints what it says, and leaves its exit code in `status`, its reason to be skipped in `reason`.
run_recipe() {
    local output
    output=$(mktemp)
    status=0
    "./$1.sh" 2>&1 | tee "$output" || status=$?
    reason=$(sed -n 's/^skipped: //p' "$output" | tail -n 1)
    rm -f "$output"
}

(($#)) || set -- plain patroni cnpg cascade
result=0
summary=()
for recipe; do
    [[ -x $recipe.sh && $recipe != run && $recipe != lib ]] || { echo "run.sh: no recipe \"$recipe\"" >&2; exit 1; }
    echo "== $recipe"
    run_recipe "$recipe"
    case $status in
    0) summary+=("passed: recipe $recipe") ;;
    77) summary+=("skipped: $reason") ;;
    *)
        summary+=("FAILED: recipe $recipe (exit code $status)")
        result=1
        ;;
    esac
done
printf '%s\n' '' "${summary[@]}"
exit $result

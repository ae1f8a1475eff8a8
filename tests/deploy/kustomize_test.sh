#!/usr/bin/env bash
# Renders every kustomization and has validate_manifests.cjs look at the result; first at manifests that are wrong on
# purpose, to see that it finds what it should.
#
# usage: kustomize_test.sh WORK_DIR       exit status 77 (skipped) without kubectl 1.27 or newer, node or npm
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
kustomize=$here/../../deploy/kustomize
mkdir -p "$1"
cd "$1"

skip() {
  echo "skipped: $*"
  exit 77
}

# Written for kustomize 5, which kubectl carries since 1.27.
version=$(kubectl version --client --output=json 2> /dev/null \
  | sed -n 's/.*"kustomizeVersion": *"v\([0-9]*\).*/\1/p') || true
((${version:-0} >= 5)) || skip "no kubectl 1.27 or newer"

rendered=()
for dir in "$kustomize"/base "$kustomize"/overlays/*; do
  rendered+=("$(basename "$dir").yaml")
  kubectl kustomize "$dir" > "$(basename "$dir").yaml"
  echo "rendered $(basename "$dir")"
done

command -v node > /dev/null && command -v npm > /dev/null || skip "rendered, but no node and npm to validate with"
cp -p "$here"/package.json "$here"/package-lock.json "$here"/validate_manifests.cjs .
if [[ ! node_modules/.package-lock.json -nt package-lock.json ]]; then
  npm ci --ignore-scripts --no-audit --no-fund > npm.log 2>&1 \
    || skip "rendered, but npm cannot install; see $PWD/npm.log"
fi

found=$(node validate_manifests.cjs "$here/testdata/bad_manifests.yaml" 2>&1) && {
  echo "the validator accepts testdata/bad_manifests.yaml"
  exit 1
}
sed -n 's/.*# expect: //p' "$here/testdata/bad_manifests.yaml" | while read -r expected; do
  grep -qF -- "$expected" <<< "$found" || {
    printf 'the validator does not say "%s" but:\n%s\n' "$expected" "$found"
    exit 1
  }
done

node validate_manifests.cjs "${rendered[@]}"

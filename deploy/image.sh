#!/usr/bin/env bash
# Builds the container image on Debian with buildah, without a container engine's service or a registry: the base image
# is made from Debian's packages. Run as root.
#
# usage: deploy/image.sh [--tag NAME] [--base IMAGE] [--archive FILE]
#
#   --tag NAME       default localhost/understudy:dev
#   --base IMAGE     a Debian 12 image to build on, instead of making one (which is kept for the next build as
#                    localhost/understudy-base:bookworm; remove it to get a fresh one)
#   --archive FILE   also write the image as an OCI archive
set -euo pipefail
cd "$(dirname "$0")/.."

tag=localhost/understudy:dev base= archive=
while (($#)); do
  case $1 in
    --tag) tag=${2:?--tag needs a name} ;;
    --base) base=${2:?--base needs an image} ;;
    --archive) archive=$(realpath "${2:?--archive needs a file}") ;;
    *)
      sed -n '/^# usage/,/^set/{/^set/!s/^# \{0,1\}//p}' "$0" >&2
      exit 2
      ;;
  esac
  shift 2
done

# quietly WHAT COMMAND...: for what takes long and says nothing: a line before it and one every ten seconds (UNDERSTUDY_TICK: other than ten).
quietly() {
  local what=$1 begun=$SECONDS ticker status=0
  shift
  echo "$what" >&2
  while sleep "${UNDERSTUDY_TICK:-10}" &> /dev/null && kill -0 $$ 2> /dev/null; do echo "  $what: $((SECONDS - begun)) s" >&2; done &
  ticker=$!
  "$@" || status=$?
  kill "$ticker" 2> /dev/null || true
  return "$status"
}

deploy/install-deps.sh --image

# What debian:bookworm-slim is: the minimal system without documentation and translations.
make_base() {
  local dir
  dir=$(mktemp -d)
  trap 'rm -rf "$dir"' RETURN
  quietly "installing Debian 12 into an empty directory" \
    mmdebstrap --quiet --variant=minbase --include=ca-certificates \
    --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    bookworm "$dir/rootfs.tar" || return
  printf 'FROM scratch\nADD rootfs.tar /\nENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n' \
    > "$dir/Containerfile"
  quietly "making the base image $1 of it" buildah build --quiet --tag "$1" --file "$dir/Containerfile" "$dir" > "$dir/id"
}

if [[ -z $base ]]; then
  base=localhost/understudy-base:bookworm
  buildah inspect --type image "$base" > /dev/null 2>&1 || make_base "$base"
fi

# chroot: needs no OCI runtime and no cgroups, so it works inside a container or a small VM too.
echo "building $tag on $base: packages, then the compiler: minutes, the first time"
buildah build --isolation chroot --layers --build-arg "BASE=$base" --tag "$tag" \
  --file deploy/container/Containerfile --ignorefile deploy/container/Containerfile.dockerignore .
if [[ -n $archive ]]; then
  quietly "writing $archive" buildah push --quiet "$tag" "oci-archive:$archive:$tag"
fi
echo "built $tag"

#!/usr/bin/env bash
# deploy/image.sh says what it is doing and that it is still at it, and ends with the first thing that fails. With stand-ins for mmdebstrap
# and buildah, each of which takes a while and says nothing.
#
# usage: image_test.sh WORK_DIR
set -euo pipefail
script=$(cd "$(dirname "$0")/../../deploy" && pwd)/image.sh

rm -rf "$1"
mkdir -p "$1/bin"
cd "$1"
fail() {
  echo "FAILED: $*"
  cat ./*.out
  exit 1
}

cat > bin/mmdebstrap << EOF
#!/bin/sh
sleep 1
[ ! -e "$PWD/broken" ] || exit 9
for last; do :; done
: > "\$last"
EOF
cat > bin/buildah << EOF
#!/bin/sh
echo "\$*" >> "$PWD/called"
case "\$1" in
  inspect) exit 1 ;;
  push) sleep 1 ;;
esac
EOF
printf '#!/bin/sh\nprintf "ii  buildah\\nii  mmdebstrap\\nii  ca-certificates\\n"\n' > bin/dpkg-query
chmod +x bin/*
export PATH=$PWD/bin:$PATH UNDERSTUDY_TICK=0.3

"$script" --tag localhost/test:1 --archive "$PWD/image.tar" > image.out 2>&1 || fail "it does not get through"
for said in 'installing Debian 12' '  installing Debian 12 .*: [0-9]* s' 'making the base image' 'building localhost/test:1' \
  'writing .*image.tar' '  writing .*: [0-9]* s' 'built localhost/test:1'; do
  grep -q "^$said" image.out || fail "it does not say '$said'"
done
grep -q '^build --quiet --tag localhost/understudy-base:bookworm' called || fail "it makes no base image"
grep -q '^build --isolation chroot .*--tag localhost/test:1' called || fail "it builds nothing"
echo "ok: every step is told, and goes on being told"

: > broken
"$script" > broken.out 2>&1 && fail "it goes on without a base"
grep -q 'built' broken.out && fail "it says that it has built something"
echo "ok: what fails ends it"

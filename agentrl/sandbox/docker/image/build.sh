#!/usr/bin/env bash
# Builds the image of the docker sandbox.
#   build.sh debian   [IMAGE]   from Debian packages, without any registry (root, debootstrap)
#   build.sh registry [IMAGE]   from a registry's image, BASE (default python:3.12-slim-bookworm)
# PACKAGES adds Debian packages (PACKAGES="gcc libc6-dev nodejs"); MIRROR and SUITE name another archive;
# ENGINE=podman gives the image to Podman.
set -eu
kind=${1:-debian}
image=${2:-agentrl-sandbox:latest}
packages="python3 ${PACKAGES:-}"
engine=${ENGINE:-docker}

from_debian() {
  command -v debootstrap >/dev/null || {
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
      DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends debootstrap >/dev/null
    else
      echo "debootstrap is missing; run: sudo apt-get install -y debootstrap" >&2; exit 1
    fi; }
  [ "$(id -u)" = 0 ] || { echo "debootstrap needs root; run: sudo bash $0 $kind $image" >&2; exit 1; }
  root=$(mktemp -d)
  trap 'rm -rf "$root"' EXIT
  debootstrap --variant=minbase --include="$(echo $packages | tr ' ' ',')" \
    "${SUITE:-bookworm}" "$root" ${MIRROR:-} >"$root.log" 2>&1 || { tail -20 "$root.log" >&2; rm -f "$root.log"; exit 1; }
  rm -rf "$root.log" "$root"/var/cache/apt/archives/* "$root"/var/lib/apt/lists/* \
    "$root"/usr/share/doc "$root"/usr/share/man "$root"/usr/share/locale
  find "$root" -xdev -perm /6000 -exec chmod a-s {} +
  mkdir -p "$root/work" "$root/box" "$root/control"
  tar --numeric-owner -C "$root" -c . | "$engine" import --change 'CMD ["python3"]' - "$image"
}

from_registry() {
  "$engine" build --tag "$image" --build-arg BASE="${BASE:-python:3.12-slim-bookworm}" \
    --build-arg PACKAGES="${PACKAGES:-}" - <"$(dirname "$0")/Dockerfile"
}

case $kind in
  debian) from_debian ;;
  registry) from_registry ;;
  *) sed -n 's/^# \{0,1\}//p' "$0" | sed -n 2,6p >&2; exit 2 ;;
esac

#!/usr/bin/env bash
# Builds an image with Python 3.11 and pip from Debian packages, where no registry has python:3.11-slim.
#   conform_base.sh [IMAGE]      (root, debootstrap and a docker daemon)
# pip in it trusts this machine's certificates, and installs into the image's own Python.
set -eu
image=${1:-agentrl-python:3.11}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
PACKAGES="python3-pip python-is-python3 ca-certificates" SUITE=bookworm \
  bash "$(dirname "$0")/../agentrl/sandbox/docker/image/build.sh" debian "$image"
cp /etc/ssl/certs/ca-certificates.crt "$folder"
cat >"$folder/Dockerfile" <<END
FROM $image
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
RUN rm /usr/lib/python3*/EXTERNALLY-MANAGED
END
docker build --quiet --tag "$image" "$folder"

#!/usr/bin/env bash
# Fails when the protos break what the last release, or else the commit before,
# promised on the wire or in generated code.
set -euo pipefail
cd "$(dirname "$0")/.."
base=${BREAKING_BASE:-$(git describe --tags --abbrev=0 2>/dev/null || git rev-parse --verify -q HEAD^ || true)}
if [ -z "$base" ] || ! git cat-file -e "$base:proto/granary/v1" 2>/dev/null; then
	echo "breaking: nothing to compare with"
	exit 0
fi
tree=build/breaking
rm -rf "$tree" && mkdir -p "$tree"
git archive "$base" proto buf.yaml | tar -x -C "$tree"
mkdir -p "$tree/build" && cp -r build/proto-deps "$tree/build/"
go tool -modfile=tools/buf/go.mod buf breaking --against "$tree"
echo "breaking: compatible with $base"

#!/usr/bin/env bash
# Generates into the tree and fails if that changes anything.
set -euo pipefail
cd "$(dirname "$0")/.."
before=$(find proto/gen gateway/permissions_gen.go -type f -print0 | sort -z | xargs -0 sha256sum)
make --no-print-directory generate
after=$(find proto/gen gateway/permissions_gen.go -type f -print0 | sort -z | xargs -0 sha256sum)
if [ "$before" != "$after" ]; then
	echo "checkgenerate: the generated code is not what the protos make; run 'make generate' and commit" >&2
	diff <(echo "$before") <(echo "$after") >&2 || true
	exit 1
fi
echo "checkgenerate: the generated code is fresh"

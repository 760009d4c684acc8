#!/usr/bin/env bash
# Three nodes of bin/granary and a private PostgreSQL (installed if there is
# none) on this machine, all below ./data/cluster; ^C stops all. Flags go to the
# program: `deploy/cluster.sh -h`.
set -euo pipefail
cd "$(dirname "$0")/.."
"${GO:-go}" build -o build/localcluster ./cmd/internal/localcluster
# In place of this shell, so that signals reach it.
exec build/localcluster "$@"

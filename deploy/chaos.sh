#!/usr/bin/env bash
# The long form of the cluster's tests: CHAOS_FAULTS (1000) faults under load with
# everything checked, 30 kills timed, rolling restarts, ten minutes on a busy
# machine. About an hour on two cores that do nothing else. CHAOS_SEED replays a
# run's faults; CHAOS_RUN picks tests by a pattern.
set -euo pipefail
cd "$(dirname "$0")/.."
GO=${GO:-go}
if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1; then
	export GRANARY_TEST_REQUIRE_POSTGRES=1
fi
exec "$GO" test ./deploy/e2e -count=1 -v -timeout 3h -run "${CHAOS_RUN:-^TestCluster}" \
	-chaos.faults="${CHAOS_FAULTS:-1000}" -chaos.seed="${CHAOS_SEED:-0}"

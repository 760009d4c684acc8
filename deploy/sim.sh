#!/usr/bin/env bash
# Play SCHEDULES (1,000,000 unless set) schedules of the ownership protocol, one
# at a time per core, and print how many there were and how long they took. The
# seeds start at SIM_FROM (1), so that other runs can look elsewhere. A failing
# seed is printed with the command that replays it.
set -euo pipefail
cd "$(dirname "$0")/.."
GO=${GO:-go}
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
"$GO" test -c -o "$bin/sim.test" ./cluster/protocol/sim
"$bin/sim.test" -test.run 'TestEveryScheduleKeepsTheInvariants' -test.v -test.timeout 0 \
  -sim.n "${SCHEDULES:-1000000}" -sim.from "${SIM_FROM:-1}" -sim.workers "${SIM_WORKERS:-0}"

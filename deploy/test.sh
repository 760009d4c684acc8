#!/usr/bin/env bash
# All tests, with the race detector. Installs the C compiler that the race
# detector needs if there is none (Debian packages), and says so.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v "${CC:-gcc}" >/dev/null 2>&1; then
	echo "test: no C compiler for the race detector, installing Debian packages gcc and libc6-dev"
	sudo=""
	[ "$(id -u)" -eq 0 ] || sudo="sudo"
	$sudo apt-get update -qq
	$sudo apt-get install -y -qq gcc libc6-dev
fi
export CGO_ENABLED=1
# The PostgreSQL tests install the Debian package themselves; here they must not be skipped
# where that is possible.
if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1; then
	export GRANARY_TEST_REQUIRE_POSTGRES=1
fi
# Two packages at a time: the multi-process tests bring load of their own.
exec go test -race -p 2 -timeout 30m ${TESTFLAGS:-} ./...

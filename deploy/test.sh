#!/usr/bin/env bash
# All tests, with the race detector. Installs what they need and is not there
# (Debian packages: a C compiler for the race detector; iproute2, with which the
# cluster tests cut networks; promtool out of the package prometheus, which plays
# the rules of alerts), and says so.
set -euo pipefail
cd "$(dirname "$0")/.."

# install REASON PACKAGE…
install() {
	echo "test: $1, installing Debian packages ${*:2}"
	local sudo=""
	[ "$(id -u)" -eq 0 ] || sudo="sudo"
	$sudo apt-get update -qq
	$sudo apt-get install -y -qq "${@:2}"
}

# promtool is taken out of its package into build/: no server is installed, or started.
take_promtool() {
	echo "test: no promtool, taking it out of the Debian package prometheus into build/"
	local dir
	dir=$(mktemp -d)
	(cd "$dir" && chmod 755 . && { apt-get download -qq prometheus || { apt-get update -qq && apt-get download -qq prometheus; }; } &&
		dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x ./usr/bin/promtool) &&
		mkdir -p build && mv "$dir/usr/bin/promtool" build/promtool
	local done=$?
	rm -rf "$dir"
	return $done
}

if ! command -v "${CC:-gcc}" >/dev/null 2>&1; then
	install "no C compiler for the race detector" gcc libc6-dev
fi
export CGO_ENABLED=1
# The PostgreSQL tests install the Debian package themselves; here they must not be skipped
# where that is possible. Network namespaces are for root, too; without them those tests are
# skipped, and say so.
if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1; then
	export GRANARY_TEST_REQUIRE_POSTGRES=1
	if command -v promtool >/dev/null 2>&1 || [ -x build/promtool ] || take_promtool; then
		export GRANARY_TEST_REQUIRE_PROMTOOL=1
	fi
	if ! command -v ip >/dev/null 2>&1; then
		install "no ip command for network namespaces" iproute2 || echo "test: not installed; the tests in network namespaces will be skipped"
	fi
fi
# The driver of key services is a module of its own.
(cd cmd/granary-kms && go vet ./... && go test ${TESTFLAGS:-} ./...)
# Two packages at a time: the multi-process tests bring load of their own.
exec go test -race -p 2 -timeout 30m ${TESTFLAGS:-} ./...

// Package pgtest gives tests a private PostgreSQL: a server of their own in a
// temporary folder, made from the binaries of the Debian package and stopped,
// by its process id, when the tests end. Nothing else of the machine is
// touched: no system cluster, no fixed port, no shared folder.
//
//	var pg = pgtest.New(pgtest.Options{Migrate: migrate}) // in TestMain
//	url := pg.Database(t)                                 // a database per test
//	pg.Close()                                            // after m.Run
//
// The server starts with the first database asked for, so that tests which
// need none cost nothing. A template database is migrated once and cloned for
// each test. Every server has a random password, which its addresses carry.
//
// Where the binaries are missing and the tests run as root on a Debian-like
// system, the package postgresql is installed (and says so on standard error)
// without the cluster Debian would start. Where that is not possible the test
// is skipped, or fails if GRANARY_TEST_REQUIRE_POSTGRES is set: a build that
// relies on these tests sets it. GRANARY_TEST_POSTGRES_BIN names a folder of binaries
// to use instead, of another major version say.
//
// PostgreSQL refuses to run as root: tests of root run it as the user
// postgres, or else nobody. On Linux the server dies with the process that
// started it, even when that one is
// killed; only its folder then remains.
package pgtest

// Package sandbox runs package parse where it can be stopped: in child
// processes of the same binary ("granary parse-worker").
//
// Authority: none. A [Pool] owns its child processes and nothing else.
//
// A goroutine cannot be killed and its memory cannot be capped, and the
// sources come from strangers. So a worker is a process with
//   - memory capped twice: RLIMIT_DATA, which the worker sets for itself before
//     it reads the first job and which the kernel enforces for every private
//     writable mapping, and a watchdog in the parent that kills a worker whose
//     private resident memory exceeds the limit. GOMEMLIMIT stands below both,
//     so that the collector works harder before either strikes. RLIMIT_AS is of
//     no use: the Go runtime and wazero reserve far more than they touch;
//   - CPU time of every job measured by the parent, with RLIMIT_CPU as a stop
//     that works even if the parent hangs, and a wall-clock deadline;
//   - no network, no other programs (seccomp), an environment without secrets,
//     a session of its own, and a death signal that takes it down with the
//     server.
//
// On systems other than Linux what is missing of these is left out: the
// wall-clock deadline, the environment and GOMEMLIMIT always hold.
//
// Invariants:
//   - a job that kills its worker fails alone, as CRASHED, OUT_OF_MEMORY or
//     TIMEOUT; every other job goes on;
//   - what a worker answers is not believed: sizes are capped before they are
//     read and the result must pass parse.Check;
//   - after Close no worker and no goroutine is left.
//
// A worker's life: lazily started → idle ⇄ busy (one job at a time) → stopped
// after MaxJobs jobs, a minute of idleness, or at once when anything about it
// is in doubt.
package sandbox

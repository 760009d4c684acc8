package sandbox

import (
	"log/slog"
	"os"
	"runtime"
	"time"

	"granary.dev/granary/actors/pipeline/parse"
)

// Config configures a [Pool]. Zero fields take the defaults named here.
type Config struct {
	// Command is the argv of a worker: a program that calls [WorkerMain] on its
	// standard input and output. Default: this executable with "parse-worker".
	Command []string
	// Size is how many workers run at most; one tenant has at most one less, if
	// there are several. Default: one less than the processors, at least 2 and at
	// most 8.
	Size int
	// MemoryBytes caps the private memory of a worker. Default 512 MiB, and not
	// below 384 MiB where PDFs are parsed: compiling their module peaks at 315
	// MiB, once for a CacheDir; from the cache a worker holds 41 MiB.
	MemoryBytes int64
	// CPUTime caps the processor time of one job. Default 60 s.
	CPUTime time.Duration
	// WallTime caps the duration of one job, without its wait for a worker.
	// Default 2 min.
	WallTime time.Duration
	// MaxJobs is after how many jobs a worker is replaced. Default 200.
	MaxJobs int
	// IdleTime is how long an idle worker is kept. Default 1 min.
	IdleTime time.Duration
	// CacheDir keeps the compiled PDF module between workers; without it the
	// first PDF of every worker costs seconds. Default "": none.
	CacheDir string
	// Limits of every parse; see parse.DefaultLimits.
	Limits parse.Limits
	// Logger receives what workers write to standard error. Default: discarded.
	Logger *slog.Logger
}

func (c Config) withDefaults() (Config, error) {
	if len(c.Command) == 0 {
		exe, err := executable()
		if err != nil {
			return c, err
		}
		c.Command = []string{exe, "parse-worker"}
	}
	if c.Size <= 0 {
		c.Size = min(max(runtime.NumCPU()-1, 2), 8)
	}
	if c.MemoryBytes <= 0 {
		c.MemoryBytes = 512 << 20
	}
	if c.CPUTime <= 0 {
		c.CPUTime = time.Minute
	}
	if c.WallTime <= 0 {
		c.WallTime = 2 * time.Minute
	}
	if c.MaxJobs <= 0 {
		c.MaxJobs = 200
	}
	if c.IdleTime <= 0 {
		c.IdleTime = time.Minute
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.Limits = c.Limits.OrDefaults()
	return c, nil
}

// executable is this program. On Linux it is named by the running image, so
// that workers stay of the server's version while an upgrade replaces the file.
func executable() (string, error) {
	if runtime.GOOS == "linux" {
		return "/proc/self/exe", nil
	}
	return os.Executable()
}

// hello is what a worker is told before its first job.
type hello struct {
	MemoryBytes int64  `json:"memory_bytes"`
	CPUSeconds  uint64 `json:"cpu_seconds"` // for the worker's whole life
	CacheDir    string `json:"cache_dir"`
}

func (c Config) hello() hello {
	perJob := uint64(c.CPUTime/time.Second) + 1
	return hello{MemoryBytes: c.MemoryBytes, CPUSeconds: perJob*uint64(c.MaxJobs) + 60, CacheDir: c.CacheDir}
}

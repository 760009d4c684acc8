package parse

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/klippa-app/go-pdfium"
	"github.com/klippa-app/go-pdfium/webassembly"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"
)

// pdfEngine holds the compiled PDF module. It is made by the first PDF: the
// compilation takes seconds, or a tenth of one from the disk cache.
//
// The module is not compiled to look at the context, which would cost 2.5 times
// the processor time of every page: the context is looked at between pages, and
// a page that never ends is the watchdog's of package sandbox.
type pdfEngine struct {
	cacheDir string

	mu     sync.Mutex
	pool   pdfium.Pool
	cache  wazero.CompilationCache
	closed bool
}

// maxPDFInstances bounds parallel PDFs of one Parser; a worker runs one.
const maxPDFInstances = 8

// instance returns a fresh instance of the module, with memory of its own, so
// that no document meets what another has left. The linear memory is that of
// the first caller.
func (e *pdfEngine) instance(ctx context.Context, memoryPages uint32) (pdfium.Pdfium, error) {
	pool, err := e.start(memoryPages)
	if err != nil {
		return nil, err
	}
	return pool.GetInstanceWithContext(ctx)
}

func (e *pdfEngine) start(memoryPages uint32) (pdfium.Pool, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, errors.New("parser is closed")
	}
	if e.pool != nil {
		return e.pool, nil
	}
	rc := wazero.NewRuntimeConfig().
		WithCoreFeatures(api.CoreFeaturesV2 | experimental.CoreFeaturesExceptionHandling).
		WithMemoryLimitPages(memoryPages)
	if e.cacheDir != "" {
		cache, err := wazero.NewCompilationCacheWithDir(e.cacheDir)
		if err != nil {
			return nil, err
		}
		e.cache = cache
		rc = rc.WithCompilationCache(cache)
	}
	pool, err := webassembly.Init(webassembly.Config{
		MaxIdle:       1,
		MaxTotal:      maxPDFInstances,
		RuntimeConfig: rc,
		// Without this the module sees the file system of the host.
		FSConfig: wazero.NewFSConfig(),
		Stdout:   io.Discard,
		Stderr:   io.Discard,
	})
	if err != nil {
		return nil, errors.Join(err, e.closeCache())
	}
	e.pool = pool
	return pool, nil
}

func (e *pdfEngine) close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	var err error
	if e.pool != nil {
		err = e.pool.Close()
		e.pool = nil
	}
	return errors.Join(err, e.closeCache())
}

func (e *pdfEngine) closeCache() error {
	if e.cache == nil {
		return nil
	}
	cache := e.cache
	e.cache = nil
	return cache.Close(context.Background())
}

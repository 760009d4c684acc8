package metrics

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
)

const (
	// Of a scrape: Prometheus waits 10 s unless told otherwise, and asks one at a time.
	scrapeTime  = 10 * time.Second
	mostScrapes = 4
	maxHeader   = 16 << 10
	readTime    = 5 * time.Second
	idleTime    = 2 * time.Minute
	stopTime    = time.Second
)

// Server serves the metrics of a node, and nothing else.
type Server struct {
	http *http.Server
	done chan struct{}
}

// Serve answers GET /metrics on a listener until [Server.Stop].
func (r *Registry) Serve(l net.Listener, log *slog.Logger) *Server {
	peers := slog.NewLogLogger(log.Handler(), slog.LevelDebug) // what is wrong with scrapers
	gather := prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
		all, err := r.reg.Gather()
		if err != nil {
			log.Warn("some metrics are not shown", "error", err)
		}
		return all, err
	})
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(gather, promhttp.HandlerOpts{ErrorLog: peers, ErrorHandling: promhttp.ContinueOnError,
		MaxRequestsInFlight: mostScrapes}))
	s := &Server{done: make(chan struct{}), http: &http.Server{Handler: plain(mux), ReadHeaderTimeout: readTime, ReadTimeout: readTime,
		WriteTimeout: scrapeTime, IdleTimeout: idleTime, MaxHeaderBytes: maxHeader, ErrorLog: peers}}
	go func() {
		defer close(s.done)
		if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Error("metrics are not served any more", "error", err)
		}
	}()
	return s
}

// plain keeps answers out of caches and pages.
func plain(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		next.ServeHTTP(w, r)
	})
}

// Stop lets a scrape under way end, and then the server. Idempotent.
func (s *Server) Stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stopTime)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = s.http.Close() // a scraper that does not read
	}
	<-s.done
	return err
}

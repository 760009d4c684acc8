package gateway

import (
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

const (
	corsMethods = "GET, POST"
	corsHeaders = "Authorization, Connect-Protocol-Version, Connect-Timeout-Ms, Content-Encoding, Content-Type, " +
		"Grpc-Timeout, Idempotency-Key, If-None-Match, X-Grpc-Web, X-Request-Id, X-User-Agent"
	corsExposed = "ETag, Grpc-Message, Grpc-Status, Grpc-Status-Details-Bin, RateLimit, RateLimit-Policy, Retry-After, WWW-Authenticate, X-Request-Id"
)

// cors lets pages of the allowed origins call with Connect and gRPC-Web. Browsers
// send no cookies here and tokens only from script, so an origin that is not
// allowed simply gets no header and its page cannot read the answer.
func (g *Gateway) cors(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		origin := r.Header.Get("Origin")
		if origin == "" {
			next.ServeHTTP(w, r)
			return
		}
		preflight := r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != ""
		allowed := g.originAllowed(origin)
		h := w.Header()
		h.Add("Vary", "Origin")
		if allowed {
			h.Set("Access-Control-Allow-Origin", origin)
		}
		switch {
		case preflight && allowed:
			h.Set("Access-Control-Allow-Methods", corsMethods)
			h.Set("Access-Control-Allow-Headers", corsHeaders)
			h.Set("Access-Control-Max-Age", "7200")
			w.WriteHeader(http.StatusNoContent)
		case preflight:
			w.WriteHeader(http.StatusForbidden)
		default:
			if allowed {
				h.Set("Access-Control-Expose-Headers", corsExposed)
			}
			next.ServeHTTP(w, r)
		}
	})
}

func (g *Gateway) originAllowed(origin string) bool {
	if slices.Contains(g.cfg.AllowedOrigins, origin) {
		return true
	}
	if !g.cfg.AllowLocalOrigins {
		return false
	}
	u, err := url.Parse(origin)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.User != nil || u.Path != "" {
		return false
	}
	host := strings.ToLower(u.Hostname())
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

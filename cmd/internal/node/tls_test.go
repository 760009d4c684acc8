package node_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"granary.dev/granary/cmd/internal/node"
)

// certificate makes a self-signed certificate for 127.0.0.1.
func certificate(t *testing.T, dir string) (certFile, keyFile string, pool *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := errors.Join(os.WriteFile(certFile, cert, 0o600),
		os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}), 0o600)); err != nil {
		t.Fatal(err)
	}
	pool = x509.NewCertPool()
	pool.AppendCertsFromPEM(cert)
	return certFile, keyFile, pool
}

// Off loopback there is no plain text unless the operator says who encrypts.
func TestPlainTextIsForLoopbackOnly(t *testing.T) {
	for name, c := range map[string]struct {
		cfg node.Config
		ok  bool
	}{
		"loopback":         {node.Config{Listen: "127.0.0.1:1", Auth: node.AuthConfig{KeyFile: "k"}}, true},
		"everywhere":       {node.Config{Listen: ":1", Auth: node.AuthConfig{KeyFile: "k"}}, false},
		"behind a proxy":   {node.Config{Listen: ":1", Auth: node.AuthConfig{KeyFile: "k"}, TLS: node.TLSConfig{Upstream: true}}, true},
		"certificate":      {node.Config{Listen: ":1", Auth: node.AuthConfig{KeyFile: "k"}, TLS: node.TLSConfig{CertFile: "c", KeyFile: "k"}}, true},
		"half":             {node.Config{Auth: node.AuthConfig{KeyFile: "k"}, TLS: node.TLSConfig{CertFile: "c"}}, false},
		"dev everywhere":   {node.Config{Dev: true, Listen: ":1", TLS: node.TLSConfig{Upstream: true}}, false},
		"no way to log in": {node.Config{Listen: "127.0.0.1:1"}, false},
	} {
		if _, err := c.cfg.Complete(); (err == nil) != c.ok || err != nil && !errors.Is(err, node.ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestServesTLSWithHTTP2(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile, pool := certificate(t, dir)
	cfg, err := node.Config{Data: filepath.Join(dir, "data"), Listen: "127.0.0.1:0", Auth: node.AuthConfig{KeyFile: filepath.Join(dir, "key")},
		TLS: node.TLSConfig{CertFile: certFile, KeyFile: keyFile}}.Complete()
	if err != nil {
		t.Fatal(err)
	}
	n, err := node.Start(t.Context(), cfg, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := n.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}
	defer tr.CloseIdleConnections()
	r, err := (&http.Client{Transport: tr}).Get(n.URL() + "/ready")
	if err != nil {
		t.Fatal(err)
	}
	_ = r.Body.Close()
	if r.StatusCode != http.StatusOK || r.ProtoMajor != 2 {
		t.Errorf("%s over HTTP/%d", r.Status, r.ProtoMajor)
	}
	if r, err := http.Get("http://" + n.Addr().String() + "/ready"); err == nil {
		_ = r.Body.Close()
		if r.StatusCode == http.StatusOK {
			t.Error("plain text is answered")
		}
	}
}

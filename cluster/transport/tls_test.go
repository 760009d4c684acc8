package transport_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"granary.dev/granary/cluster/transport"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

// authority signs certificates for a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{key: newKey(t)}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// files are the TLS files of one node.
type files struct{ ca, cert, key string }

// issue writes the files of a node whose certificate change may spoil.
func (a *authority) issue(t *testing.T, f files, change func(*x509.Certificate)) {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), DNSNames: []string{transport.NodeName},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	if change != nil {
		change(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, f.ca, "CERTIFICATE", a.cert.Raw)
	writePEM(t, f.cert, "CERTIFICATE", der)
	writePEM(t, f.key, "EC PRIVATE KEY", keyDER)
}

func writePEM(t *testing.T, name, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

func newFiles(t *testing.T) files {
	dir := t.TempDir()
	return files{filepath.Join(dir, "ca.pem"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")}
}

func (f files) config(t *testing.T, log *slog.Logger) (client, server *tls.Config) {
	t.Helper()
	client, server, err := transport.TLSConfig(f.ca, f.cert, f.key, log)
	if err != nil {
		t.Fatal(err)
	}
	return client, server
}

func TestNodesOfOneAuthorityTalkOverTLS13(t *testing.T) {
	noLeaks(t)
	ca, f := newAuthority(t), newFiles(t)
	ca.issue(t, f, nil)
	client, server := f.config(t, nil)
	n := serve(t, transport.ServerConfig{Handler: &handler{}, TLS: server})
	c := dial(t, transport.Config{TLS: client})
	if got := outcome(t, c, n.addr, request(strings.Repeat("x", 1<<20))); got != nodev1.Outcome_OUTCOME_REPLY {
		t.Errorf("outcome %v", got)
	}
	if _, err := c.Ping(within(t), n.addr, &nodev1.PingRequest{}); err != nil {
		t.Errorf("ping: %v", err)
	}
	old := client.Clone()
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	_, err := dial(t, transport.Config{TLS: old}).Call(within(t), n.addr, request("x"))
	isOneOf(t, err, transport.ErrNotSent)
}

func TestWhoeverIsNoNodeOfTheClusterIsTurnedAway(t *testing.T) {
	noLeaks(t)
	ours, theirs := newAuthority(t), newAuthority(t)
	good := newFiles(t)
	ours.issue(t, good, nil)
	goodClient, goodServer := good.config(t, nil)
	n := serve(t, transport.ServerConfig{Handler: &handler{}, TLS: goodServer})
	plain := serve(t, transport.ServerConfig{Handler: &handler{}})

	cases := []struct {
		name   string
		ca     *authority
		change func(*x509.Certificate)
	}{
		{"another authority", theirs, nil},
		{"another name", ours, func(c *x509.Certificate) { c.DNSNames = []string{"localhost"} }},
		{"no name", ours, func(c *x509.Certificate) { c.DNSNames = nil; c.Subject.CommonName = transport.NodeName }},
		{"expired", ours, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }},
		{"not yet valid", ours, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }},
		{"other use", ours, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} }},
	}
	for _, one := range cases {
		f := newFiles(t)
		one.ca.issue(t, f, one.change)
		writePEM(t, f.ca, "CERTIFICATE", ours.cert.Raw) // it trusts us
		client, server := f.config(t, nil)
		if _, err := dial(t, transport.Config{TLS: client}).Call(within(t), n.addr, request("x")); err == nil {
			t.Errorf("%s: our server serves it", one.name)
		} else {
			isOneOf(t, err, transport.ErrNotSent)
		}
		bad := serve(t, transport.ServerConfig{Handler: &handler{}, TLS: server})
		if _, err := dial(t, transport.Config{TLS: goodClient}).Call(within(t), bad.addr, request("x")); err == nil {
			t.Errorf("%s: our client calls it", one.name)
		} else {
			isOneOf(t, err, transport.ErrNotSent)
		}
	}
	none := goodClient.Clone()
	none.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return new(tls.Certificate), nil }
	for name, attempt := range map[string]struct {
		tls  *tls.Config
		addr string
	}{
		"no certificate":        {none, n.addr},
		"plain text to TLS":     {nil, n.addr},
		"TLS to a plain server": {goodClient, plain.addr},
	} {
		_, err := dial(t, transport.Config{TLS: attempt.tls}).Call(within(t), attempt.addr, request("x"))
		if err == nil {
			t.Errorf("%s: was served", name)
		} else {
			isOneOf(t, err, transport.ErrNotSent)
		}
	}
	if got := outcome(t, dial(t, transport.Config{TLS: goodClient}), n.addr, request("x")); got != nodev1.Outcome_OUTCOME_REPLY {
		t.Errorf("a node of ours afterwards: %v", got)
	}
}

func TestChangedTLSFilesAreReadAgain(t *testing.T) {
	noLeaks(t)
	first, second := newAuthority(t), newAuthority(t)
	a, b := newFiles(t), newFiles(t)
	first.issue(t, a, nil)
	first.issue(t, b, nil)
	var log bytes.Buffer
	clientA, _ := a.config(t, slog.New(slog.NewTextHandler(&log, nil)))
	_, serverB := b.config(t, nil)
	n := serve(t, transport.ServerConfig{Handler: &handler{}, TLS: serverB})
	c := dial(t, transport.Config{TLS: clientA})
	reach := func() error {
		c.Forget(n.addr) // a connection that is up is not verified again
		_, err := c.Call(within(t), n.addr, request("x"))
		return err
	}
	if err := reach(); err != nil {
		t.Fatal(err)
	}
	second.issue(t, b, nil)
	until(t, "the server has another authority", func() bool { return reach() != nil })
	second.issue(t, a, nil)
	until(t, "both have the other authority", func() bool { return reach() == nil })

	if err := os.WriteFile(a.key, []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	<-time.After(transport.TLSRecheck + 50*time.Millisecond)
	if err := reach(); err != nil {
		t.Errorf("with a file that cannot be used: %v", err)
	}
	c.Close()
	if !strings.Contains(log.String(), "cannot be used") || strings.Contains(log.String(), "no key") {
		t.Errorf("the log says %s", log.String())
	}
}

func TestTLSFilesThatCannotBeUsedAreRefused(t *testing.T) {
	ca := newAuthority(t)
	for _, which := range []int{0, 1, 2} {
		f := newFiles(t)
		ca.issue(t, f, nil)
		names := []string{f.ca, f.cert, f.key}
		if err := os.WriteFile(names[which], []byte("nothing"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := transport.TLSConfig(names[0], names[1], names[2], nil); err == nil {
			t.Errorf("accepts %s", filepath.Base(names[which]))
		}
		names[which] += ".none"
		if _, _, err := transport.TLSConfig(names[0], names[1], names[2], nil); err == nil {
			t.Errorf("accepts that there is no %s", filepath.Base(names[which]))
		}
	}
}

func TestIsLoopback(t *testing.T) {
	for addr, want := range map[string]bool{
		"127.0.0.1:1": true, "127.8.9.1:1": true, "[::1]:1": true, "localhost:1": true, "[::ffff:127.0.0.1]:1": true,
		"10.0.0.1:1": false, ":1": false, "0.0.0.0:1": false, "[::]:1": false, "host1:7947": false,
		"127.0.0.1": false, "": false, "localhost.example:1": false,
	} {
		if got := transport.IsLoopback(addr); got != want {
			t.Errorf("IsLoopback(%q) = %v", addr, got)
		}
	}
}

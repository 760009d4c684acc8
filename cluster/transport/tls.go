package transport

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// NodeName is the DNS name that the certificate of every node must have as a
// subject alternative name. Nodes are recognised by it and by their authority,
// not by host names, so that they may change addresses.
const NodeName = "granary-node"

// recheckFiles is how old what was read of the files may be.
const recheckFiles = time.Second

// TLSConfig makes the configurations for [Config] and [ServerConfig] from PEM
// files: the authority of the cluster's nodes, and this node's certificate and
// key. Both sides must present a certificate that the authority signed for
// [NodeName], for the use that it makes of it; TLS 1.3 only.
//
// Files that change are read again, at the next handshake and within a second.
// While the new ones cannot be used, the old ones stay in force and logger
// hears why; nil: nobody does.
func TLSConfig(caFile, certFile, keyFile string, logger *slog.Logger) (client, server *tls.Config, err error) {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	k := &keyring{files: [3]string{caFile, certFile, keyFile}, logger: logger}
	if k.now, err = k.load(); err != nil {
		return nil, nil, err
	}
	k.checked = time.Now()
	client = &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{"h2"},
		ServerName: NodeName,
		// VerifyConnection does what this leaves out, with an authority that
		// may have changed since the configuration was made.
		InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			return k.verify(s, x509.ExtKeyUsageServerAuth)
		},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return k.current().cert, nil
		},
	}
	server = &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{"h2"},
		ClientAuth:             tls.RequireAnyClientCert, // verified below
		SessionTicketsDisabled: true,                     // each connection is verified anew
		VerifyConnection: func(s tls.ConnectionState) error {
			return k.verify(s, x509.ExtKeyUsageClientAuth)
		},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return k.current().cert, nil
		},
	}
	return client, server, nil
}

// keyring holds what was last read of the files.
type keyring struct {
	files  [3]string // authority, certificate, key
	logger *slog.Logger

	mu      sync.Mutex
	now     credential
	checked time.Time
}

// credential is the content of the files, and what they were like.
type credential struct {
	roots  *x509.CertPool
	cert   *tls.Certificate
	stamps [3]stamp
}

// stamp tells versions of a file apart.
type stamp struct {
	size     int64
	modified time.Time
}

// current gives the credential in force, after a look at the files if the last
// one is old.
func (k *keyring) current() credential {
	k.mu.Lock()
	defer k.mu.Unlock()
	if time.Since(k.checked) < recheckFiles {
		return k.now
	}
	k.checked = time.Now()
	if stamps, err := k.stamps(); err == nil && stamps == k.now.stamps {
		return k.now
	}
	next, err := k.load()
	if err != nil {
		k.logger.Warn("changed TLS files cannot be used, the former ones stay in force", "error", err)
		return k.now
	}
	k.logger.Info("TLS files read again", "certificate", k.files[1], "expires", next.cert.Leaf.NotAfter)
	k.now = next
	return k.now
}

func (k *keyring) stamps() (s [3]stamp, err error) {
	for i, name := range k.files {
		info, err := os.Stat(name)
		if err != nil {
			return s, err
		}
		s[i] = stamp{size: info.Size(), modified: info.ModTime()}
	}
	return s, nil
}

// load reads the files. The stamps are taken first: what changes meanwhile is
// read again.
func (k *keyring) load() (c credential, err error) {
	if c.stamps, err = k.stamps(); err != nil {
		return c, fmt.Errorf("transport: TLS: %w", err)
	}
	pem, err := os.ReadFile(k.files[0])
	if err != nil {
		return c, fmt.Errorf("transport: TLS authority: %w", err)
	}
	c.roots = x509.NewCertPool()
	if !c.roots.AppendCertsFromPEM(pem) {
		return c, fmt.Errorf("transport: TLS authority: no certificate in %s", k.files[0])
	}
	cert, err := tls.LoadX509KeyPair(k.files[1], k.files[2])
	if err != nil {
		return c, fmt.Errorf("transport: TLS certificate: %w", err)
	}
	c.cert = &cert
	return c, nil
}

var errNoCertificate = errors.New("transport: the node presents no certificate")

// verify checks the certificate of the other side.
func (k *keyring) verify(s tls.ConnectionState, usage x509.ExtKeyUsage) error {
	if len(s.PeerCertificates) == 0 {
		return errNoCertificate
	}
	between := x509.NewCertPool()
	for _, c := range s.PeerCertificates[1:] {
		between.AddCert(c)
	}
	if _, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{
		Roots: k.current().roots, Intermediates: between, DNSName: NodeName, KeyUsages: []x509.ExtKeyUsage{usage},
	}); err != nil {
		return fmt.Errorf("transport: certificate of the other node: %w", err)
	}
	return nil
}

// IsLoopback tells whether an address "host:port" can be reached from this
// machine only. A host that is no IP address is not looked up: of names, only
// localhost is.
func IsLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

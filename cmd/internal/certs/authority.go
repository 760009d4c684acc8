package certs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"time"

	"granary.dev/granary/cluster/transport"
)

const (
	pemCertificate = "CERTIFICATE"
	pemKey         = "PRIVATE KEY"
	// clockSkew is how far the clock of a node may lag behind ours.
	clockSkew = time.Hour
)

// pair is a certificate and its key, both in PEM.
type pair struct{ cert, key []byte }

// authority signs the certificates of nodes.
type authority struct {
	pair
	parsed *x509.Certificate
	signer crypto.Signer
}

// newAuthority makes one that is good until then.
func newAuthority(until time.Time) (*authority, error) {
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "Granary development authority"},
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("key of the authority: %w", err)
	}
	made, err := sign(template, until, key, template, key)
	if err != nil {
		return nil, fmt.Errorf("authority: %w", err)
	}
	return parseAuthority(made)
}

var errAuthority = errors.New("not a certificate of an authority and its key")

// parseAuthority reads one that was made before.
func parseAuthority(p pair) (*authority, error) {
	cert, key := decodePEM(p.cert, pemCertificate), decodePEM(p.key, pemKey)
	if cert == nil || key == nil {
		return nil, errAuthority
	}
	parsed, err := x509.ParseCertificate(cert)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errAuthority, err)
	}
	private, err := x509.ParsePKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errAuthority, err)
	}
	signer, ok := private.(crypto.Signer)
	if !ok || !parsed.IsCA {
		return nil, errAuthority
	}
	public, ok := signer.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(parsed.PublicKey) {
		return nil, fmt.Errorf("%w: they do not belong together", errAuthority)
	}
	return &authority{pair: p, parsed: parsed, signer: signer}, nil
}

func decodePEM(data []byte, kind string) []byte {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != kind {
		return nil
	}
	return block.Bytes
}

// node makes the certificate of a node, for both ends of a connection. It is
// good until then, and never longer than the authority.
func (a *authority) node(name string, hosts []string, until time.Time) (pair, error) {
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		DNSNames:              []string{transport.NodeName, name, "localhost"},
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	if until.After(a.parsed.NotAfter) {
		until = a.parsed.NotAfter
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return pair{}, fmt.Errorf("key of %s: %w", name, err)
	}
	made, err := sign(template, until, key, a.parsed, a.signer)
	if err != nil {
		return pair{}, fmt.Errorf("certificate of %s: %w", name, err)
	}
	return made, nil
}

// sign completes the template of the certificate of key and signs it.
func sign(template *x509.Certificate, until time.Time, key *ecdsa.PrivateKey, parent *x509.Certificate, signer crypto.Signer) (pair, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return pair{}, err
	}
	template.SerialNumber = serial
	template.NotBefore, template.NotAfter = time.Now().Add(-clockSkew), until
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		return pair{}, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return pair{}, err
	}
	return pair{
		cert: pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: der}),
		key:  pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: private}),
	}, nil
}

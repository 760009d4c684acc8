package certs

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"granary.dev/granary/cluster/transport"
)

func run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	cmd := Command()
	cmd.SetArgs(append([]string{"dev"}, args...))
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func mustRun(t *testing.T, args ...string) {
	t.Helper()
	if out, err := run(t, args...); err != nil {
		t.Fatal(err, out)
	}
}

// files reads the folder.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		out[e.Name()] = string(data)
	}
	return out
}

// talk makes a connection between two nodes as the transport configures them.
func talk(t *testing.T, clientDir, clientName, serverDir, serverName string) error {
	t.Helper()
	config := func(dir, name string) (client, server *tls.Config) {
		client, server, err := transport.TLSConfig(filepath.Join(dir, caFile), filepath.Join(dir, certFile(name)), filepath.Join(dir, keyFile(name)), nil)
		if err != nil {
			t.Fatal(err)
		}
		return client, server
	}
	client, _ := config(clientDir, clientName)
	_, server := config(serverDir, serverName)
	return handshake(t, client, server)
}

func handshake(t *testing.T, client, server *tls.Config) error {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	served := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			served <- err
			return
		}
		defer c.Close()
		conn := tls.Server(c, server)
		if err = conn.HandshakeContext(ctx); err == nil {
			_, err = conn.Write([]byte("x")) // the client hears of a refusal with its first read
		}
		served <- err
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn := tls.Client(c, client)
	err = conn.HandshakeContext(ctx)
	if err == nil {
		_, err = conn.Read(make([]byte, 1))
	}
	return errors.Join(err, c.Close(), <-served)
}

func TestOneCommandMakesWhatNodesNeedToTrustEachOther_A2(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "certs")
	out, err := run(t, "--out", dir, "--host", "db.example.org", "--host", "10.1.2.3", "--days", "10")
	if err != nil {
		t.Fatal(err, out)
	}
	if !strings.Contains(out, filepath.Join(dir, "n3-key.pem")) || !strings.Contains(out, "--gossip-key-file") {
		t.Error(out)
	}
	if err := talk(t, dir, "n1", dir, "n2"); err != nil {
		t.Errorf("two nodes: %v", err)
	}
	for _, name := range []string{"ca-key.pem", "n1-key.pem", "gossip.key"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", name, info, err)
		}
	}
	all := files(t, dir)
	if key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(all["gossip.key"])); err != nil || len(key) != 32 {
		t.Errorf("gossip key: %d bytes, %v", len(key), err)
	}
	if len(all) != 9 {
		t.Errorf("%d files", len(all))
	}
}

// A client of the API that trusts the authority accepts the node by any of its names.
func TestCertificatesCarryTheNamesOfTheNode(t *testing.T) {
	dir := t.TempDir()
	mustRun(t, "--out", dir, "--nodes", "n1", "--host", "db.example.org", "--host", "10.1.2.3", "--days", "10")
	all := files(t, dir)
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(all["ca.pem"])) {
		t.Fatal("no authority")
	}
	cert, err := tls.X509KeyPair([]byte(all["n1.pem"]), []byte(all["n1-key.pem"]))
	if err != nil {
		t.Fatal(err)
	}
	for name, ok := range map[string]bool{"n1": true, "localhost": true, "127.0.0.1": true, "::1": true, "db.example.org": true,
		"10.1.2.3": true, transport.NodeName: true, "n2": false, "other.example.org": false, "10.1.2.4": false} {
		err := handshake(t, &tls.Config{RootCAs: roots, ServerName: name}, &tls.Config{Certificates: []tls.Certificate{cert}})
		if (err == nil) != ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	for days, ok := range map[int]bool{9: true, 11: false} {
		client := &tls.Config{RootCAs: roots, ServerName: "n1", Time: func() time.Time { return time.Now().AddDate(0, 0, days) }}
		if err := handshake(t, client, &tls.Config{Certificates: []tls.Certificate{cert}}); (err == nil) != ok {
			t.Errorf("after %d days: %v", days, err)
		}
	}
}

func TestNodesOfAnotherAuthorityAreNotTrusted(t *testing.T) {
	ours, theirs := t.TempDir(), t.TempDir()
	mustRun(t, "--out", ours)
	mustRun(t, "--out", theirs)
	if talk(t, ours, "n1", theirs, "n2") == nil || talk(t, theirs, "n1", ours, "n2") == nil {
		t.Error("strangers spoke")
	}
}

func TestMoreNodesUseTheAuthorityThatIsThere(t *testing.T) {
	dir := t.TempDir()
	mustRun(t, "--out", dir, "--nodes", "n1,n2")
	before := files(t, dir)
	mustRun(t, "--out", dir, "--nodes", "n3", "--days", "3650") // no longer than the authority
	after := files(t, dir)
	for name, data := range before {
		if after[name] != data {
			t.Errorf("%s has changed", name)
		}
	}
	if err := talk(t, dir, "n3", dir, "n1"); err != nil {
		t.Error(err)
	}
}

func TestFilesOfANodeAreNotWrittenOverUnlessForced(t *testing.T) {
	dir := t.TempDir()
	mustRun(t, "--out", dir, "--nodes", "n1")
	before := files(t, dir)
	if _, err := run(t, "--out", dir, "--nodes", "n2,n1"); err == nil || !strings.Contains(err.Error(), "--force") {
		t.Errorf("written over: %v", err)
	}
	if after := files(t, dir); len(after) != len(before) {
		t.Errorf("half of it was written: %d files", len(after))
	}
	mustRun(t, "--out", dir, "--nodes", "n1", "--force")
	for name, data := range files(t, dir) {
		if before[name] == data {
			t.Errorf("%s is the same", name)
		}
	}
	if err := os.Remove(filepath.Join(dir, "ca-key.pem")); err != nil {
		t.Fatal(err)
	}
	if _, err := run(t, "--out", dir, "--nodes", "n9"); err == nil || !strings.Contains(err.Error(), "ca-key.pem") {
		t.Errorf("half an authority: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "ca-key.pem"), []byte(before["ca-key.pem"]), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := run(t, "--out", dir, "--nodes", "n9"); !errors.Is(err, errAuthority) {
		t.Errorf("another's key: %v", err)
	}
}

func TestWrongUseIsExitCode2(t *testing.T) {
	dir := t.TempDir()
	for _, args := range [][]string{
		{},
		{"--out", dir, "--days", "0"},
		{"--out", dir, "--nodes", "../n1"},
		{"--out", dir, "--nodes", "ca"},
		{"--out", dir, "--nodes", "n1,n1"},
		{"--out", dir, "--nodes", "n1,n1-key"},
		{"--out", dir, "--nodes", ""},
		{"--out", dir, "--host", "no host"},
	} {
		_, err := run(t, args...)
		var coded interface{ ExitCode() int }
		if !errors.As(err, &coded) || coded.ExitCode() != 2 {
			t.Errorf("%q: %v", args, err)
		}
	}
	if all := files(t, dir); len(all) != 0 {
		t.Errorf("wrote %d files", len(all))
	}
}

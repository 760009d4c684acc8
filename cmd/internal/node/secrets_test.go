package node_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"granary.dev/granary/actors/journal/trail"
	"granary.dev/granary/cmd/internal/node"
	"granary.dev/granary/cmd/internal/nodetest"
	"granary.dev/granary/gateway/apikey"
	"granary.dev/granary/gateway/auth"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
	"granary.dev/granary/storage/embedded"
	"granary.dev/granary/storage/sealed"
	"granary.dev/granary/storage/sealed/sealedtest"
)

// serverSecrets are what servers make for themselves.
type serverSecrets struct{ pepper, audit, receipts []byte }

func plainSecrets(t *testing.T) (s serverSecrets) {
	t.Helper()
	s.pepper = make([]byte, 32)
	_, err := rand.Read(s.pepper)
	s.audit = must(t)(trail.NewKeyPEM())
	s.receipts = must(t)(auth.NewKeyPEM())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func must(t *testing.T) func([]byte, error) []byte {
	t.Helper()
	return func(b []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
}

// forms are how the secrets could lie somewhere: as they are, and the seeds of keys.
func (s serverSecrets) forms(t *testing.T) (out [][]byte) {
	t.Helper()
	for _, b := range [][]byte{s.pepper, s.audit, s.receipts} {
		raw := b
		if block, _ := pem.Decode(b); block != nil {
			raw = block.Bytes[len(block.Bytes)-32:] // of PKCS #8: the seed of an Ed25519 key
			if _, err := x509.ParsePKCS8PrivateKey(block.Bytes); err != nil {
				t.Fatal(err)
			}
			out = append(out, bytes.TrimSpace(b), block.Bytes)
		}
		out = append(out, raw, []byte(hex.EncodeToString(raw)), []byte(base64.StdEncoding.EncodeToString(raw)[:40]))
	}
	return out
}

// in counts which of the forms are in these bytes.
func (s serverSecrets) in(t *testing.T, data []byte) (n int) {
	t.Helper()
	for _, f := range s.forms(t) {
		if bytes.Contains(data, f) {
			n++
		}
	}
	return n
}

// wantUsed proves that a node works with these secrets, and returns an API key.
func (s serverSecrets) wantUsed(t *testing.T, c *nodetest.Clients) string {
	t.Helper()
	key, err := c.Access.CreateApiKey(t.Context(), &granaryv1.CreateApiKeyRequest{Grants: []*granaryv1.AccessGrant{{Role: "viewer"}}})
	if err != nil {
		t.Fatal(err)
	}
	if k, err := apikey.Parse(key.GetSecret()); err != nil || !k.Issued(s.pepper) {
		t.Errorf("API keys are made with another pepper (%v)", err)
	}
	receipts, err := c.Erasures.GetReceiptKey(t.Context(), &granaryv1.GetReceiptKeyRequest{})
	if err != nil || receipts.GetPublicKey() != publicPEM(t, s.receipts) {
		t.Errorf("receipts are signed with another key (%v)", err)
	}
	return key.GetSecret()
}

func publicPEM(t *testing.T, key []byte) string {
	t.Helper()
	block, _ := pem.Decode(key)
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	der := must(t)(x509.MarshalPKIXPublicKey(parsed.(ed25519.PrivateKey).Public()))
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// sealedIn reads what a store has sealed under the names of the secrets.
func sealedIn(t *testing.T, s *sealed.Store) (out serverSecrets) {
	t.Helper()
	for name, to := range map[string]*[]byte{"api-key-pepper": &out.pepper, "audit-signing-key": &out.audit, "receipt-signing-key": &out.receipts} {
		value, err := s.Secret(t.Context(), name, nowhere{}, func() ([]byte, error) { return nil, errors.New("it is not there") })
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		*to = value
	}
	return out
}

// nowhere is the former place of secrets that never lay in plain.
type nowhere struct{}

// Take implements sealed.Former.
func (nowhere) Take(context.Context) ([]byte, error) { return nil, nil }

// Wipe implements sealed.Former.
func (nowhere) Wipe(context.Context, []byte) error { return nil }

// allFiles gives the bytes of all files of a folder.
func allFiles(t *testing.T, dir string) []byte {
	t.Helper()
	var out bytes.Buffer
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		out.Write(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// openFolder unseals the data folder of a node that does not run.
func openFolder(t *testing.T, s *nodetest.Server) *sealed.Store {
	t.Helper()
	inner, err := embedded.Open(t.Context(), embedded.Config{Dir: s.Data})
	if err != nil {
		t.Fatal(err)
	}
	master, err := sealed.FixedMaster(must(t)(os.ReadFile(filepath.Join(s.Data, "master-key"))))
	if err != nil {
		t.Fatal(err)
	}
	store, err := sealed.Open(t.Context(), inner, sealed.Config{Master: master, Lone: true})
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// I2: what a node that is alone makes for itself is nowhere in its data folder in plain.
func TestI2_LoneNodeKeepsItsSecretsSealed(t *testing.T) {
	s := nodetest.Start(t)
	s.CreateKB(t, "handbook")
	s.Stop()
	store := openFolder(t, s)
	own := sealedIn(t, store)
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	if n := own.in(t, allFiles(t, s.Data)); n > 0 || len(own.pepper) != 32 {
		t.Errorf("%d forms of secrets of %d bytes are in the data folder", n, len(own.pepper))
	}
}

// I2: secrets that lie in plain in a data folder from before are sealed at the next
// start, go on being used, and their files are gone, even if a crash came between.
func TestI2_LoneNodeSealsSecretsThatLayInPlain(t *testing.T) {
	old := plainSecrets(t)
	var s *nodetest.Server
	plain := map[string][]byte{"api-key-pepper": old.pepper, "audit-key": old.audit, "receipt-key": old.receipts}
	put := func(data string) {
		for name, value := range plain {
			if err := os.WriteFile(filepath.Join(data, name), value, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	s = nodetest.Start(t, func(c *node.Config) { put(c.Data) })
	key := old.wantUsed(t, s.Clients)
	gone := func(when string) {
		t.Helper()
		for name := range plain {
			if _, err := os.Stat(filepath.Join(s.Data, name)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %s is still there (%v)", when, name, err)
			}
		}
	}
	gone("after a start")
	s.Stop()
	if n := old.in(t, allFiles(t, s.Data)); n > 0 {
		t.Errorf("%d forms of secrets are in the data folder", n)
	}
	put(s.Data) // as if it had stopped before it removed them
	if err := os.WriteFile(filepath.Join(s.Data, "api-key-pepper"), make([]byte, 32), 0o600); err != nil {
		t.Fatal(err) // one that was overwritten already
	}
	s.Restart()
	gone("after another start")
	if _, err := nodetest.Dial(t, s.URL, key).KBs.ListKnowledgeBases(t.Context(), &granaryv1.ListKnowledgeBasesRequest{}); err != nil {
		t.Errorf("an API key of before: %v", err)
	}
}

// dumpTables gives all rows as text, byte strings in hex and as they are.
func dumpTables(t *testing.T, c *nodetest.Cluster) []byte {
	t.Helper()
	var out bytes.Buffer
	rows, err := c.DB.Query(t.Context(), `SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')`)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(tables) < 15 {
		t.Fatalf("%d tables, %v", len(tables), err)
	}
	for _, table := range tables {
		rows, err := c.DB.Query(t.Context(), `SELECT * FROM `+table)
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			values, err := rows.Values()
			if err != nil {
				t.Fatal(err)
			}
			for _, v := range values {
				if b, ok := v.([]byte); ok {
					out.Write(b)
					fmt.Fprintf(&out, " %x ", b)
					continue
				}
				fmt.Fprint(&out, v, " ")
			}
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
	}
	return out.Bytes()
}

// I2: three nodes that start at once on a database in which secrets lie in plain seal
// them, and work with them; no table has them in plain then. The same for those that
// nodes make on an empty database.
func TestI2_NodesKeepTheirSecretsSealedInTheDatabase(t *testing.T) {
	for _, before := range []bool{true, false} {
		t.Run(fmt.Sprint("from before ", before), func(t *testing.T) {
			c := nodetest.StartCluster(t, pg.Database(t), 0)
			old := plainSecrets(t)
			for name, value := range map[string][]byte{"api-key-pepper": old.pepper, "audit-signing-key": old.audit, "receipt-signing-key": old.receipts} {
				if !before {
					break
				}
				if _, err := c.DB.Exec(t.Context(), `INSERT INTO cluster_secret VALUES ($1, $2)`, name, value); err != nil {
					t.Fatal(err)
				}
			}
			if before && old.in(t, dumpTables(t, c)) == 0 {
				t.Fatal("the secrets are not in the dump: the test shows nothing")
			}
			var all sync.WaitGroup
			for range 3 {
				m := c.Make()
				all.Go(func() {
					if err := m.Begin(t.Context()); err != nil {
						t.Error(err)
					}
				})
			}
			all.Wait()
			if t.Failed() {
				return
			}
			c.Settle(c.Nodes...)
			unseal, err := sealedtest.Open(t.Context(), c.DB)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = unseal.Close() }()
			own := sealedIn(t, unseal)
			if before && (!bytes.Equal(own.pepper, old.pepper) || !bytes.Equal(own.audit, old.audit) || !bytes.Equal(own.receipts, old.receipts)) {
				t.Error("other secrets are sealed than lay in plain")
			}
			for i, m := range c.Nodes {
				key := own.wantUsed(t, m.Clients)
				next := c.Nodes[(i+1)%len(c.Nodes)]
				if _, err := nodetest.Dial(t, next.URL, key).KBs.ListKnowledgeBases(t.Context(), &granaryv1.ListKnowledgeBasesRequest{}); err != nil {
					t.Errorf("a key made by %s at %s: %v", m.Name, next.Name, err)
				}
			}
			if n := own.in(t, dumpTables(t, c)); n > 0 {
				t.Errorf("%d forms of secrets are in the tables", n)
			}
		})
	}
}

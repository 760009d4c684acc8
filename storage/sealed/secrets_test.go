//go:build unix

package sealed_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"testing"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/storage/sealed"
)

// plainPlace is where a secret of before lies.
type plainPlace struct {
	mu    sync.Mutex
	value []byte
	err   error
}

// Take implements sealed.Former.
func (p *plainPlace) Take(context.Context) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return bytes.Clone(p.value), p.err
}

// Wipe implements sealed.Former.
func (p *plainPlace) Wipe(_ context.Context, old []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if bytes.Equal(p.value, old) {
		p.value = nil
	}
	return nil
}

func made(value string) func() ([]byte, error) {
	return func() ([]byte, error) { return []byte(value), nil }
}

// inDump reports whether bytes are stored in plain, in hex or in base64.
func inDump(dump, secret []byte) bool {
	return bytes.Contains(dump, secret) || bytes.Contains(dump, []byte(hex.EncodeToString(secret))) ||
		bytes.Contains(dump, []byte(base64.RawStdEncoding.EncodeToString(secret[:len(secret)/3*3])))
}

// I2: what servers keep secret is sealed under the master key: a new one, and one that
// lay in plain, whose former place is emptied. A rotation of the master key takes it along.
func TestI2_SecretsOfServersAreSealed(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		file := newKeysFile(t)
		s := w.over(t, w.inner(t), sealed.Config{Master: file.read(t), Lone: true})
		plant(t, s, "acme", "k")
		empty, lying := &plainPlace{}, &plainPlace{value: []byte("a pepper that lay in plain here ")}
		want := map[string]string{"new": "a secret that was made just now", "old": string(lying.value)}
		for name, former := range map[string]*plainPlace{"new": empty, "old": lying} {
			got, err := s.Secret(t.Context(), name, former, made(want["new"]))
			if err != nil || string(got) != want[name] {
				t.Fatalf("%s: %q, %v", name, []byte(got), err)
			}
		}
		if lying.value != nil {
			t.Error("it still lies in plain")
		}
		other := &plainPlace{value: []byte("of somebody else")}
		if got, err := s.Secret(t.Context(), "old", other, made("never")); err != nil || string(got) != want["old"] || other.value == nil {
			t.Errorf("beside another one in plain: %q, %v, left %q", []byte(got), err, other.value)
		}
		away := &plainPlace{err: journal.ErrUnavailable}
		if _, err := s.Secret(t.Context(), "old", away, made("never")); !errors.Is(err, journal.ErrUnavailable) {
			t.Errorf("while the former place cannot be looked at: %v", err)
		}
		if _, err := s.Secret(t.Context(), "third", empty, func() ([]byte, error) { return nil, errors.New("no luck") }); err == nil {
			t.Error("a secret that could not be made")
		}
		list, err := s.List(t.Context(), "", 1)
		if err != nil || len(list) != 1 || list[0].Tenant != journal.StoreKeys {
			t.Errorf("operators see %+v, %v", list, err)
		}

		old, _ := file.load(t.Context())
		fresh, err := sealed.NewMasterKey()
		check(t, err)
		file.set(append(bytes.Clone(fresh), old...))
		done, err := s.RotateMaster(t.Context(), 0)
		if err != nil || done.Wrapped != 2 || !done.Complete { // the store's and acme's: secrets are not counted
			t.Fatalf("rotated the master key: %+v, %v", done, err)
		}
		check(t, s.Close())
		inner := w.inner(t)
		s = w.over(t, inner, sealed.Config{Master: fixed(t, fresh), Lone: true})
		for name, value := range want {
			if got, err := s.Secret(t.Context(), name, empty, made("never")); err != nil || string(got) != value {
				t.Errorf("%s under the new master key: %q, %v", name, []byte(got), err)
			}
		}
		if s.Stats().Failures() != 0 {
			t.Errorf("counted %+v", s.Stats())
		}
		w.exec(t, `UPDATE tenant_keys SET wrapped = (SELECT wrapped FROM tenant_keys WHERE tenant = '#secret:new') WHERE tenant = '#secret:old'`)
		if _, err := s.Secret(t.Context(), "old", empty, made("never")); !errors.Is(err, journal.ErrCorrupt) {
			t.Errorf("a secret in another's place: %v", err)
		}
		if s.Stats().Keys != 1 {
			t.Errorf("counted %+v", s.Stats())
		}
		check(t, s.Close())
		dump := w.dump(t)
		for _, value := range want {
			if inDump(dump, []byte(value)) {
				t.Errorf("%q is in plain", value)
			}
		}
	})
}

// I2: of nodes that start at once, all get the same secret: the one that lay in plain,
// or one of those they made.
func TestI2_NodesThatStartAtOnceShareSecrets(t *testing.T) {
	w := onPostgres(t)
	for _, lying := range []*plainPlace{{}, {value: []byte("a pepper that lay in plain here ")}} {
		want := string(lying.value)
		name := fmt.Sprint("pepper", len(want))
		got := make([]string, 8)
		nodes := make([]*sealed.Store, len(got))
		for i := range nodes {
			nodes[i] = w.over(t, w.inner(t), sealed.Config{})
		}
		var wg sync.WaitGroup
		for i := range got {
			wg.Go(func() {
				value, err := nodes[i].Secret(t.Context(), name, lying, made(fmt.Sprint("made by ", i)))
				if got[i] = string(value); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		for _, value := range got {
			if value != got[0] || value == "" || want != "" && value != want {
				t.Errorf("got %q, and %q", value, got)
			}
		}
		if lying.value != nil {
			t.Error("it still lies in plain")
		}
	}
}

package sealed

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/tink-crypto/tink-go/v2/keyset"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/storage/internal/codec"
)

// What a tenant stored under earlier keys is written anew under the one that seals, in
// place: a value means the same under either, so that nobody who reads or writes
// meanwhile need know. A row that is another by now was written under the new key
// already. Chains of events are over what was said, not over what is stored.
//
// When a pass that began [Config.Settle] after the rotation has come to its end there
// is nothing left under the earlier keys, and they are destroyed.

// ErrPosition says that a position is none of [Store.Reencrypt].
var ErrPosition = errors.New("sealed: no position of a re-encryption")

// Reencryption is what a call of Reencrypt has done.
type Reencryption struct {
	Seen     int64  // values looked at by this call
	Sealed   int64  // of them, written anew
	Broken   int64  // of them, those that do not open: they stay as they are
	Next     string // where to go on; "" when the pass is over
	Stage    string // what is looked at next
	Dropped  int    // earlier keys that were destroyed
	Complete bool   // there are no earlier keys any more
	// NotBefore is when a pass may begin that can destroy the earlier keys.
	NotBefore time.Time
}

// pass is how far a pass has come.
type pass struct {
	Primary string   `json:"p"`
	Began   int64    `json:"b"` // Unix milliseconds
	Stage   int      `json:"s"`
	After   []string `json:"a,omitempty"`
	Wait    int64    `json:"w,omitempty"` // until when responses are kept that cannot be written anew
}

// stages are what a pass looks at, in order; the last two are no rows.
var stages = []string{journal.SealedEvents, journal.SealedSnapshots, journal.SealedResponses, journal.SealedDeadLetters,
	journal.SealedChunks, journal.SealedVectors, "blobs", "indexes"}

const (
	pageOfRows  = 256
	pageOfBlobs = 16
	// restOfWork is how much longer it rests than it works, so that others come first.
	restOfWork = 1
)

// Reencrypt goes on from a position, "" for a new pass, until limit has passed, 0 meaning
// never. Any node may go on. Errors: ErrUnknownTenant, ErrPosition.
func (s *Store) Reencrypt(ctx context.Context, tenant, from string, limit time.Duration) (Reencryption, error) {
	start := time.Now()
	var out Reencryption
	p := pass{Began: start.UnixMilli()}
	if from != "" {
		data, err := base64.RawURLEncoding.DecodeString(from)
		if err != nil || json.Unmarshal(data, &p) != nil || p.Stage < 0 || p.Stage >= len(stages) {
			return out, ErrPosition
		}
	}
	k, err := s.ring.read(ctx, tenant)
	if isNoKeys(err) {
		return out, fmt.Errorf("%w: %s", ErrUnknownTenant, tenant)
	}
	if err != nil {
		return out, s.failed(failKeys, tenant, "keys", err)
	}
	if p.Primary != k.primary { // a new pass, or rotated meanwhile
		p = pass{Primary: k.primary, Began: start.UnixMilli()}
	}
	if len(k.ids) == 1 {
		out.Complete = true
		return out, nil
	}
	for steps := 0; p.Stage < len(stages); steps++ {
		if limit > 0 && steps > 0 && time.Since(start) > limit {
			data, err := json.Marshal(p)
			out.Next, out.Stage = base64.RawURLEncoding.EncodeToString(data), stages[p.Stage]
			return out, err
		}
		worked := time.Now()
		if err := s.step(ctx, k, &p, &out); err != nil {
			return out, err
		}
		select {
		case <-time.After(restOfWork * time.Since(worked)):
		case <-ctx.Done():
			return out, ctx.Err()
		}
	}
	return out, s.finish(ctx, tenant, p, &out)
}

// finish destroys the earlier keys if nothing can be left under them.
func (s *Store) finish(ctx context.Context, tenant string, p pass, out *Reencryption) error {
	_, err := s.rewrite(ctx, tenant, func(rec journal.KeyRecord, data []byte) (journal.KeyRecord, []byte, error) {
		k, err := decodeKeys(tenant, data)
		if err != nil {
			return rec, nil, fmt.Errorf("%w: %w", journal.ErrCorrupt, err)
		}
		out.NotBefore, out.Dropped = time.Time{}, 0
		out.Complete = len(k.ids) == 1
		settled := rec.Rotated.Add(s.ring.cfg.Settle)
		if rec.Primary != p.Primary || p.Wait > 0 || !time.UnixMilli(p.Began).After(settled) {
			out.NotBefore = settled
			if wait := time.UnixMilli(p.Wait); wait.After(settled) {
				out.NotBefore = wait
			}
			return rec, nil, nil
		}
		only, err := k.only()
		if err != nil || out.Complete {
			return rec, nil, err
		}
		out.Dropped, out.Complete = len(k.ids)-1, true
		data, err = only.encode()
		return rec, data, err
	})
	if err == nil && out.Dropped > 0 {
		s.log.Info("earlier keys of a tenant destroyed: all it stored is sealed with the last one", "tenant", tenant, "key", p.Primary, "destroyed", out.Dropped)
	}
	return err
}

// only gives the same keys without those that do not seal.
func (k *keys) only() (*keys, error) {
	m := keyset.NewManagerFromHandle(k.handle)
	for _, id := range k.ids {
		if keyName(id) == k.primary {
			continue
		}
		if err := m.Delete(id); err != nil {
			return nil, fmt.Errorf("sealed: remove a key: %w", err)
		}
	}
	h, err := m.Handle()
	if err != nil {
		return nil, fmt.Errorf("sealed: remove keys: %w", err)
	}
	return useKeys(k.tenant, h, k.hashKey, k.mixed)
}

// prefix is how ciphertext of the key that seals begins.
func (k *keys) prefix() []byte {
	id, _ := strconv.ParseUint(k.primary, 16, 32) // of our own making
	return []byte{1, byte(id >> 24), byte(id >> 16), byte(id >> 8), byte(id)}
}

// step does one page of a pass.
func (s *Store) step(ctx context.Context, k *keys, p *pass, out *Reencryption) (err error) {
	var n, page int
	switch stage := stages[p.Stage]; stage {
	case "blobs":
		page = pageOfBlobs
		n, err = s.resealBlobs(ctx, k, p, out, page)
	case "indexes":
		page = pageOfRows
		n, err = s.resealIndexes(ctx, k, p, out, page)
	default:
		if page = pageOfRows; stage == journal.SealedSnapshots {
			page = pageOfBlobs // they may be large
		}
		n, err = s.resealRows(ctx, k, p, out, stage, page)
	}
	if err == nil && n < page {
		p.Stage, p.After = p.Stage+1, nil
	}
	return err
}

func (s *Store) resealRows(ctx context.Context, k *keys, p *pass, out *Reencryption, kind string, page int) (int, error) {
	rows, err := s.SealedRows(ctx, k.tenant, kind, k.prefix(), p.After, page)
	for _, row := range rows {
		out.Seen++
		p.After = row.Key
		data := row.Data
		if kind == journal.SealedDeadLetters {
			if data, err = base64.RawStdEncoding.DecodeString(strings.TrimPrefix(string(row.Data), sealedText)); err != nil {
				data, err = nil, nil // not sealed, or forged: of both nothing depends on a key
			}
		}
		if !k.earlier(data) {
			continue
		}
		if kind == journal.SealedResponses && data[1]&flagRow == 0 {
			if expires, _ := strconv.ParseInt(row.At[5], 10, 64); expires > time.Now().UnixMilli() {
				p.Wait = max(p.Wait, expires)
			}
			continue
		}
		fresh, err := s.reseal(ctx, k, data, placeOf(k.tenant, kind, row.At))
		if broken(k, err) {
			out.Broken++
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("%s %q: %w", kind, row.At, err)
		}
		if kind == journal.SealedDeadLetters {
			fresh = []byte(sealedText + base64.RawStdEncoding.EncodeToString(fresh))
		}
		done, err := s.PutSealed(ctx, k.tenant, kind, row, fresh)
		if err != nil {
			return 0, err
		}
		if done {
			out.Sealed++
		}
	}
	return len(rows), err
}

// earlier tells a value that one of the tenant's keys has sealed, and not the last one.
func (k *keys) earlier(data []byte) bool {
	return len(data) > headLen && codec.Sealed(data) && data[1]&flagStore == 0 && !bytes.HasPrefix(data[headLen:], k.prefix())
}

// reseal opens a value and seals what is in it as it was, packed or not.
func (s *Store) reseal(ctx context.Context, k *keys, data, at []byte) ([]byte, error) {
	plain, err := k.open(data, at)
	if err != nil {
		return nil, s.unreadable(k.tenant, whatOf(at), err)
	}
	return s.sealAs(k, plain, false, at, data[1]&^formatMask)
}

// broken tells a value that does not open from a tenant that was destroyed meanwhile.
func broken(k *keys, err error) bool { return errors.Is(err, journal.ErrCorrupt) && !k.gone.Load() }

// placeOf is the place of a row's value.
func placeOf(tenant, kind string, at []string) []byte {
	switch kind {
	case journal.SealedEvents:
		return place("event", append([]string{tenant}, at...)...)
	case journal.SealedSnapshots:
		return place("snapshot", append([]string{tenant}, at...)...)
	case journal.SealedResponses:
		return place("response", append([]string{tenant}, at[:5]...)...)
	case journal.SealedDeadLetters:
		return place("dead letter", append([]string{tenant}, at...)...)
	case journal.SealedChunks:
		return place("chunk", append([]string{tenant}, at...)...)
	}
	return place("vectors", append([]string{tenant}, at...)...)
}

func (s *Store) resealBlobs(ctx context.Context, k *keys, p *pass, out *Reencryption, page int) (int, error) {
	after := ""
	if len(p.After) > 0 {
		after = p.After[0]
	}
	list, err := s.SealedBlobs(ctx, k.tenant, after, page)
	for _, b := range list {
		out.Seen++
		p.After = []string{b.ID}
		current := len(b.Head) < frameHead+keyIDLen || bytes.HasPrefix(b.Head[frameHead:], k.prefix())
		if current && !k.earlier(b.Note) {
			continue
		}
		done, err := s.resealBlob(ctx, k, b)
		if broken(k, err) {
			out.Broken++
			continue
		}
		if err != nil && !errors.Is(err, journal.ErrNotFound) { // deleted meanwhile
			return 0, fmt.Errorf("blob %s: %w", b.ID, err)
		}
		if done {
			out.Sealed++
		}
	}
	return len(list), err
}

func (s *Store) resealBlob(ctx context.Context, k *keys, b journal.SealedBlob) (bool, error) {
	body, info, err := s.OpenBlob(ctx, k.tenant, b.ID)
	if err != nil {
		return false, err
	}
	defer func() { _ = body.Close() }() // of a reader: nothing is lost
	plain, err := k.open(b.Note, notePlace(k.tenant, b.ID))
	if err != nil {
		return false, s.unreadable(k.tenant, "note of a blob", err)
	}
	note, err := s.seal(k, plain, false, notePlace(k.tenant, b.ID))
	if err != nil {
		return false, err
	}
	r := &blobSealer{s: s, ctx: ctx, tenant: k.tenant, thing: blobPlace(k.tenant, b.ID), src: body, left: frames(info.Size), plain: make([]byte, frameSize)}
	return s.PutSealedBlob(ctx, k.tenant, b, r, note)
}

// blobSealer reads a blob as it is stored.
type blobSealer struct {
	s      *Store
	ctx    context.Context
	tenant string
	thing  []byte
	src    io.Reader
	left   int64 // frames
	next   int64
	plain  []byte
	frame  []byte
	out    []byte // sealed, not read yet
}

// Read implements io.Reader.
func (r *blobSealer) Read(p []byte) (int, error) {
	if len(r.out) == 0 {
		if r.left == 0 {
			return 0, io.EOF
		}
		n, err := io.ReadFull(r.src, r.plain)
		if err != nil && (r.left > 1 || !cutOff(err)) {
			return 0, err
		}
		if r.frame, err = r.s.sealFrame(r.ctx, r.tenant, r.frame[:0], r.plain[:n], r.thing, r.next, r.left == 1); err != nil {
			return 0, err
		}
		r.out = r.frame
		r.next++
		r.left--
	}
	n := copy(p, r.out)
	r.out = r.out[n:]
	return n, nil
}

// resealIndexes forgets indexes under earlier keys: their owners build them anew, from
// chunks, when they next need them.
func (s *Store) resealIndexes(ctx context.Context, k *keys, p *pass, out *Reencryption, page int) (int, error) {
	list, err := s.SealedIndexes(ctx, k.tenant, p.After, page)
	for _, row := range list {
		out.Seen++
		p.After = row.Key
		const key = indexHead + frameHead
		if !codec.Sealed(row.Data) || len(row.Data) < key+keyIDLen || bytes.HasPrefix(row.Data[key:], k.prefix()) {
			continue
		}
		if err := s.DropIndex(ctx, k.tenant, row); err != nil {
			return 0, err
		}
		out.Sealed++
	}
	return len(list), err
}

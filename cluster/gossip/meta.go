package gossip

import (
	"errors"
	"fmt"
	"math"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// MaxMeta is how many bytes the encoded [Meta] of a node may take: memberlist's limit.
const MaxMeta = 512

// ErrMetaTooLong says that a [Meta] takes more than [MaxMeta] bytes encoded.
var ErrMetaTooLong = errors.New("gossip: addresses, roles, zone and version are too long together")

var errMeta = errors.New("gossip: not the metadata of a node")

// Meta is what a node tells all others about itself.
type Meta struct {
	Actors   string   // host:port where it takes messages from nodes
	API      string   // host:port where it takes calls of clients
	Roles    []string // what it does: gateway, host
	Zone     string
	Version  string  // of the program
	Draining bool    // it takes no new work
	Healthy  bool    // it thinks it is well
	Load     float64 // 0 idle, 1 full; may be above 1. Carried as a float32
	View     int64   // version of the view it acts by
}

// announcement is a Meta and what this package adds for itself.
type announcement struct {
	Meta
	started time.Time // start of the boot, to tell the later of two boots; to the microsecond
	leaving bool      // its end will be on purpose
}

// Field numbers. They are part of the protocol between versions: a number is
// never reused, and a reader skips what it does not know.
const (
	fieldActors   protowire.Number = 1
	fieldAPI      protowire.Number = 2
	fieldRole     protowire.Number = 3
	fieldZone     protowire.Number = 4
	fieldVersion  protowire.Number = 5
	fieldDraining protowire.Number = 6
	fieldHealthy  protowire.Number = 7
	fieldLoad     protowire.Number = 8
	fieldView     protowire.Number = 9
	fieldStarted  protowire.Number = 10
	fieldLeaving  protowire.Number = 11
)

// encode gives the wire form, or [ErrMetaTooLong]. What changes while a node
// runs has a fixed size: what fits once, fits always.
func (a announcement) encode() ([]byte, error) {
	var b []byte
	text := func(n protowire.Number, s string) {
		b = protowire.AppendString(protowire.AppendTag(b, n, protowire.BytesType), s)
	}
	flag := func(n protowire.Number, v bool) {
		b = protowire.AppendVarint(protowire.AppendTag(b, n, protowire.VarintType), protowire.EncodeBool(v))
	}
	fixed := func(n protowire.Number, v int64) {
		b = protowire.AppendFixed64(protowire.AppendTag(b, n, protowire.Fixed64Type), uint64(v))
	}
	text(fieldActors, a.Actors)
	text(fieldAPI, a.API)
	for _, role := range a.Roles {
		text(fieldRole, role)
	}
	text(fieldZone, a.Zone)
	text(fieldVersion, a.Version)
	flag(fieldDraining, a.Draining)
	flag(fieldHealthy, a.Healthy)
	b = protowire.AppendFixed32(protowire.AppendTag(b, fieldLoad, protowire.Fixed32Type), math.Float32bits(float32(a.Load)))
	fixed(fieldView, a.View)
	fixed(fieldStarted, a.started.UnixMicro())
	flag(fieldLeaving, a.leaving)
	if len(b) > MaxMeta {
		return nil, fmt.Errorf("%w: %d bytes encoded, at most %d", ErrMetaTooLong, len(b), MaxMeta)
	}
	return b, nil
}

// decode reads what encode wrote, in this version or another one. It accepts
// nothing above MaxMeta and keeps no reference to b.
func decode(b []byte) (announcement, error) {
	var a announcement
	if len(b) == 0 || len(b) > MaxMeta {
		return a, errMeta
	}
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return announcement{}, errMeta
		}
		b = b[n:]
		if n = a.field(num, typ, b); n < 0 {
			return announcement{}, errMeta
		}
		b = b[n:]
	}
	if a.started.IsZero() || math.IsNaN(a.Load) || math.IsInf(a.Load, 0) {
		return announcement{}, errMeta
	}
	return a, nil
}

// field takes the value of one field from the front of b and gives its length,
// below 0 when it is malformed.
func (a *announcement) field(num protowire.Number, typ protowire.Type, b []byte) int {
	switch typ {
	case protowire.BytesType:
		v, n := protowire.ConsumeBytes(b)
		a.text(num, string(v))
		return n
	case protowire.VarintType:
		v, n := protowire.ConsumeVarint(b)
		a.flag(num, protowire.DecodeBool(v))
		return n
	case protowire.Fixed32Type:
		v, n := protowire.ConsumeFixed32(b)
		if num == fieldLoad {
			a.Load = float64(math.Float32frombits(v))
		}
		return n
	case protowire.Fixed64Type:
		v, n := protowire.ConsumeFixed64(b)
		switch num {
		case fieldView:
			a.View = int64(v)
		case fieldStarted:
			a.started = time.UnixMicro(int64(v))
		}
		return n
	default:
		return protowire.ConsumeFieldValue(num, typ, b)
	}
}

func (a *announcement) text(num protowire.Number, v string) {
	switch num {
	case fieldActors:
		a.Actors = v
	case fieldAPI:
		a.API = v
	case fieldRole:
		a.Roles = append(a.Roles, v)
	case fieldZone:
		a.Zone = v
	case fieldVersion:
		a.Version = v
	}
}

func (a *announcement) flag(num protowire.Number, v bool) {
	switch num {
	case fieldDraining:
		a.Draining = v
	case fieldHealthy:
		a.Healthy = v
	case fieldLeaving:
		a.leaving = v
	}
}

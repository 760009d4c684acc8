package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"granary.dev/granary/cluster"
	"granary.dev/granary/cluster/protocol"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

// BenchmarkAskRemote_P1 asks a grain that is active on another node over
// loopback, beside a plain unary call of grpc-go with the same payload. Both
// ends are in this process, whose CPU time is counted.
func BenchmarkAskRemote_P1(b *testing.B) {
	payload := wrapperspb.Bytes(make([]byte, 64))
	ask, unary := remoteGrain(b), plainUnary(b)
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	sides := []struct {
		name string
		one  func() error
	}{
		{"remote-ask", func() error { return ask(ctx, payload) }},
		{"unary", func() error { return unary(ctx, payload) }},
	}
	for _, c := range []int{1, 16, 256} {
		b.Run(fmt.Sprintf("c=%d", c), func(b *testing.B) {
			rate, cpu := make([][]float64, len(sides)), make([][]float64, len(sides))
			for b.Loop() {
				for i, s := range sides {
					r, u := measure(b, c, s.one)
					rate[i], cpu[i] = append(rate[i], r), append(cpu[i], u)
				}
			}
			b.ReportMetric(0, "ns/op") // an iteration is a round, not a call
			for i, s := range sides {
				b.ReportMetric(median(rate[i]), s.name+"/s")
				b.ReportMetric(median(cpu[i]), s.name+"-cpu-ns")
			}
			b.ReportMetric(median(cpu[0])/median(cpu[1]), "x-cpu")
		})
	}
}

// views is the authority of two nodes in memory.
type views struct {
	ttl time.Duration

	mu     sync.Mutex
	view   protocol.View
	leases map[protocol.NodeID]protocol.LeaseRow
}

func (v *views) lease(id protocol.NodeID) (protocol.LeaseRow, bool) {
	row, ok := v.leases[id]
	return row, ok
}

// Renew implements cluster.ViewStore.
func (v *views) Renew(_ context.Context, r protocol.RenewRequest) (protocol.View, protocol.Survey, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	var old *protocol.LeaseRow
	if row, ok := v.leases[r.Node]; ok {
		old = &row
	}
	now := time.Now()
	row, err := protocol.Renew(old, r, now, v.ttl)
	if err != nil {
		return protocol.View{}, protocol.Survey{}, err
	}
	v.leases[r.Node] = row
	return v.view, protocol.Look(v.view, v.lease, now), nil
}

// Swap implements cluster.ViewStore.
func (v *views) Swap(_ context.Context, next protocol.View, by protocol.NodeID) (protocol.View, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	out, final, err := protocol.Swap(v.view, next, by, v.lease, time.Now())
	if err != nil {
		return out, err
	}
	v.view = out
	for _, row := range final {
		v.leases[row.Node] = row
	}
	return out, nil
}

// View implements cluster.ViewStore.
func (v *views) View(context.Context) (protocol.View, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.view, nil
}

// plain carries errors as text.
type plain struct{}

func (plain) Encode(err error) *nodev1.Error { return &nodev1.Error{Message: err.Error()} }
func (plain) Decode(e *nodev1.Error) error   { return errors.New(e.GetMessage()) }

// remoteGrain is an echo grain on one of two nodes, asked through the other.
func remoteGrain(b *testing.B) func(context.Context, proto.Message) error {
	timing := protocol.DefaultTiming()
	store := &views{ttl: timing.TTL, leases: make(map[protocol.NodeID]protocol.LeaseRow)}
	first, second := sharedNode(b, store, "node-1"), sharedNode(b, store, "node-2")
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) { // the nodes' own pace
		v, moving := first.View(), second.View().Moving()
		if len(v.Members) == 2 && !v.Moving() && !moving && v.Version == second.View().Version {
			break
		}
		if time.Now().After(end) {
			b.Fatal("the nodes do not come to rest")
		}
	}
	for i := range 1000 {
		id := cluster.Identity{Kind: "kb", Tenant: "acme", ID: fmt.Sprintf("kb-%d", i)}
		p, err := first.Placement(id)
		if err != nil {
			b.Fatal(err)
		}
		if p.Owner == "node-2" {
			return func(ctx context.Context, m proto.Message) error {
				_, err := first.Ask(ctx, id, m)
				return err
			}
		}
	}
	b.Fatal("the second node owns nothing")
	return nil
}

func sharedNode(b *testing.B, store cluster.ViewStore, name string) *cluster.Node {
	empty := func() proto.Message { return &wrapperspb.BytesValue{} }
	n, err := cluster.New(cluster.Config{
		Name: name, Logger: slog.New(slog.DiscardHandler),
		Kinds:  []cluster.Kind{{Name: "kb", New: func(_, _, _ string) actor.Actor { return actor.ReceiveFunc(echo) }, Request: empty, Reply: empty}},
		Shared: &cluster.Shared{Store: store, Errors: plain{}, Listen: "127.0.0.1:0"},
	})
	if err != nil {
		b.Fatal(err)
	}
	if err := n.Start(context.Background()); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := n.Stop(context.Background()); err != nil {
			b.Error(err)
		}
	})
	return n
}

// plainUnary is what a call costs with grpc-go alone.
func plainUnary(b *testing.B) func(context.Context, proto.Message) error {
	server := grpc.NewServer()
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "bench.Echo", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Echo", Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			m := new(wrapperspb.BytesValue)
			return m, decode(m)
		}}},
	}, struct{}{})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() {
		if err := server.Serve(listener); err != nil {
			b.Error(err)
		}
	})
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := conn.Close(); err != nil {
			b.Error(err)
		}
		server.Stop()
		served.Wait()
	})
	return func(ctx context.Context, m proto.Message) error {
		return conn.Invoke(ctx, "/bench.Echo/Echo", m, new(wrapperspb.BytesValue))
	}
}

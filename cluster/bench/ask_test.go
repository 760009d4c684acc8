// Package bench measures Node.Ask: beside protoactor's own cluster.Request on one
// node, and from node to node beside grpc-go, in one run. It is a package of its own because protoactor's cluster
// leaves goroutines behind, which the tests of package cluster do not allow.
//
//	go test -run xxx -bench . -benchtime 5x ./cluster/bench
//
// Each iteration is one round: both sides after each other, a fifth of a second
// each. Reported are medians over the rounds.
package bench

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	pcluster "github.com/asynkron/protoactor-go/cluster"
	"github.com/asynkron/protoactor-go/cluster/clusterproviders/test"
	"github.com/asynkron/protoactor-go/cluster/identitylookup/disthash"
	"github.com/asynkron/protoactor-go/remote"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"granary.dev/granary/cluster"
)

const roundTime = 200 * time.Millisecond

// call is what a grain knows of a call.
type call interface {
	Request() proto.Message
	Reply(proto.Message, error)
}

func BenchmarkAskLocal_P1(b *testing.B) {
	payload := wrapperspb.Bytes(make([]byte, 64))
	ask := granary(b)
	request := protoactor(b)
	withDeadline, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	sides := []struct {
		name string
		one  func() error
	}{
		{"ask", func() error { return ask(withDeadline, payload) }},
		{"ask-default-deadline", func() error { return ask(context.Background(), payload) }},
		{"protoactor", func() error { return request(payload) }},
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
			b.ReportMetric(median(rate[0])/median(rate[2]), "x")
			b.ReportMetric(median(rate[1])/median(rate[2]), "x-default-deadline")
		})
	}
}

// measure runs one from c goroutines and gives calls per second and CPU
// nanoseconds per call.
func measure(b *testing.B, c int, one func() error) (rate, cpu float64) {
	var calls atomic.Int64
	var wg sync.WaitGroup
	start, cpu0 := time.Now(), cpuTime(b)
	for range c {
		wg.Go(func() {
			own := int64(0)
			for time.Since(start) < roundTime {
				for range 20 {
					if err := one(); err != nil {
						b.Error(err)
						return
					}
				}
				own += 20
			}
			calls.Add(own)
		})
	}
	wg.Wait()
	took := time.Since(start)
	n := float64(calls.Load())
	return n / took.Seconds(), float64(cpuTime(b)-cpu0) / n
}

func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

// echo is a grain that answers what it is asked.
func echo(ctx actor.Context) {
	switch m := ctx.Message().(type) {
	case call:
		m.Reply(m.Request(), nil)
	case cluster.DrainRequest:
		ctx.Stop(ctx.Self())
	}
}

// granary is one node with one echo grain.
func granary(b *testing.B) func(context.Context, proto.Message) error {
	n, err := cluster.New(cluster.Config{
		Name: "node-1", Logger: slog.New(slog.DiscardHandler),
		Kinds: []cluster.Kind{{Name: "kb", New: func(_, _, _ string) actor.Actor { return actor.ReceiveFunc(echo) }}},
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
	id := cluster.Identity{Kind: "kb", Tenant: "acme", ID: "handbook"}
	return func(ctx context.Context, m proto.Message) error {
		_, err := n.Ask(ctx, id, m)
		return err
	}
}

// protoactor is its own single-node cluster with one echo grain.
func protoactor(b *testing.B) func(proto.Message) error {
	system := actor.NewActorSystem(actor.WithLoggerFactory(func(*actor.ActorSystem) *slog.Logger {
		return slog.New(slog.DiscardHandler)
	}))
	kind := pcluster.NewKind("kb", actor.PropsFromFunc(func(ctx actor.Context) {
		if m, ok := ctx.Message().(*wrapperspb.BytesValue); ok {
			ctx.Respond(m)
		}
	}))
	c := pcluster.New(system, pcluster.Configure("bench", test.NewTestProvider(test.NewInMemAgent()),
		disthash.New(), remote.Configure("127.0.0.1", 0), pcluster.WithKinds(kind)))
	c.StartMember()
	b.Cleanup(func() { c.Shutdown(true) })
	return func(m proto.Message) error {
		_, err := c.Request("acme/handbook", "kb", m)
		return err
	}
}

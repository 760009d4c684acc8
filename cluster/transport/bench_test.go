package transport_test

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"granary.dev/granary/cluster/transport"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

const roundTime = 300 * time.Millisecond

// BenchmarkCallRemote_P1 measures calls of 64 bytes over loopback beside plain
// unary calls of grpc-go with the same payload, in one process for both ends.
// An iteration is one round of both. Reported are medians over the rounds.
func BenchmarkCallRemote_P1(b *testing.B) {
	payload := make([]byte, 64)
	sides := []struct {
		name string
		one  func() error
	}{
		{"call", benchCalls(b, payload)},
		{"unary", benchUnary(b, payload)},
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
			b.ReportMetric(median(rate[0])/median(rate[1]), "x-rate")
			b.ReportMetric(median(cpu[0])/median(cpu[1]), "x-cpu")
		})
	}
}

// echo answers every call at once with its request.
type echo struct{}

func (echo) Call(_ context.Context, call *nodev1.Call, reply func(*nodev1.Reply)) {
	reply(&nodev1.Reply{Outcome: nodev1.Outcome_OUTCOME_REPLY, Reply: call.GetRequest()})
}
func (echo) Ping(_ context.Context, r *nodev1.PingRequest) (*nodev1.PingResponse, error) {
	return &nodev1.PingResponse{Node: "n1#a", View: r.GetView()}, nil
}
func (echo) Admin(context.Context, *nodev1.AdminRequest) (*nodev1.AdminResponse, error) {
	return &nodev1.AdminResponse{Result: &nodev1.AdminResponse_Done{Done: &nodev1.Done{}}}, nil
}
func (echo) View() int64 { return 7 }

func benchCalls(b *testing.B, payload []byte) func() error {
	server, err := transport.Listen(context.Background(), "127.0.0.1:0", transport.ServerConfig{Handler: echo{}})
	if err != nil {
		b.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() {
		if err := server.Serve(); err != nil {
			b.Error(err)
		}
	})
	client := transport.NewClient(transport.Config{Self: "n2#b"})
	b.Cleanup(func() {
		client.Close()
		if err := server.Stop(context.Background()); err != nil {
			b.Error(err)
		}
		served.Wait()
	})
	addr := server.Addr().String()
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	b.Cleanup(cancel)
	return func() error {
		_, err := client.Call(ctx, addr, &nodev1.Call{
			Kind: "kb", Tenant: "acme", Grain: "handbook", Request: payload, View: 7,
		})
		return err
	}
}

func benchUnary(b *testing.B, payload []byte) func() error {
	server := grpc.NewServer()
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "bench.Echo", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Echo", Handler: func(_ any, _ context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			m := new(wrapperspb.BytesValue)
			return m, dec(m)
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
		_ = conn.Close()
		server.Stop()
		served.Wait()
	})
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	b.Cleanup(cancel)
	return func() error {
		return conn.Invoke(ctx, "/bench.Echo/Echo", wrapperspb.Bytes(payload), new(wrapperspb.BytesValue))
	}
}

// measure runs one from c goroutines and gives calls per second and CPU
// nanoseconds per call, of client and server together.
func measure(b *testing.B, c int, one func() error) (rate, cpu float64) {
	var calls atomic.Int64
	var wg sync.WaitGroup
	start, cpu0 := time.Now(), cpuTime(b)
	for range c {
		wg.Go(func() {
			own := int64(0)
			for time.Since(start) < roundTime {
				for range 10 {
					if err := one(); err != nil {
						b.Error(err)
						return
					}
				}
				own += 10
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

package transport

import (
	"context"

	"google.golang.org/grpc"

	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

const (
	serviceName = "granary.node.v1.NodeService"
	callsMethod = "/" + serviceName + "/Calls"
	pingMethod  = "/" + serviceName + "/Ping"
	adminMethod = "/" + serviceName + "/Admin"

	// callerKey is the metadata key of the calling node's id, for the log.
	callerKey = "granary-node"
)

// service is what the description below calls.
type service interface {
	calls(grpc.ServerStream) error
	ping(context.Context, *nodev1.PingRequest) (*nodev1.PingResponse, error)
	admin(context.Context, *nodev1.AdminRequest) (*nodev1.AdminResponse, error)
}

var _ service = (*Server)(nil)

// callsStream describes the stream of calls: CallBatch one way, ReplyBatch the other.
func callsStream() grpc.StreamDesc {
	return grpc.StreamDesc{
		StreamName:    "Calls",
		ServerStreams: true,
		ClientStreams: true,
		Handler: func(srv any, stream grpc.ServerStream) error {
			return srv.(service).calls(stream)
		},
	}
}

// description declares NodeService by hand: two unary methods and a stream do
// not need a second code generator.
func description() *grpc.ServiceDesc {
	return &grpc.ServiceDesc{
		ServiceName: serviceName,
		HandlerType: (*service)(nil),
		Metadata:    "granary/node/v1/transport.proto",
		Streams:     []grpc.StreamDesc{callsStream()},
		Methods: []grpc.MethodDesc{
			{MethodName: "Ping", Handler: func(srv any, ctx context.Context, dec func(any) error, i grpc.UnaryServerInterceptor) (any, error) {
				return unary(ctx, srv, pingMethod, dec, i, srv.(service).ping)
			}},
			{MethodName: "Admin", Handler: func(srv any, ctx context.Context, dec func(any) error, i grpc.UnaryServerInterceptor) (any, error) {
				return unary(ctx, srv, adminMethod, dec, i, srv.(service).admin)
			}},
		},
	}
}

// unary decodes a request and hands it to serve by way of the interceptor.
func unary[Q, A any](ctx context.Context, srv any, method string, decode func(any) error,
	intercept grpc.UnaryServerInterceptor, serve func(context.Context, *Q) (*A, error)) (any, error) {
	request := new(Q)
	if err := decode(request); err != nil {
		return nil, err
	}
	if intercept == nil {
		return serve(ctx, request)
	}
	info := &grpc.UnaryServerInfo{Server: srv, FullMethod: method}
	return intercept(ctx, request, info, func(ctx context.Context, q any) (any, error) {
		return serve(ctx, q.(*Q))
	})
}

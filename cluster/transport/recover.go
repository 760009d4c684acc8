package transport

import (
	"context"
	"runtime/debug"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// recoverUnary turns a panic of a handler into an error.
func (s *Server) recoverUnary(ctx context.Context, request any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (reply any, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = s.panicked(info.FullMethod, p)
		}
	}()
	return next(ctx, request)
}

// recoverStream turns a panic while a stream is served into an error.
func (s *Server) recoverStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = s.panicked(info.FullMethod, p)
		}
	}()
	return next(srv, stream)
}

func (s *Server) panicked(what string, p any) error {
	s.logger.Error("panic in a handler", "of", what, "panic", p, "stack", string(debug.Stack()))
	return status.Error(codes.Internal, "the node failed")
}

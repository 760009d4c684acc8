//go:build linux && !amd64 && !arm64

package sandbox

import "errors"

// dropSystemCalls has no filter for this architecture.
func dropSystemCalls() error { return errors.ErrUnsupported }

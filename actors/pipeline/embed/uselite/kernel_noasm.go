//go:build !amd64 || noasm

package uselite

// bestKernel returns the fastest kernel of this machine and its name.
func bestKernel() (kernel, string) { return genericKernel, "go" }

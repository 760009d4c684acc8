//go:build amd64 && !noasm

package uselite

import "golang.org/x/sys/cpu"

// bestKernel returns the fastest kernel of this machine and its name. The cpu package also
// asks the operating system whether it saves the wide registers.
func bestKernel() (kernel, string) {
	if cpu.X86.HasAVX2 && cpu.X86.HasFMA {
		return avx2Kernel, "avx2"
	}
	return genericKernel, "go"
}

func avx2Kernel(depth int, a []float32, lda int, b []float32, c []float32, ldc int) {
	checkTile(depth, a, lda, b, c, ldc)
	kernelAVX2(depth, &a[0], lda, &b[0], &c[0], ldc)
}

// kernelAVX2 is the kernel over raw pointers; depth ≥ 1, strides in elements.
//
//go:noescape
func kernelAVX2(depth int, a *float32, lda int, b *float32, c *float32, ldc int)

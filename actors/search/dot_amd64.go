//go:build amd64 && !noasm

package search

import "golang.org/x/sys/cpu"

// dotAVX2 computes out[i] = Σ q[j] × rows[i·stride+j] for n rows. stride is a
// positive multiple of 32; q has stride values, rows n·stride, out n.
//
//go:noescape
func dotAVX2(q *int16, rows *int8, out *int32, stride, n int)

// dotRows computes the dot products of q with len(out) rows of len(q) values.
func dotRows(q []int16, rows []int8, out []int32) {
	if !cpu.X86.HasAVX2 || len(q) == 0 || len(q)%lanes != 0 {
		dotGeneric(q, rows, out)
		return
	}
	if len(out) == 0 {
		return
	}
	_ = rows[len(out)*len(q)-1] // the assembly does not check
	dotAVX2(&q[0], &rows[0], &out[0], len(q), len(out))
}

// kernel names the code that computes dot products.
func kernel() string {
	if cpu.X86.HasAVX2 {
		return "avx2"
	}
	return "go"
}

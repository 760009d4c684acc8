//go:build !amd64 || noasm

package search

// dotRows computes the dot products of q with len(out) rows of len(q) values.
func dotRows(q []int16, rows []int8, out []int32) { dotGeneric(q, rows, out) }

// kernel names the code that computes dot products.
func kernel() string { return "go" }

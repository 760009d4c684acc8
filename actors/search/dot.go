package search

// dotGeneric is the portable kernel: out[i] = Σ q[j] × rows[i·len(q)+j].
func dotGeneric(q []int16, rows []int8, out []int32) {
	stride := len(q)
	for i := range out {
		row := rows[i*stride : (i+1)*stride]
		var a, b, c, d int32
		for j := 0; j+4 <= stride && j+4 <= len(row); j += 4 {
			a += int32(q[j]) * int32(row[j])
			b += int32(q[j+1]) * int32(row[j+1])
			c += int32(q[j+2]) * int32(row[j+2])
			d += int32(q[j+3]) * int32(row[j+3])
		}
		out[i] = a + b + c + d
	}
}

package uselite

// genericKernel is the kernel in plain Go. It walks the tile in blocks of 2×4,
// whose 8 sums and 6 operands fit the 16 scalar registers of amd64 and arm64.
func genericKernel(depth int, a []float32, lda int, b []float32, c []float32, ldc int) {
	checkTile(depth, a, lda, b, c, ldc)
	for r := 0; r < tileRows; r += 2 {
		a0 := a[r*lda : r*lda+depth]
		a1 := a[(r+1)*lda : (r+1)*lda+depth]
		for j := 0; j < tileCols; j += 4 {
			genericBlock(a0, a1, b[j:], c[r*ldc+j:], c[(r+1)*ldc+j:])
		}
	}
}

func genericBlock(a0, a1, b, c0, c1 []float32) {
	c0, c1 = c0[:4:4], c1[:4:4]
	a1 = a1[:len(a0)]
	s00, s01, s02, s03 := c0[0], c0[1], c0[2], c0[3]
	s10, s11, s12, s13 := c1[0], c1[1], c1[2], c1[3]
	at := 0
	for i, x := range a0 {
		y := a1[i]
		w := b[at : at+4 : at+4]
		at += tileCols
		s00 += x * w[0]
		s01 += x * w[1]
		s02 += x * w[2]
		s03 += x * w[3]
		s10 += y * w[0]
		s11 += y * w[1]
		s12 += y * w[2]
		s13 += y * w[3]
	}
	c0[0], c0[1], c0[2], c0[3] = s00, s01, s02, s03
	c1[0], c1[1], c1[2], c1[3] = s10, s11, s12, s13
}

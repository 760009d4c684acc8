package uselite

import "math"

// normEpsilon is the ε of the published layer normalisation.
const normEpsilon = 1e-6

// normalise writes the layer normalisation of each row of src to dst; the
// width is that of n.
func normalise(dst, src []float32, rows int, n Norm) {
	width := len(n.Scale)
	for r := range rows {
		normaliseRow(dst[r*width:(r+1)*width], src[r*width:(r+1)*width], n)
	}
}

func normaliseRow(dst, src []float32, n Norm) {
	dst = dst[:len(src)]
	scale, bias := n.Scale[:len(src)], n.Bias[:len(src)]
	inverse := 1 / float32(len(src))
	mean := sum(src) * inverse
	// Four sums let the processor overlap the additions.
	var s0, s1, s2, s3 float32
	for i := 0; i+4 <= len(src); i += 4 {
		d0, d1, d2, d3 := src[i]-mean, src[i+1]-mean, src[i+2]-mean, src[i+3]-mean
		s0 += d0 * d0
		s1 += d1 * d1
		s2 += d2 * d2
		s3 += d3 * d3
	}
	variance := (s0 + s1 + s2 + s3) * inverse
	factor := float32(1 / math.Sqrt(float64(variance+normEpsilon)))
	for i, v := range src {
		dst[i] = (v-mean)*factor*scale[i] + bias[i]
	}
}

// sum adds the values, whose number is a multiple of 4.
func sum(values []float32) float32 {
	var s0, s1, s2, s3 float32
	for i := 0; i+4 <= len(values); i += 4 {
		s0 += values[i]
		s1 += values[i+1]
		s2 += values[i+2]
		s3 += values[i+3]
	}
	return s0 + s1 + s2 + s3
}

// spread sets each row of dst to bias.
func spread(dst []float32, rows int, bias []float32) {
	for r := range rows {
		copy(dst[r*len(bias):(r+1)*len(bias)], bias)
	}
}

// addBias adds bias to each row of dst.
func addBias(dst []float32, rows int, bias []float32) {
	for r := range rows {
		row := dst[r*len(bias) : (r+1)*len(bias)]
		for i, v := range bias {
			row[i] += v
		}
	}
}

func relu(values []float32) {
	for i, v := range values {
		values[i] = max(v, 0)
	}
}

// Constants of exp: ln 2 in two parts, so that x − n·ln 2 loses no digits.
const (
	log2e  = 1.44269504088896341
	ln2Hi  = 0.693359375
	ln2Lo  = -2.12194440054690583e-4
	expMin = -87 // below, the result is taken as 0; float32 ends at -87.3
)

// expNegative computes e^x for x ≤ 0 with a relative error below 3e-7: powers of two
// by the exponent bits, the rest by the Taylor series to the seventh power.
func expNegative(x float32) float32 {
	if x < expMin {
		return 0
	}
	n := int32(x*log2e - 0.5) // rounds to nearest, for x ≤ 0
	f := float32(n)
	r := x - f*ln2Hi - f*ln2Lo
	p := float32(1.0 / 5040)
	p = p*r + 1.0/720
	p = p*r + 1.0/120
	p = p*r + 1.0/24
	p = p*r + 1.0/6
	p = p*r + 0.5
	p = p*r + 1
	p = p*r + 1
	return p * math.Float32frombits(uint32(n+127)<<23)
}

package uselite

import "runtime"

// The micro-kernel computes a tile of 6 rows × 16 columns: 12 of the 16 AVX
// registers hold the tile, which is the largest that leaves room for operands.
const (
	tileRows = 6
	tileCols = 16

	// A block of 512 × 16 float32 weights is 32 KiB and stays in the first-level
	// cache while it is applied to rowBlock rows; these (384 KiB at most) stay in
	// the second level.
	depthBlock = 512
	rowBlock   = 192

	// A batch of more than one text lets others run after this many columns of a
	// block, some hundred microseconds of work; the runtime would let them wait for
	// ten milliseconds each time. A question never makes way.
	yieldCols = 128
)

// kernel adds a 6×16 tile to c: c[r][j] += Σ_i a[r][i]·b[i][j] for i < depth.
// a and c are row-major with strides lda and ldc, b is packed [depth][16].
type kernel func(depth int, a []float32, lda int, b []float32, c []float32, ldc int)

// panels is a matrix packed for the kernel: for every 16 columns, all rows
// after one another. Missing columns of the last panel are zero.
type panels struct {
	rows, cols int // cols is a multiple of tileCols
	data       []float32
}

// packMatrix packs w (rows × cols, row-major), each column times its scale.
func packMatrix(w []float32, rows, cols int, scale func(col int) float32) panels {
	p := panels{rows: rows, cols: roundUp(cols, tileCols)}
	p.data = make([]float32, p.rows*p.cols)
	for c := range cols {
		factor := scale(c)
		dst := p.data[(c/tileCols)*rows*tileCols+c%tileCols:]
		for r := range rows {
			dst[r*tileCols] = factor * w[r*cols+c]
		}
	}
	return p
}

// multiplyAdd adds a·b to c. rows is a multiple of tileRows; a has b.rows
// columns and stride lda, c has b.cols columns and stride ldc.
func (k kernel) multiplyAdd(rows int, a []float32, lda int, b panels, c []float32, ldc int) {
	bulk := rows > roundUp(MaxTokens, tileRows)
	for d := 0; d < b.rows; d += depthBlock {
		depth := min(depthBlock, b.rows-d)
		for r0 := 0; r0 < rows; r0 += rowBlock {
			r1 := min(rows, r0+rowBlock)
			for col := 0; col < b.cols; col += tileCols {
				if bulk && col%yieldCols == 0 {
					runtime.Gosched()
				}
				panel := b.data[col*b.rows+d*tileCols:]
				for r := r0; r < r1; r += tileRows {
					k(depth, a[r*lda+d:], lda, panel, c[r*ldc+col:], ldc)
				}
			}
		}
	}
}

// checkTile panics, by a bounds check, unless the slices hold a whole tile. It
// stands before the assembly, which checks nothing.
func checkTile(depth int, a []float32, lda int, b []float32, c []float32, ldc int) {
	_ = a[(tileRows-1)*lda+depth-1]
	_ = b[depth*tileCols-1]
	_ = c[(tileRows-1)*ldc+tileCols-1]
}

func roundUp(n, to int) int { return (n + to - 1) / to * to }

//go:build amd64 && !noasm

#include "textflag.h"

// One step of depth: two registers of b (Y12, Y13) times the six elements of
// this column of a. SI points at rows 0..2 of a (stride R8), R10 at rows 3..5.
// The twelve sums Y0..Y11 are independent, which hides the latency of FMA.
#define STEP(aoff, boff) \
	VMOVUPS      boff(DI), Y12           \
	VMOVUPS      (boff+32)(DI), Y13      \
	VBROADCASTSS aoff(SI), Y14           \
	VBROADCASTSS aoff(SI)(R8*1), Y15     \
	VFMADD231PS  Y12, Y14, Y0            \
	VFMADD231PS  Y13, Y14, Y1            \
	VFMADD231PS  Y12, Y15, Y2            \
	VFMADD231PS  Y13, Y15, Y3            \
	VBROADCASTSS aoff(SI)(R8*2), Y14     \
	VBROADCASTSS aoff(R10), Y15          \
	VFMADD231PS  Y12, Y14, Y4            \
	VFMADD231PS  Y13, Y14, Y5            \
	VFMADD231PS  Y12, Y15, Y6            \
	VFMADD231PS  Y13, Y15, Y7            \
	VBROADCASTSS aoff(R10)(R8*1), Y14    \
	VBROADCASTSS aoff(R10)(R8*2), Y15    \
	VFMADD231PS  Y12, Y14, Y8            \
	VFMADD231PS  Y13, Y14, Y9            \
	VFMADD231PS  Y12, Y15, Y10           \
	VFMADD231PS  Y13, Y15, Y11

// Adds two registers of sums to a row of c and goes to the next row.
#define ADDROW(lo, hi) \
	VADDPS  (DX), lo, lo   \
	VADDPS  32(DX), hi, hi \
	VMOVUPS lo, (DX)       \
	VMOVUPS hi, 32(DX)     \
	ADDQ    R9, DX

// func kernelAVX2(depth int, a *float32, lda int, b *float32, c *float32, ldc int)
TEXT ·kernelAVX2(SB), NOSPLIT, $0-48
	MOVQ depth+0(FP), CX
	MOVQ a+8(FP), SI
	MOVQ lda+16(FP), R8
	MOVQ b+24(FP), DI
	MOVQ c+32(FP), DX
	MOVQ ldc+40(FP), R9
	SHLQ $2, R8
	SHLQ $2, R9
	LEAQ (SI)(R8*2), R10
	ADDQ R8, R10

	VXORPS Y0, Y0, Y0
	VXORPS Y1, Y1, Y1
	VXORPS Y2, Y2, Y2
	VXORPS Y3, Y3, Y3
	VXORPS Y4, Y4, Y4
	VXORPS Y5, Y5, Y5
	VXORPS Y6, Y6, Y6
	VXORPS Y7, Y7, Y7
	VXORPS Y8, Y8, Y8
	VXORPS Y9, Y9, Y9
	VXORPS Y10, Y10, Y10
	VXORPS Y11, Y11, Y11

	MOVQ CX, BX
	SHRQ $2, BX
	JZ   tail

four:
	STEP(0, 0)
	STEP(4, 64)
	STEP(8, 128)
	STEP(12, 192)
	ADDQ $16, SI
	ADDQ $16, R10
	ADDQ $256, DI
	DECQ BX
	JNZ  four

tail:
	ANDQ $3, CX
	JZ   done

one:
	STEP(0, 0)
	ADDQ $4, SI
	ADDQ $4, R10
	ADDQ $64, DI
	DECQ CX
	JNZ  one

done:
	ADDROW(Y0, Y1)
	ADDROW(Y2, Y3)
	ADDROW(Y4, Y5)
	ADDROW(Y6, Y7)
	ADDROW(Y8, Y9)
	ADDROW(Y10, Y11)
	VZEROUPPER
	RET

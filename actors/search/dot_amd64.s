//go:build amd64 && !noasm

#include "textflag.h"

// func dotAVX2(q *int16, rows *int8, out *int32, stride, n int)
//
// Sixteen int8 are widened to int16, multiplied with sixteen int16 of the query
// and added in pairs to int32. No sum overflows: the query is scaled for that.
// Two accumulators hide the latency of the additions.
TEXT ·dotAVX2(SB), NOSPLIT, $0-40
	MOVQ q+0(FP), DI
	MOVQ rows+8(FP), SI
	MOVQ out+16(FP), DX
	MOVQ stride+24(FP), CX
	MOVQ n+32(FP), BX

row:
	VPXOR Y0, Y0, Y0
	VPXOR Y1, Y1, Y1
	MOVQ  DI, R8
	MOVQ  CX, R9

block:
	VPMOVSXBW (SI), Y2
	VPMOVSXBW 16(SI), Y3
	VPMADDWD  (R8), Y2, Y2
	VPMADDWD  32(R8), Y3, Y3
	VPADDD    Y2, Y0, Y0
	VPADDD    Y3, Y1, Y1
	ADDQ      $32, SI
	ADDQ      $64, R8
	SUBQ      $32, R9
	JNZ       block

	VPADDD       Y1, Y0, Y0
	VEXTRACTI128 $1, Y0, X1
	VPADDD       X1, X0, X0
	VPSHUFD      $0x4E, X0, X1
	VPADDD       X1, X0, X0
	VPSHUFD      $0xB1, X0, X1
	VPADDD       X1, X0, X0
	VMOVD        X0, (DX)
	ADDQ         $4, DX
	DECQ         BX
	JNZ          row

	VZEROUPPER
	RET

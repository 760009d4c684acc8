package sandbox

import (
	"os"
	"runtime"
	"testing"

	"granary.dev/granary/actors/pipeline/parse"
)

// tinyPDF has no cross-reference table; the parser finds its objects.
const tinyPDF = `%PDF-1.4
1 0 obj << /Type /Catalog /Pages 2 0 R >> endobj
2 0 obj << /Type /Pages /Count 1 /Kids [3 0 R] >> endobj
3 0 obj << /Type /Page /Parent 2 0 R /MediaBox [0 0 300 300] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >> endobj
4 0 obj << /Length 44 >> stream
BT /F1 12 Tf 20 200 Td (Grain is dry) Tj ET 
endstream endobj
5 0 obj << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> endobj
trailer << /Root 1 0 R >>
`

// TestPDFFitsAWorker compiles the PDF module under the default limits, and takes
// it from the cache directory in a second worker.
func TestPDFFitsAWorker(t *testing.T) {
	dir := t.TempDir()
	c := Config{CacheDir: dir, MaxJobs: 1}
	if raceEnabled {
		c.MemoryBytes = 4 << 30 // the detector multiplies what the compiler takes
	}
	p := newPool(t, "parse-worker", c)
	for range 2 {
		if got := wantText(t, p, "a.pdf", tinyPDF); got != "Grain is dry" {
			t.Errorf("got %q", got)
		}
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) == 0 {
		t.Errorf("cache %v, %v", files, err)
	}
}

func TestParserThatPanicsForWantOfMemoryIsOUTOFMEMORY(t *testing.T) {
	if runtime.GOOS != "linux" || raceEnabled {
		t.Skip("memory is capped on Linux; the race detector has its own needs")
	}
	p := newPool(t, "parse-worker", Config{MemoryBytes: 128 << 20})
	_, err := ask(t, p, "a.pdf", tinyPDF)
	wantReason(t, err, parse.ReasonOutOfMemory)
}

func BenchmarkFirstPDFOfANewWorkerFromTheCache(b *testing.B) {
	dir := b.TempDir()
	parseOne := func() (u usage) {
		p := newPool(b, "parse-worker", Config{CacheDir: dir})
		if _, err := ask(b, p, "a.pdf", tinyPDF); err != nil {
			b.Fatal(err)
		}
		for _, w := range p.idle { // none when it has grown, as by compiling
			u, _ = usageOf(w.pid())
		}
		_ = p.Close()
		return u
	}
	parseOne() // fills the cache
	var last usage
	for b.Loop() {
		last = parseOne()
	}
	b.ReportMetric(float64(last.private>>20), "MiB-private")
	b.ReportMetric(float64(last.cpu.Milliseconds()), "cpu-ms")
}

package embed

import "testing"

func TestWindowsCoverThePassageAndAreBounded(t *testing.T) {
	for _, n := range []int{1, 63, 64, 65, 112, 113, 500, WindowTokens + (maxWindows-1)*windowStride,
		WindowTokens + (maxWindows-1)*windowStride + 1, 5000} {
		ids := make([]int, n)
		for i := range ids {
			ids[i] = i
		}
		got := windows(ids)
		if len(got) == 0 || len(got) > maxWindows {
			t.Fatalf("%d tokens: %d windows", n, len(got))
		}
		if got[0][0] != 0 || got[len(got)-1][len(got[len(got)-1])-1] != n-1 {
			t.Errorf("%d tokens: the windows run from %d to %d", n, got[0][0], got[len(got)-1][len(got[len(got)-1])-1])
		}
		for _, w := range got {
			if len(w) > WindowTokens {
				t.Errorf("%d tokens: a window of %d", n, len(w))
			}
		}
	}
}

package cluster

import "testing"

func TestANodeIsSickWhenSomethingStaysWrong_B3(t *testing.T) {
	v := newVitals()
	for i, step := range []struct{ wrong, healthy bool }{{false, true}, {true, true}, {false, true}, {true, true}, {true, false}, {true, false}, {false, true}} {
		if v.look(step.wrong); v.healthy() != step.healthy {
			t.Errorf("look %d: healthy is %v", i, v.healthy())
		}
	}
}

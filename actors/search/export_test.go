package search

// WaitForMerges returns when no merge is under way and none is due.
func WaitForMerges(x *Index) {
	for {
		x.mu.Lock()
		busy := x.merging
		x.mu.Unlock()
		if busy == nil {
			return
		}
		<-busy
	}
}

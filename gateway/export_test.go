package gateway

import "time"

// SetIdleTimes shortens a client's longest pauses, before anything is served.
func (g *Gateway) SetIdleTimes(read, write time.Duration) { g.idle = idleTimes{read, write} }

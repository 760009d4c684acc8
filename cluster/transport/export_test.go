package transport

import "time"

// SetBackoff changes the longest time between redials.
func (c *Client) SetBackoff(longest time.Duration) { c.backoff = longest }

// TLSRecheck is how old what was read of the TLS files may be.
const TLSRecheck = recheckFiles

//go:build !unix

package edge

// Elsewhere every frame goes through the queue.
type tryWrite struct{}

func (c *outConn) setRaw() {}

func (c *outConn) writeNow(frame []byte) (rest []byte, err error) { return frame, nil }

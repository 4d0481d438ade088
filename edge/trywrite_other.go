//go:build !unix

package edge

// Elsewhere every frame goes through the queue.
type tryWrite struct{}

func (c *wsConn) setRaw() {}

func (c *wsConn) writeNow(frame []byte) (rest []byte, err error) { return frame, nil }

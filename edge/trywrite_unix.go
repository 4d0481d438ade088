//go:build unix

package edge

import (
	"net"
	"syscall"
)

// tryWrite is the state of one non-blocking write, kept in the connection so
// that a delivery allocates nothing.
type tryWrite struct {
	frame []byte
	n     int
	err   error
	f     func(fd uintptr) bool
}

// setRaw finds out whether the socket can be written to without blocking.
func (c *outConn) setRaw() {
	tcp, ok := c.nc.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	c.raw = raw
	c.try.f = func(fd uintptr) bool {
		c.try.n, c.try.err = syscall.Write(int(fd), c.try.frame)
		return true // never wait for the socket here
	}
}

// writeNow writes what the socket takes at once and returns what is left.
func (c *outConn) writeNow(frame []byte) (rest []byte, err error) {
	if c.raw == nil || c.flushing {
		return frame, nil
	}
	c.try.frame, c.try.n, c.try.err = frame, 0, nil
	err = c.raw.Write(c.try.f)
	n, werr := c.try.n, c.try.err
	c.try.frame = nil
	switch {
	case err != nil:
		return nil, err
	case werr == syscall.EAGAIN || werr == syscall.EINTR:
		return frame[max(n, 0):], nil
	case werr != nil:
		return nil, werr
	}
	return frame[n:], nil
}

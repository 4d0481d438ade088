package edge

import (
	"net"
	"syscall"
	"time"
)

// tcpUserTimeout is TCP_USER_TIMEOUT (tcp(7)), which package syscall lacks.
const tcpUserTimeout = 0x12

// freeHalfOpen ends a connection on which what was sent is not acknowledged for
// so long. One-way clients answer no pings, so this is how a peer that has
// vanished is noticed; without it the kernel goes on for a quarter of an hour.
func freeHalfOpen(nc net.Conn, after time.Duration) {
	if tls, ok := nc.(interface{ NetConn() net.Conn }); ok {
		nc = tls.NetConn()
	}
	tcp, ok := nc.(*net.TCPConn)
	if !ok {
		return
	}
	if raw, err := tcp.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) { //nolint:errcheck // then it is closed already
			syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, int(after.Milliseconds())) //nolint:errcheck // a kernel without it keeps its own time
		})
	}
}

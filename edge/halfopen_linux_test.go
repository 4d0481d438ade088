package edge

import (
	"net"
	"strings"
	"syscall"
	"testing"
	"time"
)

// userTimeout is what the kernel waits for acknowledgements on a connection.
func userTimeout(t *testing.T, nc net.Conn) (after time.Duration) {
	t.Helper()
	raw, err := nc.(*net.TCPConn).SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) {
			ms, getErr := syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout)
			if getErr != nil {
				t.Error(getErr)
			}
			after = time.Duration(ms) * time.Millisecond
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	return after
}

// Who answers no pings is found by the kernel.
func TestE4OneWayPeersThatVanishAreFound(t *testing.T) {
	s := newTestServer(t, newFakeRouter(), nil)
	base := serveHTTP(t, s)
	openEvents(t, base+"/connection/uni_sse?channel=a", "").next()
	ws := dialWS(t, strings.Replace(base, "http", "ws", 1)+"/connection/uni_websocket?channel=a", nil)
	readText(t, ws)
	sessions := s.sessions.list()
	if len(sessions) != 2 {
		t.Fatalf("%d sessions", len(sessions))
	}
	for _, sess := range sessions {
		var nc net.Conn
		switch c := sess.t.(type) {
		case *streamConn:
			nc = c.nc
		case *wsConn:
			nc = c.nc
		}
		if got, want := userTimeout(t, nc), s.cfg.PingInterval+s.cfg.PongTimeout; got != want {
			t.Errorf("%s: %v, want %v", transportNames[sess.kind], got, want)
		}
	}
}

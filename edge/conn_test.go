package edge

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/headrace/headrace/router"
)

// serve runs s on a real socket and returns its WebSocket address.
func serve(tb testing.TB, s *Server) string {
	tb.Helper()
	srv := httptest.NewServer(s.Handler())
	tb.Cleanup(func() {
		s.stop() // sessions outlive their handlers, so they end first
		srv.Close()
	})
	return strings.Replace(srv.URL, "http", "ws", 1) + "/connection/websocket"
}

func dialWS(tb testing.TB, url string, header http.Header) *websocket.Conn {
	tb.Helper()
	ws, _, err := websocket.DefaultDialer.Dial(url, header)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { ws.Close() })
	return ws
}

func sendText(tb testing.TB, ws *websocket.Conn, frame string) {
	tb.Helper()
	if err := ws.WriteMessage(websocket.TextMessage, []byte(frame)); err != nil {
		tb.Fatal(err)
	}
}

func readText(tb testing.TB, ws *websocket.Conn) string {
	tb.Helper()
	ws.SetReadDeadline(time.Now().Add(10 * time.Second)) //nolint:errcheck // never fails in gorilla
	_, b, err := ws.ReadMessage()
	if err != nil {
		tb.Fatal(err)
	}
	return string(b)
}

func TestE6SlowConsumerIsTold(t *testing.T) {
	f := newFakeRouter()
	s := newTestServer(t, f, func(c *Config) { c.QueueBytes = 64 << 10 })
	url := serve(t, s)
	slow, fast := dialWS(t, url, nil), dialWS(t, url, nil)
	for _, ws := range []*websocket.Conn{slow, fast} {
		sendText(t, ws, `{"id":1,"connect":{}}`)
		readText(t, ws)
		sendText(t, ws, `{"id":2,"subscribe":{"channel":"a"}}`)
		readText(t, ws)
	}
	// slow does not read. The kernel takes some megabytes, our queue 64 KiB, and
	// then it is over; fast gets everything meanwhile.
	data := []byte(`"` + strings.Repeat("x", 100_000) + `"`)
	start := time.Now()
	n := 0
	for ; s.sessions.Count() == 2 && n < 1000; n++ {
		f.deliver("a", &router.Publication{Data: data})
		if got := readText(t, fast); !strings.Contains(got, "xxx") {
			t.Fatalf("fast got %.100q", got)
		}
		if s.metricSlow() > 0 {
			break
		}
	}
	if n == 1000 {
		t.Fatal("1000 publications of 100 kB did not make a silent peer slow")
	}
	t.Logf("slow after %d publications, %v", n, time.Since(start))
	var err error
	for err == nil { // read what was sent, and then the close frame
		slow.SetReadDeadline(time.Now().Add(10 * time.Second)) //nolint:errcheck // never fails in gorilla
		_, _, err = slow.ReadMessage()
	}
	if !websocket.IsCloseError(err, 3008) {
		t.Errorf("ended with %v, want close 3008", err)
	}
}

// metricSlow counts the slow consumers so far.
func (s *Server) metricSlow() int {
	n := 0
	for _, sess := range s.sessions.list() {
		c := sess.t.(*wsConn)
		c.mu.Lock()
		if c.closing {
			n++
		}
		c.mu.Unlock()
	}
	return n
}

func TestTooLargeMessageIsRefused(t *testing.T) {
	s := newTestServer(t, newFakeRouter(), func(c *Config) { c.MaxMessageBytes = 1000 })
	ws := dialWS(t, serve(t, s), nil)
	sendText(t, ws, `{"id":1,"connect":{"data":"`+strings.Repeat("x", 1000)+`"}}`)
	_, _, err := ws.ReadMessage()
	if !websocket.IsCloseError(err, websocket.CloseMessageTooBig) {
		t.Errorf("got %v, want close 1009", err)
	}
}

func TestBinaryFrameInTheJSONProtocolIsRefused(t *testing.T) {
	s := newTestServer(t, newFakeRouter(), nil)
	ws := dialWS(t, serve(t, s), nil)
	if err := ws.WriteMessage(websocket.BinaryMessage, []byte(`{"id":1,"connect":{}}`)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := ws.ReadMessage(); !websocket.IsCloseError(err, 3501) {
		t.Errorf("got %v, want close 3501", err)
	}
}

func TestOrigin(t *testing.T) {
	s := newTestServer(t, newFakeRouter(), func(c *Config) { c.AllowedOrigins = []string{"https://app.example"} })
	url := serve(t, s)
	host := strings.TrimSuffix(strings.TrimPrefix(url, "ws://"), "/connection/websocket")
	for origin, want := range map[string]bool{
		"": true, "https://app.example": true, "http://" + host: true,
		"https://evil.example": false, "null": false, "https://app.example.evil": false,
	} {
		h := http.Header{}
		if origin != "" {
			h.Set("Origin", origin)
		}
		ws, resp, err := websocket.DefaultDialer.Dial(url, h)
		if (err == nil) != want {
			t.Errorf("origin %q: %v", origin, err)
		}
		if err == nil {
			ws.Close()
		} else if resp.StatusCode != http.StatusForbidden {
			t.Errorf("origin %q: status %d", origin, resp.StatusCode)
		}
	}
}

func TestShutdownTellsClientsToReconnect(t *testing.T) {
	s := newTestServer(t, newFakeRouter(), func(c *Config) { c.DrainWindow = 10 * time.Millisecond })
	url := serve(t, s)
	ws := dialWS(t, url, nil)
	sendText(t, ws, `{"id":1,"connect":{}}`)
	readText(t, ws)
	closed := make(chan error, 1)
	go func() { _, _, err := ws.ReadMessage(); closed <- err }()
	if err := s.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-closed; !websocket.IsCloseError(err, 3001) {
		t.Errorf("got %v, want close 3001", err)
	}
	if _, _, err := websocket.DefaultDialer.Dial(url, nil); err == nil {
		t.Error("a draining edge took a connection")
	}
}

func TestSealFrame(t *testing.T) {
	for _, n := range []int{0, 1, 125, 126, 127, 65535, 65536, 100000} {
		frame := sealFrame(opText, append(newFrame(n), bytes.Repeat([]byte("x"), n)...))
		client, server := net.Pipe()
		go func() { server.Write(frame); server.Close() }() //nolint:errcheck // the reader tells
		ws := websocketFrom(t, client)
		_, got, err := ws.ReadMessage()
		if err != nil || len(got) != n {
			t.Errorf("%d bytes: gorilla read %d, %v", n, len(got), err)
		}
		client.Close()
	}
}

// websocketFrom is the client end of conn, past the handshake.
func websocketFrom(t *testing.T, conn net.Conn) *websocket.Conn {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
		if err == nil {
			defer ws.Close()
			buf := make([]byte, 64<<10)
			for {
				n, err := conn.Read(buf)
				ws.NetConn().Write(buf[:n]) //nolint:errcheck // the reader tells
				if err != nil {
					return
				}
			}
		}
	}))
	t.Cleanup(srv.Close)
	return dialWS(t, strings.Replace(srv.URL, "http", "ws", 1), nil)
}

// memory is heap and stacks in use after collection. A collection halves a stack
// that is mostly unused, so it takes some until they are as small as they get.
func memory() uint64 {
	for range 6 {
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

// rawConnect makes a connection with one subscription over a bare socket.
func rawConnect(tb testing.TB, addr string, i int) net.Conn {
	tb.Helper()
	return rawConnectAs(tb, addr, "", fmt.Sprintf(`{"id":2,"subscribe":{"channel":"room%d"}}`, i))
}

// rawConnectAs does so with a further header line and that subscribe command.
func rawConnectAs(tb testing.TB, addr, header, subscribe string) net.Conn {
	tb.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		tb.Fatal(err)
	}
	mask := func(s string) []byte { // a zero mask leaves the payload as it is
		if len(s) > 125 {
			tb.Fatal("frame too long for this helper")
		}
		return append([]byte{0x81, 0x80 | byte(len(s)), 0, 0, 0, 0}, s...)
	}
	request := "GET /connection/websocket HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n" + header + "\r\n"
	buf := make([]byte, 1024)
	for _, out := range [][]byte{[]byte(request), mask(`{"id":1,"connect":{}}`), mask(subscribe)} {
		if _, err := c.Write(out); err != nil {
			tb.Fatal(err)
		}
		if _, err := c.Read(buf); err != nil {
			tb.Fatal(err)
		}
	}
	return c
}

// BenchmarkConnect is a whole connect: dial, upgrade, connect and subscribe.
func BenchmarkConnect(b *testing.B) {
	s := newTestServer(b, newFakeRouter(), nil)
	url := serve(b, s)
	addr := strings.TrimSuffix(strings.TrimPrefix(url, "ws://"), "/connection/websocket")
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		rawConnect(b, addr, i).Close()
	}
}

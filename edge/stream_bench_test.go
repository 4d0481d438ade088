package edge

import (
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"net"
	"net/http/httptest"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/headrace/headrace/router"
)

var sessionName = regexp.MustCompile(`"session":"([^"]+)"`)

// rawOpen makes a connection of a transport, subscribed to channel, over a bare
// socket. The commands are posted past HTTP: what is measured is the stream.
func rawOpen(tb testing.TB, s *Server, addr, transport, channel string) net.Conn {
	tb.Helper()
	const connect = `{"id":1,"connect":{}}`
	request := map[string]string{
		"http_stream": fmt.Sprintf("POST /connection/http_stream HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(connect), connect),
		"sse":         "GET /connection/sse?cf_connect=" + strings.ReplaceAll(connect, `"`, "%22") + " HTTP/1.1\r\nHost: x\r\n\r\n",
		"poll":        "GET /poll?channel=" + channel + "&since=" + channel + "@7:e~7E1 HTTP/1.1\r\nHost: x\r\n\r\n",
		"uni_sse":     "GET /connection/uni_sse?channel=" + channel + " HTTP/1.1\r\nHost: x\r\n\r\n",
	}[transport]
	c, err := net.Dial("tcp", addr)
	if err != nil {
		tb.Fatal(err)
	}
	read := func(until string) string {
		var got []byte
		for buf := make([]byte, 4096); !strings.Contains(string(got), until); {
			n, err := c.Read(buf)
			if err != nil {
				tb.Fatalf("%s: %v after %s", transport, err, got)
			}
			got = append(got, buf[:n]...)
		}
		return string(got)
	}
	c.Write([]byte(request)) //nolint:errcheck // reading tells
	if transport == "poll" {
		return c // it is answered later
	}
	if transport == "uni_sse" {
		read("event: connected")
		return c
	}
	name := sessionName.FindStringSubmatch(read(`"session"`))[1]
	if err := s.sessions.Post(name, []byte(`{"id":2,"subscribe":{"channel":"`+channel+`"}}`)); err != nil {
		tb.Fatal(err)
	}
	read(`{"id":2`)
	return c
}

func benchServer(b *testing.B) (s *Server, f *fakeRouter, addr string) {
	f = newFakeRouter()
	f.ns.HistorySize, f.result = 10, historyResult(7)
	f.result.Recovered = true
	s = newTestServer(b, f, func(c *Config) { c.Transports.PollMaxWaiting = 1 << 20 })
	return s, f, strings.TrimPrefix(serveHTTP(b, s), "http://")
}

// BenchmarkIdleStreams is BenchmarkIdle for the fallbacks.
func BenchmarkIdleStreams(b *testing.B) {
	const n = 2000
	for _, transport := range []string{"http_stream", "sse", "uni_sse", "poll"} {
		b.Run(transport, func(b *testing.B) {
			for b.Loop() {
				s, _, addr := benchServer(b)
				conns := make([]net.Conn, 0, n)
				before := memory()
				for i := range n {
					conns = append(conns, rawOpen(b, s, addr, transport, fmt.Sprint("room", i)))
				}
				for transport == "poll" && s.metrics.polling.Load() < n {
					runtime.Gosched()
				}
				after := memory()
				b.ReportMetric(float64(after-before)/n, "B/conn")
				for _, c := range conns {
					c.Close()
				}
			}
		})
	}
}

// BenchmarkDeliverStreams is BenchmarkDeliverSockets for the fallbacks.
func BenchmarkDeliverStreams(b *testing.B) {
	for _, transport := range []string{"http_stream", "sse", "uni_sse"} {
		b.Run(transport, func(b *testing.B) {
			s, f, addr := benchServer(b)
			const n = 100
			for range n {
				c := rawOpen(b, s, addr, transport, "room")
				go func() {
					for buf := make([]byte, 64<<10); ; {
						if _, err := c.Read(buf); err != nil {
							return
						}
					}
				}()
				b.Cleanup(func() { c.Close() })
			}
			pub := &router.Publication{Data: []byte(`"` + strings.Repeat("x", 126) + `"`)}
			b.ReportAllocs()
			for b.Loop() {
				f.deliver("room", pub)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/delivery")
		})
	}
}

func (p *postbox) waits() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.running
}

// BenchmarkPost is one command that is posted to its own node, taken and answered.
func BenchmarkPost(b *testing.B) {
	s, _, _ := benchServer(b)
	sess, _ := newTestSession(s, jsonStream)
	sess.connected = true
	p := newPostbox(sess)
	b.ReportAllocs()
	for id := 1; b.Loop(); id++ {
		if err := p.post(fmt.Appendf(nil, `{"id":%d,"rpc":{"method":"m"}}`, id)); err != nil {
			b.Fatal(err)
		}
		for p.waits() {
			runtime.Gosched()
		}
	}
	p.stop()
	settle(s, sess)
}

// BenchmarkIdleHTTP2 is BenchmarkIdleStreams over HTTP/2, 100 streams a connection:
// net/http keeps the handler and what belongs to the request.
func BenchmarkIdleHTTP2(b *testing.B) {
	const n, perConn = 2000, 100
	for b.Loop() {
		f := newFakeRouter()
		f.result = historyResult(7)
		s := newTestServer(b, f, nil)
		srv := httptest.NewUnstartedServer(s.Handler())
		srv.EnableHTTP2 = true
		srv.StartTLS()
		var conns []net.Conn
		before := memory()
		for range n / perConn {
			conns = append(conns, h2Open(b, srv.Listener.Addr().String(), perConn))
		}
		for f.subscribers("room") < n {
			runtime.Gosched()
		}
		b.ReportMetric(float64(memory()-before)/n, "B/conn")
		for _, c := range conns {
			c.Close()
		}
		s.stop()
		srv.Close()
	}
}

// h2Open opens streams over one connection, as plain EventSources.
func h2Open(b *testing.B, addr string, streams int) net.Conn {
	b.Helper()
	c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		b.Fatal(err)
	}
	const path = "/connection/uni_sse?channel=room"
	// RFC 7541: indexed :method GET and :scheme https, literal :path and :authority.
	head := append([]byte{0x82, 0x87, 0x04, byte(len(path))}, path...)
	head = append(head, 0x01, 1, 'x')
	out := []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00") // preface and SETTINGS (RFC 9113)
	for i := range streams {
		const endOfStreamAndHeaders = 0x5
		out = append(out, 0, 0, byte(len(head)), 1, endOfStreamAndHeaders)
		out = append(binary.BigEndian.AppendUint32(out, uint32(2*i+1)), head...)
	}
	if _, err := c.Write(out); err != nil {
		b.Fatal(err)
	}
	return c
}

package edge

import (
	"bufio"
	"bytes"
	"compress/flate"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/headrace/headrace/router"
)

func withCompression(c *Config) { c.Compression = true }

// inflate returns the payload of a frame as its receiver reads it.
func inflate(tb testing.TB, frame []byte) []byte {
	tb.Helper()
	p := framePayload(frame)
	if frame[0]&rsv1 == 0 {
		return p
	}
	// The mark that was left out, and a final block.
	b, err := io.ReadAll(flate.NewReader(io.MultiReader(bytes.NewReader(p), strings.NewReader(flushMark+"\x01\x00\x00\xff\xff"))))
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func TestOnlyLargeFramesAreCompressed(t *testing.T) {
	d := newDeflater(1024, newMetrics(nil, nil))
	noise := make([]byte, 2000)
	for i, x := 0, uint32(1); i < len(noise); i++ {
		x = x*1664525 + 1013904223
		noise[i] = byte(x >> 24)
	}
	for name, test := range map[string]struct {
		payload    []byte
		compressed bool
	}{
		"nothing":                  {nil, false},
		"one byte below the bound": {bytes.Repeat([]byte("a"), 1023), false},
		"at the bound":             {bytes.Repeat([]byte("a"), 1024), true},
		"above 64 KiB":             {bytes.Repeat([]byte("abc"), 50_000), true},
		"what only grows":          {noise, false},
	} {
		frame := sealFrame(opText, append(newFrame(0), test.payload...))
		got := d.frame(frame)
		if compressed := got[0] == opText|rsv1; compressed != test.compressed || !compressed && &got[0] != &frame[0] {
			t.Errorf("%s: compressed %v, want %v", name, compressed, test.compressed)
		}
		if !bytes.Equal(inflate(t, got), test.payload) || len(got) > len(frame) {
			t.Errorf("%s: %d bytes came back, of a frame of %d", name, len(inflate(t, got)), len(got))
		}
	}
}

func FuzzDeflate(f *testing.F) {
	f.Add([]byte("abcabc"), uint16(300))
	d := newDeflater(64, newMetrics(nil, nil))
	f.Fuzz(func(t *testing.T, data []byte, times uint16) {
		payload := bytes.Repeat(data, int(times)%512)
		if got := inflate(t, d.frame(sealFrame(opBinary, append(newFrame(0), payload...)))); !bytes.Equal(got, payload) {
			t.Fatalf("%d bytes came back, of %d", len(got), len(payload))
		}
	})
}

var offers = map[string]bool{
	"":                   false,
	"permessage-deflate": true,
	"permessage-deflate; client_max_window_bits":                                 true, // browsers
	"permessage-deflate; server_no_context_takeover; client_no_context_takeover": true,
	"permessage-deflate;client_max_window_bits=10":                               true,
	"permessage-deflate; server_max_window_bits=10":                              false,
	"permessage-deflate; server_max_window_bits=10, permessage-deflate":          true,
	"permessage-deflate; unknown":                                                false,
	"x-webkit-deflate-frame":                                                     false,
	"x-webkit-deflate-frame, permessage-deflate":                                 true,
	"x y, permessage-deflate":                                                    false,
	"permessage-deflate=1, permessage-deflate":                                   false,
	`permessage-deflate; client_max_window_bits="10"`:                            false,
	", permessage-deflate":                                                       false,
	"PERMESSAGE-DEFLATE":                                                         false,
}

func TestOffersOfCompression(t *testing.T) {
	for value, want := range offers {
		if got := offersDeflate(http.Header{"Sec-Websocket-Extensions": {value}}); got != want {
			t.Errorf("%q: %v, want %v", value, got, want)
		}
	}
}

// What we take for an offer, gorilla accepts: frames would be compressed otherwise for
// a client that cannot read them.
func FuzzOfferIsAccepted(f *testing.F) {
	for value := range offers {
		f.Add(value, "permessage-deflate")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		h := http.Header{"Sec-Websocket-Extensions": {a, b}}
		if offersDeflate(h) && !gorillaAccepts(t, h) {
			t.Fatalf("gorilla does not accept %q", h)
		}
	})
}

// gorillaAccepts reports whether gorilla's answer to an upgrade with h has the
// extension.
func gorillaAccepts(t *testing.T, h http.Header) bool {
	r := httptest.NewRequest("GET", "/", nil)
	r.Header = h.Clone()
	for k, v := range map[string]string{"Connection": "upgrade", "Upgrade": "websocket", "Sec-Websocket-Version": "13", "Sec-Websocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="} {
		r.Header.Set(k, v)
	}
	w := &hijacked{ResponseRecorder: httptest.NewRecorder()}
	u := websocket.Upgrader{EnableCompression: true}
	if _, err := u.Upgrade(w, r, nil); err != nil {
		t.Fatal(err)
	}
	return strings.Contains(w.out.String(), "permessage-deflate")
}

// hijacked is a connection in memory of which only what is written counts.
type hijacked struct {
	*httptest.ResponseRecorder
	net.Conn
	out bytes.Buffer
}

func (h *hijacked) Write(b []byte) (int, error) { return h.out.Write(b) }
func (h *hijacked) SetDeadline(time.Time) error { return nil }
func (h *hijacked) Close() error                { return nil }
func (h *hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h, bufio.NewReadWriter(bufio.NewReader(strings.NewReader("")), bufio.NewWriter(h)), nil
}

// Clients with and without compression see the same; a batch is compressed once for
// all, in one frame.
func TestBroadcastIsCompressedOnce(t *testing.T) {
	f := newFakeRouter()
	s := newTestServer(t, f, withCompression)
	url := serve(t, s)
	var all []*websocket.Conn
	for i := range 6 {
		d := websocket.Dialer{EnableCompression: i%2 == 0}
		ws, resp, err := d.Dial(url, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer ws.Close()
		if got := resp.Header.Get("Sec-WebSocket-Extensions") != ""; got != d.EnableCompression {
			t.Fatalf("negotiated: %v", got)
		}
		sendText(t, ws, `{"id":1,"connect":{}}`)
		readText(t, ws)
		sendText(t, ws, `{"id":2,"subscribe":{"channel":"a"}}`)
		readText(t, ws)
		all = append(all, ws)
	}
	data := `"` + strings.Repeat("hello ", 1000) + `"`
	before := s.metrics.bytesOut.Load()
	f.deliver("a", &router.Publication{Data: []byte(data)})
	f.deliver("a", &router.Publication{Data: []byte(`"small"`)})
	for i, ws := range all {
		if got, want := readText(t, ws), `{"push":{"channel":"a","pub":{"data":`+data+`}}}`; got != want {
			t.Errorf("%d: got %.100q", i, got)
		}
		if got, want := readText(t, ws), `{"push":{"channel":"a","pub":{"data":"small"}}}`; got != want {
			t.Errorf("%d: got %.100q", i, got)
		}
	}
	if n := counted(s.metrics.reduced.deflateIn); n != float64(len(data)+len(`{"push":{"channel":"a","pub":{"data":}}}`)) {
		t.Errorf("%v bytes were compressed, want those of one frame", n)
	}
	if sent := s.metrics.bytesOut.Load() - before; sent > 3*6100+3*200+6*60 {
		t.Errorf("%d bytes were sent", sent)
	}
}

// A reply is compressed too, and a client that did not offer gets none.
func TestWithoutAnOfferNothingIsCompressed(t *testing.T) {
	f := newFakeRouter()
	f.result = router.SubscribeResult{Recovered: true, WasRecovering: true, Publications: []*router.Publication{{Offset: 1, Data: []byte(`"` + strings.Repeat("x", 5000) + `"`)}}}
	for _, test := range []struct{ allowed, offered bool }{{false, false}, {false, true}, {true, false}, {true, true}} {
		s := newTestServer(t, f, func(c *Config) { c.Compression = test.allowed })
		url := serve(t, s)
		d := websocket.Dialer{EnableCompression: test.offered}
		ws, _, err := d.Dial(url, nil)
		if err != nil {
			t.Fatal(err)
		}
		sendText(t, ws, `{"id":1,"connect":{}}`+"\n"+`{"id":2,"subscribe":{"channel":"a","recover":true}}`)
		readText(t, ws)
		if got := readText(t, ws); !strings.Contains(got, "xxxxx") {
			t.Errorf("%+v: got %.100q", test, got)
		}
		if got := counted(s.metrics.reduced.deflateIn) > 0; got != (test.allowed && test.offered) {
			t.Errorf("%+v: compressed: %v", test, got)
		}
		ws.Close()
	}
}

// A message that inflates to 64 MiB from 64 KiB: it is inflated up to the limit, and
// the connection closed as for any other that is too large.
func TestInflateBombIsRefused(t *testing.T) {
	s := newTestServer(t, newFakeRouter(), withCompression)
	url := serve(t, s)
	d := websocket.Dialer{EnableCompression: true}
	ws, _, err := d.Dial(url, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	ws.SetCompressionLevel(9) //nolint:errcheck // a valid level
	sendText(t, ws, `{"id":1,"connect":{}}`)
	readText(t, ws)
	before := s.metrics.bytesIn.Load()
	go ws.WriteMessage(websocket.TextMessage, bytes.Repeat([]byte(" "), 64<<20)) //nolint:errcheck // may be cut
	_, _, err = ws.ReadMessage()
	var closed *websocket.CloseError
	if !errors.As(err, &closed) || closed.Code != websocket.CloseMessageTooBig {
		t.Errorf("closed with %v, want 1009", err)
	}
	if n := s.metrics.bytesIn.Load() - before; n != int64(s.cfg.MaxMessageBytes)+1 {
		t.Errorf("inflated %d bytes, limit %d", n, s.cfg.MaxMessageBytes)
	}
	// One that just fits is taken.
	ws2, _, err := d.Dial(url, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ws2.Close()
	connect := `{"id":1,"connect":{}}`
	sendText(t, ws2, connect+strings.Repeat(" ", s.cfg.MaxMessageBytes-len(connect)))
	if got := readText(t, ws2); !strings.Contains(got, `"client"`) {
		t.Errorf("got %.100q", got)
	}
}

func TestCompressorsAreBoundedAndShared(t *testing.T) {
	d := newDeflater(64, newMetrics(nil, nil))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := range 200 {
				want := bytes.Repeat([]byte{byte('a' + i)}, 64+n)
				if got := inflate(t, d.frame(sealFrame(opText, append(newFrame(0), want...)))); !bytes.Equal(got, want) {
					t.Errorf("%d bytes came back, of %d", len(got), len(want))
				}
			}
		})
	}
	wg.Wait()
	if len(d.writers) != cap(d.writers) {
		t.Errorf("%d of %d came back", len(d.writers), cap(d.writers))
	}
}

func BenchmarkDeflate(b *testing.B) {
	for _, size := range []int{1_100, 20_000, 60_000} {
		b.Run(byteSize(size), func(b *testing.B) {
			d := newDeflater(64, newMetrics(nil, nil))
			frame := sealFrame(opText, append(newFrame(size), document(size)...))
			b.ReportAllocs()
			b.SetBytes(int64(size))
			var out []byte
			for b.Loop() {
				out = d.frame(frame)
			}
			b.ReportMetric(float64(len(out)), "out_B")
		})
	}
}

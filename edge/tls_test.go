package edge

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/headrace/headrace/router"
)

// A TLS connection cannot be tried without blocking, so every frame goes through
// the queue; the bounds and the codes are the same.
func TestE6SlowConsumerOverTLS(t *testing.T) {
	for name, writeTimeout := range map[string]time.Duration{
		"reads in the end: told":    10 * time.Second,
		"never reads: cut after it": 100 * time.Millisecond,
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeRouter()
			s := newTestServer(t, f, func(c *Config) { c.QueueBytes, c.WriteTimeout = 64<<10, writeTimeout })
			srv := httptest.NewTLSServer(s.Handler())
			defer srv.Close()
			defer s.stop()
			d := &websocket.Dialer{TLSClientConfig: srv.Client().Transport.(*http.Transport).TLSClientConfig.Clone()}
			ws, _, err := d.Dial(strings.Replace(srv.URL, "http", "ws", 1)+"/connection/websocket", nil)
			if err != nil {
				t.Fatal(err)
			}
			defer ws.Close()
			sendText(t, ws, `{"id":1,"connect":{}}`)
			readText(t, ws)
			sendText(t, ws, `{"id":2,"subscribe":{"channel":"a"}}`)
			readText(t, ws)
			data := []byte(`"` + strings.Repeat("x", 50_000) + `"`)
			var slowest time.Duration
			for n := 0; s.metricSlow() == 0 && s.sessions.Count() > 0; n++ {
				if n == 5000 {
					t.Fatal("a silent peer does not get slow")
				}
				start := time.Now()
				f.deliver("a", &router.Publication{Data: data})
				slowest = max(slowest, time.Since(start))
			}
			if slowest > 4*time.Second { // the goodbye of crypto/tls alone may take 5
				t.Errorf("a delivery took %v: it waited for the slow peer", slowest)
			}
			if writeTimeout < time.Second {
				for deadline := time.Now().Add(20 * time.Second); s.sessions.Count() > 0; time.Sleep(time.Millisecond) { // a poll with a deadline
					if time.Now().After(deadline) {
						t.Fatal("the session of a peer that takes nothing goes on")
					}
				}
				return
			}
			for err == nil {
				ws.SetReadDeadline(time.Now().Add(10 * time.Second)) //nolint:errcheck // never fails in gorilla
				_, _, err = ws.ReadMessage()
			}
			if !websocket.IsCloseError(err, 3008) {
				t.Errorf("ended with %v, want close 3008", err)
			}
		})
	}
}

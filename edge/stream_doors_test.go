package edge

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/router"
)

// doors are the transports beside WebSocket, and a request that each takes.
var doors = map[string]struct{ method, path, body string }{
	"http_stream": {"POST", "/connection/http_stream", `{"id":1,"connect":{}}`},
	"sse":         {"GET", "/connection/sse?cf_connect=%7B%22id%22:1,%22connect%22:%7B%7D%7D", ""},
	"uni_sse":     {"GET", "/connection/uni_sse?channel=a", ""},
	"poll":        {"GET", "/poll?channel=a", ""},
	"emulation":   {"POST", "/emulation", `{}`},
}

// knock sends the request of a door and returns the answer's status.
func knock(t *testing.T, base, door string, change func(*http.Request)) *http.Response {
	t.Helper()
	d := doors[door]
	req, err := http.NewRequestWithContext(t.Context(), d.method, base+d.path, strings.NewReader(d.body))
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(req)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	return res
}

func TestA3PagesOfOtherSitesMayNotUseTheFallbacks(t *testing.T) {
	s := newTestServer(t, newFakeRouter(), func(c *Config) { c.AllowedOrigins = []string{"https://ours.example"} })
	base := serveHTTP(t, s)
	for door := range doors {
		from := func(origin string) *http.Response {
			return knock(t, base, door, func(r *http.Request) { r.Header.Set("Origin", origin) })
		}
		if res := from("https://theirs.example"); res.StatusCode != 403 {
			t.Errorf("%s: status %d for a page of another site", door, res.StatusCode)
		}
		if res := from("https://ours.example"); res.StatusCode == 403 || res.Header.Get("Access-Control-Allow-Origin") != "https://ours.example" {
			t.Errorf("%s: status %d for a page of ours, %v", door, res.StatusCode, res.Header)
		}
		asked := knock(t, base, door, func(r *http.Request) {
			r.Method = http.MethodOptions
			r.Header.Set("Origin", "https://ours.example")
			r.Header.Set("Access-Control-Request-Method", doors[door].method)
		})
		if asked.StatusCode != 204 || !strings.Contains(asked.Header.Get("Access-Control-Allow-Headers"), "Last-Event-ID") {
			t.Errorf("%s: preflight %d %v", door, asked.StatusCode, asked.Header)
		}
	}
}

func TestTransportsCanBeSwitchedOff(t *testing.T) {
	s := newTestServer(t, newFakeRouter(), func(c *Config) {
		off := Transports{EmulationMaxInflight: 1, EmulationOrderWait: time.Second, UniChannelLimit: 1, PollMaxWaiting: 1, PollMaxTimeout: time.Second}
		c.Transports = off
	})
	base := serveHTTP(t, s)
	for door := range doors {
		if res := knock(t, base, door, nil); res.StatusCode != 404 {
			t.Errorf("%s: status %d", door, res.StatusCode)
		}
	}
}

func TestHeadMakesNoSession(t *testing.T) {
	s := newTestServer(t, newFakeRouter(), nil)
	base := serveHTTP(t, s)
	for _, door := range []string{"sse", "uni_sse", "poll"} {
		if res := knock(t, base, door, func(r *http.Request) { r.Method = http.MethodHead }); res.StatusCode != 405 {
			t.Errorf("%s: status %d", door, res.StatusCode)
		}
	}
	if n := s.sessions.Count(); n != 0 {
		t.Errorf("%d sessions", n)
	}
}

func TestE8ConnectionsAreCountedOnEveryTransport(t *testing.T) {
	f := newFakeRouter()
	f.ns.HistorySize = 10
	s := newTestServer(t, f, func(c *Config) { c.Limits.Connections = 1 })
	base := serveHTTP(t, s)
	first := openClient(t, base, false)
	for door, want := range map[string]int{"http_stream": 503, "sse": 503, "uni_sse": 200, "poll": 503} {
		if res := knock(t, base, door, nil); res.StatusCode != want {
			t.Errorf("%s: status %d, want %d", door, res.StatusCode, want)
		}
	}
	first.res.Body.Close()
	for deadline := time.Now().Add(10 * time.Second); s.turnstile.open.Load() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the place was not given back")
		}
	}
	if res := knock(t, base, "poll", nil); res.StatusCode != 200 {
		t.Errorf("a poll then: status %d", res.StatusCode)
	}
}

// A stream that drains gets the answers to what was taken, then the reason.
func TestE7AStreamIsDrained(t *testing.T) {
	f := newFakeRouter()
	gate := make(chan struct{})
	f.rpc = func(router.RPCRequest) ([]byte, error) { <-gate; return []byte(`"late"`), nil }
	s := newTestServer(t, f, func(c *Config) { c.DrainWindow = 10 * time.Millisecond })
	c := openClient(t, serveHTTP(t, s), false)
	c.post(c.session, `{"id":2,"rpc":{"method":"slow"}}`)
	for s.sessions.list()[0].open() && !s.sessions.list()[0].busy() { // a poll with the test's deadline
		time.Sleep(time.Millisecond)
	}
	done := make(chan error, 1)
	go func() { done <- s.Shutdown(context.Background()) }()
	for !s.draining.Load() {
		time.Sleep(time.Millisecond)
	}
	close(gate)
	c.expect(`{"id":2,"rpc":{"data":"late"}}`)
	c.expect(`{"push":{"disconnect":{"code":3001,"reason":"shutdown","reconnect":true}}}`)
	if rest := c.read(); rest != "" {
		t.Errorf("after the end: %s", rest)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// busy reports whether a command is in flight.
func (s *session) busy() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.inflight > 0
}

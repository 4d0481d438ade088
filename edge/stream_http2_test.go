package edge

import (
	"bufio"
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/router"
)

// serveHTTP2 runs s with HTTP/2 and returns its address and a client.
func serveHTTP2(t *testing.T, s *Server) (url string, client *http.Client) {
	t.Helper()
	srv := httptest.NewUnstartedServer(s.Handler())
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(func() { s.stop(); srv.Close() })
	return srv.URL, srv.Client()
}

func TestE2PostedCommandsOverHTTP2(t *testing.T) {
	s := newTestServer(t, newFakeRouter(), nil)
	url, h2 := serveHTTP2(t, s)
	res, err := h2.Post(url+"/connection/http_stream", "application/json", strings.NewReader(`{"id":1,"connect":{}}`))
	if err != nil || res.ProtoMajor != 2 {
		t.Fatalf("%v %v", res, err)
	}
	defer res.Body.Close()
	c := &streamClient{t: t, url: url, lines: bufio.NewReader(res.Body)}
	var reply struct {
		Connect struct{ Session, Node string }
	}
	if err := json.Unmarshal([]byte(c.read()), &reply); err != nil {
		t.Fatal(err)
	}
	body, _ := json.Marshal(map[string]string{"session": reply.Connect.Session, "node": reply.Connect.Node, "data": `{"id":2,"subscribe":{"channel":"a"}}`})
	posted, err := h2.Post(url+"/emulation", "application/json", bytes.NewReader(body))
	if err != nil || posted.StatusCode != 204 {
		t.Fatalf("%v %v", posted, err)
	}
	posted.Body.Close()
	c.expect(`{"id":2,"subscribe":{}}`)
	s.sessions.list()[0].leave()
	c.expect(`{"push":{"disconnect":{"code":3001,"reason":"shutdown","reconnect":true}}}`)
	if rest := c.read(); rest != "" {
		t.Errorf("after the end: %s", rest)
	}
}

// A stream that is not read costs what its queue may hold, does not keep others of
// its connection waiting, and is ended with its handler.
func TestE6ASlowStreamOverHTTP2IsEnded(t *testing.T) {
	f := newFakeRouter()
	s := newTestServer(t, f, func(c *Config) { c.QueueBytes, c.WriteTimeout = 64<<10, 100*time.Millisecond })
	url, h2 := serveHTTP2(t, s)
	open := func(channel string) *http.Response {
		res, err := h2.Get(url + "/connection/uni_sse?channel=" + channel)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { res.Body.Close() })
		return res
	}
	open("slow")
	other := &eventSource{in: bufio.NewReader(open("other").Body)}
	other.next()
	data := []byte(`"` + strings.Repeat("x", 30_000) + `"`)
	deadline := time.Now().Add(20 * time.Second)
	for n := 0; f.subscribers("slow") > 0; n++ {
		if time.Now().After(deadline) {
			t.Fatal("a silent peer did not become slow")
		}
		f.deliver("slow", &router.Publication{Data: data})
		f.deliver("other", &router.Publication{Data: []byte(`1`)})
		if e := other.next(); !strings.Contains(e.data, `"data":1`) {
			t.Fatalf("the other stream got %+v", e)
		}
	}
	for s.sessions.Count() > 1 || s.metrics.open[uniSSE].Load() > 1 {
		if time.Now().After(deadline) {
			t.Fatal("its session is still there")
		}
		time.Sleep(time.Millisecond)
	}
}

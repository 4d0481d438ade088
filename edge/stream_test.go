package edge

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/centrifugal/protocol"

	"github.com/headrace/headrace/router"
)

// serveHTTP runs s on a real socket and returns its address.
func serveHTTP(tb testing.TB, s *Server) string {
	return strings.TrimSuffix(strings.Replace(serve(tb, s), "ws", "http", 1), "/connection/websocket")
}

// streamClient reads a stream of JSON lines or of events.
type streamClient struct {
	t             testing.TB
	url           string
	res           *http.Response
	lines         *bufio.Reader
	session, node string
}

// openClient connects over HTTP streaming, or over SSE.
func openClient(t testing.TB, url string, events bool) *streamClient {
	t.Helper()
	const connect = `{"id":1,"connect":{}}`
	var res *http.Response
	var err error
	if events {
		res, err = http.Get(url + "/connection/sse?cf_connect=" + strings.ReplaceAll(connect, `"`, "%22"))
	} else {
		res, err = http.Post(url+"/connection/http_stream", "application/json", strings.NewReader(connect))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	c := &streamClient{t: t, url: url, res: res, lines: bufio.NewReader(res.Body)}
	var reply struct {
		Connect struct{ Session, Node string }
	}
	line := c.read()
	if err := json.Unmarshal([]byte(line), &reply); err != nil || reply.Connect.Session == "" {
		t.Fatalf("connect reply %q: %v", line, err)
	}
	c.session, c.node = reply.Connect.Session, reply.Connect.Node
	return c
}

// read returns the next reply, "" at the end of the stream.
func (c *streamClient) read() string {
	c.t.Helper()
	for {
		line, err := c.lines.ReadString('\n')
		if err == io.EOF {
			return ""
		}
		if err != nil {
			c.t.Fatal(err)
		}
		if line = strings.TrimPrefix(strings.TrimSpace(line), "data: "); line != "" {
			return line
		}
	}
}

// post sends commands as the session of that name and returns the status.
func (c *streamClient) post(session, commands string) int {
	c.t.Helper()
	body, _ := json.Marshal(map[string]string{"session": session, "node": c.node, "data": commands})
	res, err := http.Post(c.url+"/emulation", "application/json", bytes.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	res.Body.Close()
	return res.StatusCode
}

func (c *streamClient) expect(want string) {
	c.t.Helper()
	if got := c.read(); !strings.Contains(got, want) {
		c.t.Fatalf("got %s, want %s", got, want)
	}
}

func TestE2StreamsCarryTheProtocol(t *testing.T) {
	for name, events := range map[string]bool{"http_stream": false, "sse": true} {
		t.Run(name, func(t *testing.T) {
			f := newFakeRouter()
			s := newTestServer(t, f, func(c *Config) { c.NodeID = "n1" })
			c := openClient(t, serveHTTP(t, s), events)
			for header, want := range map[string]string{"X-Accel-Buffering": "no", "Cache-Control": "no-store, no-transform"} {
				if got := c.res.Header.Get(header); got != want {
					t.Errorf("%s: %q, want %q", header, got, want)
				}
			}
			if c.node != "n1" {
				t.Errorf("node %q", c.node)
			}
			for session, want := range map[string]int{c.session: 204, c.session[:len(c.session)-1] + "_": 404, c.session[:36]: 404, "": 404, "nobody.secret": 404} {
				if got := c.post(session, "{}"); got != want {
					t.Errorf("status %d for session %q, want %d", got, session, want)
				}
			}
			c.post(c.session, `{"id":2,"subscribe":{"channel":"a"}}`+"\n"+`{"id":3,"publish":{"channel":"a","data":{"n":1}}}`)
			c.expect(`{"id":2,"subscribe":{}}`)
			c.expect(`{"push":{"channel":"a","pub":{"data":{"n":1}`)
			c.expect(`{"id":3,"publish":{}}`)
			s.sessions.list()[0].close(disconnectForced)
			c.expect(`{"push":{"disconnect":{"code":3503,"reason":"force disconnect"}}}`)
			if rest := c.read(); rest != "" {
				t.Errorf("after the end: %s", rest)
			}
		})
	}
}

func TestE2ProtobufStream(t *testing.T) {
	f := newFakeRouter()
	s := newTestServer(t, f, nil)
	url := serveHTTP(t, s)
	encode := func(cmd *protocol.Command) []byte {
		b, err := protocol.NewProtobufCommandEncoder().Encode(cmd)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	res, err := http.Post(url+"/connection/http_stream", octets, bytes.NewReader(encode(&protocol.Command{Id: 1, Connect: &protocol.ConnectRequest{}})))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	in := bufio.NewReader(res.Body)
	next := func() (*protocol.Reply, error) {
		size, err := binary.ReadUvarint(in)
		if err != nil {
			return nil, err
		}
		var reply protocol.Reply
		b := make([]byte, size)
		_, err = io.ReadFull(in, b)
		return &reply, errors.Join(err, reply.UnmarshalVT(b))
	}
	reply, err := next()
	if err != nil {
		t.Fatal(err)
	}
	req := &protocol.EmulationRequest{Session: reply.Connect.Session, Node: reply.Connect.Node, Data: encode(&protocol.Command{Id: 2, Rpc: &protocol.RPCRequest{Method: "none"}})}
	body, _ := req.MarshalVT()
	posted, err := http.Post(url+"/emulation", octets, bytes.NewReader(body))
	if err != nil || posted.StatusCode != 204 {
		t.Fatalf("posted: %v %v", posted, err)
	}
	posted.Body.Close()
	if reply, err = next(); err != nil || reply.Id != 2 || reply.Error.GetCode() != 108 {
		t.Errorf("reply %v, %v", reply, err)
	}
}

func TestE2BadPostsEndTheSession(t *testing.T) {
	for name, tt := range map[string]struct {
		data string
		code int
	}{
		"malformed commands":  {`{"id":`, 3501},
		"nothing":             {``, 3501},
		"a second connect":    {`{"id":2,"connect":{}}`, 3501},
		"more than may queue": {strings.Repeat(`{"id":9}`+"\n", 5000), 3013},
	} {
		t.Run(name, func(t *testing.T) {
			c := openClient(t, serveHTTP(t, newTestServer(t, newFakeRouter(), func(c *Config) { c.QueueBytes = 64 << 10 })), false)
			c.post(c.session, tt.data)
			c.expect(fmt.Sprintf(`{"push":{"disconnect":{"code":%d,`, tt.code))
		})
	}
}

func TestE2TooLargeBodiesAreRefused(t *testing.T) {
	s := newTestServer(t, newFakeRouter(), func(c *Config) { c.MaxMessageBytes = 1000 })
	c := openClient(t, serveHTTP(t, s), false)
	for _, n := range []int{1001, 4000} {
		if got := c.post(c.session, strings.Repeat(" ", n)); got != 413 {
			t.Errorf("%d bytes: status %d", n, got)
		}
	}
	res, err := http.Post(c.url+"/connection/http_stream", "application/json", strings.NewReader(strings.Repeat(" ", 1001)))
	if err != nil || res.StatusCode != 413 {
		t.Errorf("%v %v", res, err)
	}
	res.Body.Close()
	if n := s.sessions.Count(); n != 1 {
		t.Errorf("%d sessions", n)
	}
}

func TestE6SlowStreamIsTold(t *testing.T) {
	f := newFakeRouter()
	s := newTestServer(t, f, func(c *Config) { c.QueueBytes = 64 << 10 })
	c := openClient(t, serveHTTP(t, s), false)
	c.post(c.session, `{"id":2,"subscribe":{"channel":"a"}}`)
	c.expect(`{"id":2,`)
	data := []byte(`"` + strings.Repeat("x", 100_000) + `"`)
	deadline := time.Now().Add(20 * time.Second)
	for f.subscribers("a") > 0 && !s.sessions.list()[0].t.(*streamConn).ended() {
		if time.Now().After(deadline) {
			t.Fatal("a silent peer did not become slow")
		}
		f.deliver("a", &router.Publication{Data: data})
	}
	last := ""
	for line := c.read(); line != ""; line = c.read() {
		last = line
	}
	if !strings.Contains(last, `"disconnect":{"code":3008,"reason":"slow","reconnect":true}`) {
		t.Errorf("the last line is %.200s", last)
	}
}

func (c *streamConn) ended() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closing
}

func (f *fakeRouter) subscribers(channel string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.subs[channel])
}

// Over TLS browsers speak HTTP/2, which has no connection to take over.
func TestE2StreamsOverHTTP2(t *testing.T) {
	f := newFakeRouter()
	s := newTestServer(t, f, nil)
	srv := httptest.NewUnstartedServer(s.Handler())
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(func() { s.stop(); srv.Close() })
	http2 := srv.Client()
	res, err := http2.Get(srv.URL + "/connection/uni_sse?channel=a")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.ProtoMajor != 2 {
		t.Fatalf("it is HTTP/%d", res.ProtoMajor)
	}
	es := &eventSource{res: res, in: bufio.NewReader(res.Body)}
	if e := es.next(); e.name != "connected" {
		t.Errorf("got %+v", e)
	}
	f.deliver("a", &router.Publication{Data: []byte(`1`)})
	if e := es.next(); !strings.Contains(e.data, `"data":1`) {
		t.Errorf("got %+v", e)
	}
	s.sessions.list()[0].close(disconnectForced)
	if e := es.next(); e.name != "disconnect" {
		t.Errorf("got %+v", e)
	}
	if e := es.next(); e != (event{}) {
		t.Errorf("after the end: %+v", e)
	}
	if res, err := http2.Get(srv.URL + "/connection/uni_sse?channel=secret"); err != nil || res.StatusCode != 403 {
		t.Errorf("a channel that is denied: %v %v", res, err)
	}
	gone, err := http2.Get(srv.URL + "/connection/uni_sse?channel=a")
	if err != nil {
		t.Fatal(err)
	}
	gone.Body.Close() // the client leaves
	for deadline := time.Now().Add(10 * time.Second); s.sessions.Count() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("its session is still there")
		}
	}
}

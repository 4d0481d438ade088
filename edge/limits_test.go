package edge

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/headrace/headrace/edge/token"
	"github.com/headrace/headrace/router"
)

// flood makes n attempts at once and returns those that got in and the HTTP
// status of the others.
func flood(t *testing.T, n int, dial func(i int) (*websocket.Conn, *http.Response, error)) (in []*websocket.Conn, refused map[int]int) {
	t.Helper()
	refused = make(map[int]int)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			ws, resp, err := dial(i)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				in = append(in, ws)
			case resp != nil:
				refused[resp.StatusCode]++
			default:
				t.Errorf("dial: %v", err)
			}
		})
	}
	wg.Wait()
	t.Cleanup(func() {
		for _, ws := range in {
			ws.Close()
		}
	})
	return in, refused
}

func from(ip string) http.Header { return http.Header{"X-Forwarded-For": {ip}} }

var loopbackIsProxy = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

func TestE8ConnectionLimitsHoldUnderAFlood(t *testing.T) {
	for name, tt := range map[string]struct {
		limits Limits
		header func(i int) http.Header
		in     int
		status int
		why    refusal
	}{
		"per edge":             {Limits{Connections: 20}, nil, 20, http.StatusServiceUnavailable, refusedConnections},
		"per address":          {Limits{ConnectionsPerIP: 7}, nil, 7, http.StatusTooManyRequests, refusedConnectionsPerIP},
		"per proxied address":  {Limits{ConnectionsPerIP: 3, TrustedProxies: loopbackIsProxy}, func(i int) http.Header { return from(fmt.Sprintf("10.0.0.%d", i%5)) }, 15, http.StatusTooManyRequests, refusedConnectionsPerIP},
		"per IPv6 /64":         {Limits{ConnectionsPerIP: 4, TrustedProxies: loopbackIsProxy}, func(i int) http.Header { return from(fmt.Sprintf("2001:db8::%x", i+1)) }, 4, http.StatusTooManyRequests, refusedConnectionsPerIP},
		"a forged header":      {Limits{ConnectionsPerIP: 7}, func(i int) http.Header { return from(fmt.Sprintf("10.0.0.%d", i)) }, 7, http.StatusTooManyRequests, refusedConnectionsPerIP},
		"both, edge is lower":  {Limits{Connections: 5, ConnectionsPerIP: 7}, nil, 5, http.StatusServiceUnavailable, refusedConnections},
		"burst of a slow rate": {Limits{ConnectRate: 0.001, ConnectBurst: 9}, nil, 9, http.StatusServiceUnavailable, refusedConnectRate},
	} {
		t.Run(name, func(t *testing.T) {
			s := newTestServer(t, newFakeRouter(), func(c *Config) { c.Limits = tt.limits })
			url := serve(t, s)
			const n = 60
			dial := func(i int) (*websocket.Conn, *http.Response, error) {
				var h http.Header
				if tt.header != nil {
					h = tt.header(i)
				}
				return websocket.DefaultDialer.Dial(url, h)
			}
			in, refused := flood(t, n, dial)
			if len(in) != tt.in || refused[tt.status] != n-tt.in {
				t.Errorf("%d got in, refused %v; want %d and the others with %d", len(in), refused, tt.in, tt.status)
			}
			if got := testutil.ToFloat64(s.metrics.refused.WithLabelValues(string(tt.why))); got != float64(n-tt.in) {
				t.Errorf("metric counts %v refusals for %s, want %d", got, tt.why, n-tt.in)
			}
			if tt.why == refusedConnectRate {
				return
			}
			// Who leaves makes room, and for no more than himself.
			for _, ws := range in {
				ws.Close()
			}
			for deadline := time.Now().Add(10 * time.Second); s.turnstile.open.Load() > 0; time.Sleep(time.Millisecond) { // a poll with a deadline
				if time.Now().After(deadline) {
					t.Fatalf("%d places are not given back", s.turnstile.open.Load())
				}
			}
			if again, _ := flood(t, n, dial); len(again) != tt.in {
				t.Errorf("after all had left %d got in, want %d", len(again), tt.in)
			}
		})
	}
}

func TestE8ConnectionsPerUserHoldUnderAFlood(t *testing.T) {
	const limit = 4
	s := newTestServer(t, newFakeRouter(), func(c *Config) { c.Limits.ConnectionsPerUser = limit })
	url := serve(t, s)
	connect := func(user string) error {
		ws := dialWS(t, url, nil)
		sendText(t, ws, `{"id":1,"connect":{"token":"`+mustMint(token.Connection{User: user})+`"}}`)
		ws.SetReadDeadline(time.Now().Add(10 * time.Second)) //nolint:errcheck // never fails in gorilla
		_, _, err := ws.ReadMessage()
		return err
	}
	var mu sync.Mutex
	in := make(map[string]int)
	var wg sync.WaitGroup
	for i := range 60 {
		wg.Go(func() {
			user := []string{"a", "b", ""}[i%3]
			err := connect(user)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				in[user]++
			case !websocket.IsCloseError(err, 3504):
				t.Errorf("user %q: %v, want close 3504", user, err)
			}
		})
	}
	wg.Wait()
	if in["a"] != limit || in["b"] != limit || in[""] != 20 {
		t.Errorf("connections by user: %v, want %d each, and all without a user", in, limit)
	}
	for _, sess := range s.sessions.list() {
		sess.close(disconnectReconnect)
	}
	if err := connect("a"); err != nil {
		t.Errorf("after all were gone: %v", err)
	}
	held := func() int {
		s.sessions.mu.Lock()
		defer s.sessions.mu.Unlock()
		return len(s.sessions.held)
	}
	for deadline := time.Now().Add(10 * time.Second); held() > 0; time.Sleep(time.Millisecond) { // a poll with a deadline
		if time.Now().After(deadline) {
			t.Fatalf("%d places are held for nobody", held())
		}
	}
}

func TestE8ConnectRateIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer(t, newFakeRouter(), func(c *Config) { c.Limits = Limits{ConnectRate: 5, ConnectBurst: 10} })
		r := httptest.NewRequest("GET", "/", nil)
		in := 0
		for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) { // virtual time
			if _, why := s.turnstile.enter(r); why == "" {
				in++
			}
		}
		if in != 10+5*10-1 && in != 10+5*10 {
			t.Errorf("%d connections in 10 s, want a burst of 10 and 5 a second", in)
		}
	})
}

func TestE8CommandRateIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer(t, newFakeRouter(), func(c *Config) { c.Limits = Limits{CommandRate: 10, CommandBurst: 20} })
		sess, tr := newTestSession(s, jsonWS)
		sess.seat, _ = s.turnstile.enter(httptest.NewRequest("GET", "/", nil))
		sess.onFrame([]byte(connectFrame))
		tr.take()
		done, refused := 0, 0
		for range 300 {
			sess.onFrame([]byte(`{"id":2,"publish":{"channel":"a","data":1}}`))
			switch got := strings.Join(tr.take(), " "); {
			case strings.HasSuffix(got, `{"id":2,"publish":{}}`):
				done++
			case strings.Contains(got, `"code":111`) && strings.Contains(got, `"temporary":true`):
				refused++
			default:
				t.Fatalf("got %s (closed %d)", got, tr.closed())
			}
			sess.onFrame([]byte(`{}`)) // pongs are not commands
			time.Sleep(20 * time.Millisecond)
		}
		if done < 20+59 || done > 20+60 || done+refused != 300 {
			t.Errorf("%d commands done and %d refused of 50 a second in 6 s, want a burst of 20 and 10 a second", done, refused)
		}
		// Who does not listen is sent away.
		for i := 0; tr.closed() == 0; i++ {
			if i > 2*maxRefusedInRow {
				t.Fatal("still there")
			}
			sess.onFrame([]byte(`{"id":3,"history":{"channel":"a"}}`))
		}
		if tr.closed() != 3013 {
			t.Errorf("closed with %d, want 3013", tr.closed())
		}
		settle(s, sess)
	})
}

// userQuota allows so many publications per user.
type userQuota struct {
	mu   sync.Mutex // guards left
	left map[string]int
}

func (q *userQuota) Take(_ context.Context, user string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.left[user] == 0 {
		return router.Errorf(router.CodeTooMany, "too many messages")
	}
	q.left[user]--
	return nil
}

func TestE8UserLimitKeepsTheOrderOfCommands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newFakeRouter()
		s := newTestServer(t, r, func(c *Config) { c.UserLimit = &userQuota{left: map[string]int{"42": 3}} })
		sess, tr := newTestSession(s, jsonWS)
		sess.onFrame([]byte(`{"id":1,"connect":{"token":"` + mustMint(token.Connection{User: "42"}) + `"}}`))
		tr.take()
		var frame strings.Builder
		for i := range 5 {
			fmt.Fprintf(&frame, `{"id":%d,"publish":{"channel":"a","data":%d}}`+"\n", i+2, i)
		}
		frame.WriteString(`{"id":7,"subscribe":{"channel":"a"}}`)
		sess.onFrame([]byte(frame.String()))
		settle(s, sess)
		want := `{"id":2,"publish":{}} {"id":3,"publish":{}} {"id":4,"publish":{}} ` +
			`{"id":5,"error":{"code":111,"message":"too many messages","temporary":true}} {"id":6,"error":{"code":111,"message":"too many messages","temporary":true}} ` +
			`{"id":7,"subscribe":{}}`
		if got := strings.Join(tr.take(), " "); got != want {
			t.Errorf("got\n%s, want\n%s", got, want)
		}
		if got := testutil.ToFloat64(s.metrics.refused.WithLabelValues(string(refusedUserMessages))); got != 2 {
			t.Errorf("metric counts %v", got)
		}
	})
}

func TestE8LimitsThatAreOffCostNothing(t *testing.T) {
	s := newTestServer(t, newFakeRouter(), nil)
	r := httptest.NewRequest("GET", "/", nil)
	if n := testing.AllocsPerRun(100, func() {
		if st, why := s.turnstile.enter(r); st != nil || why != "" {
			t.Error("something is limited")
		}
	}); n > 0 {
		t.Errorf("%v allocations a connection", n)
	}
}

func TestClientIP(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	for name, tt := range map[string]struct {
		peer, header, want string
	}{
		"no proxy":                       {"1.2.3.4:5", "", "1.2.3.4"},
		"header from who is no proxy":    {"1.2.3.4:5", "9.9.9.9", "1.2.3.4"},
		"a proxy":                        {"10.1.1.1:5", "9.9.9.9", "9.9.9.9"},
		"two proxies":                    {"10.1.1.1:5", "9.9.9.9, 10.2.2.2", "9.9.9.9"},
		"forged in front":                {"10.1.1.1:5", "6.6.6.6, 9.9.9.9", "9.9.9.9"},
		"forged, as if it were a proxy":  {"10.1.1.1:5", "10.6.6.6, 9.9.9.9, 10.2.2.2", "9.9.9.9"},
		"garbage in front":               {"10.1.1.1:5", "<script>, 9.9.9.9", "9.9.9.9"},
		"garbage from the proxy":         {"10.1.1.1:5", "unknown", "10.1.1.1"},
		"only proxies":                   {"10.1.1.1:5", "10.2.2.2", "10.2.2.2"},
		"no header from a proxy":         {"10.1.1.1:5", "", "10.1.1.1"},
		"with a port":                    {"10.1.1.1:5", "9.9.9.9:1234", "9.9.9.9"},
		"IPv6 with a port":               {"[fd00::1]:5", "[2001:db8::1]:1234", "2001:db8::1"},
		"IPv4 in IPv6":                   {"[::ffff:10.1.1.1]:5", "::ffff:9.9.9.9", "9.9.9.9"},
		"a zone makes no second address": {"[fe80::1%eth0]:5", "", "fe80::1"},
		"no address at all":              {"pipe", "9.9.9.9", "invalid IP"},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest("GET", "/", nil)
			r.RemoteAddr = tt.peer
			if tt.header != "" {
				r.Header.Set("X-Forwarded-For", tt.header)
			}
			if got := clientIP(r, trusted).String(); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func FuzzClientIP(f *testing.F) {
	f.Add("1.2.3.4:5", "9.9.9.9, 10.0.0.1")
	f.Add("10.0.0.1:5", ",,[::1%x]:99,")
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	f.Fuzz(func(t *testing.T, peer, header string) {
		r := &http.Request{RemoteAddr: peer, Header: from(header)}
		ip := clientIP(r, trusted)
		if ip.Zone() != "" || ip.Is4In6() {
			t.Errorf("%v is not plain", ip)
		}
		if p, err := netip.ParseAddrPort(peer); err == nil && !isTrusted(plainIP(p.Addr()), trusted) && ip != plainIP(p.Addr()) {
			t.Errorf("%s said it is %v and was believed", peer, ip)
		}
		networkOf(ip)
	})
}

func TestE8LimitsThatAreAlwaysOnAreCounted(t *testing.T) {
	s := newTestServer(t, newFakeRouter(), func(c *Config) { c.ChannelLimit, c.MaxMessageBytes = 1, 500 })
	ws := dialWS(t, serve(t, s), nil)
	sendText(t, ws, connectFrame+"\n"+`{"id":2,"subscribe":{"channel":"a"}}`+"\n"+`{"id":3,"subscribe":{"channel":"b"}}`)
	for !strings.Contains(readText(t, ws), `"code":106`) {
	}
	sendText(t, ws, `{"id":4,"publish":{"channel":"a","data":"`+strings.Repeat("x", 500)+`"}}`)
	if _, _, err := ws.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseMessageTooBig) {
		t.Errorf("got %v, want close 1009", err)
	}
	for _, why := range []refusal{refusedChannels, refusedMessageSize} {
		if got := testutil.ToFloat64(s.metrics.refused.WithLabelValues(string(why))); got != 1 {
			t.Errorf("%s counted %v times", why, got)
		}
	}
	if _, err := New(Config{Limits: Limits{Connections: -1}}, newFakeRouter(), NewSessions()); err == nil || !strings.Contains(err.Error(), "a limit is negative") {
		t.Errorf("a negative limit: %v", err)
	}
}

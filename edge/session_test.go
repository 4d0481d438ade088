package edge

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/headrace/headrace/edge/token"
	"github.com/headrace/headrace/router"
)

// fakeTransport records what a session sends, as text.
type fakeTransport struct {
	mu     sync.Mutex // guards the fields below
	frames []string   // payloads, without the WebSocket header
	why    *disconnect
}

func (t *fakeTransport) Send(frame []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.why == nil {
		t.frames = append(t.frames, string(framePayload(frame)))
	}
}

func (t *fakeTransport) Close(d disconnect) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.why == nil {
		t.why = &d
	}
}

func (t *fakeTransport) closed() uint16 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.why == nil {
		return 0
	}
	return t.why.code
}

// take returns the frames since the last call.
func (t *fakeTransport) take() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	frames := t.frames
	t.frames = nil
	return frames
}

func newTestServer(tb testing.TB, r Router, change func(*Config)) *Server {
	tb.Helper()
	cfg := DefaultConfig()
	cfg.Version = "test"
	cfg.Tokens.HMACSecret = "secret"
	cfg.AllowAnonymous = true
	if change != nil {
		change(&cfg)
	}
	s, err := New(cfg, r, NewSessions())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.stop)
	return s
}

func newTestSession(s *Server, k kind) (*session, *fakeTransport) {
	t := &fakeTransport{}
	sess := newSession(s, k, t, time.Now())
	sess.id = "c1"
	s.sessions.add(sess, func() {})
	return sess, t
}

// settle waits for the commands that run on goroutines of their own.
func settle(s *Server, sess *session) {
	sess.mu.Lock()
	for sess.inflight > 0 {
		sess.room.Wait()
	}
	sess.mu.Unlock()
	s.calls.Wait()
}

var volatile = regexp.MustCompile(`"(time|ttl)":\d+`)

// unsetTime is the time of an entry that has none.
var unsetTime = regexp.MustCompile(`"time":-?\d+`)

// mustMint and mustMintSub sign with the tests' secret.
func mustMint(c token.Connection) string { return must(token.MintConnection("secret", c)) }

func mustMintSub(c token.Subscription) string { return must(token.MintSubscription("secret", c)) }

func must(s string, err error) string {
	if err != nil {
		panic(err)
	}
	return s
}

// exchange is what a client sends after its connect command and what it gets
// after the connect reply, frame by frame.
type exchange struct {
	send   []string
	want   []string
	closed uint16
}

const (
	connectFrame   = `{"id":1,"connect":{}}`
	connectedFrame = `{"id":1,"connect":{"client":"c1","version":"test","ping":25,"pong":true,"time":0}}`
)

// endedSub is a token for a subscription that ended long ago.
var endedSub = must(jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"channel": "a", "expire_at": 1}).SignedString([]byte("secret")))

var future = time.Now().Add(time.Hour).Unix()

var exchanges = map[string]exchange{
	"subscribe": {[]string{`{"id":2,"subscribe":{"channel":"a"}}`}, []string{`{"id":2,"subscribe":{}}`}, 0},
	"publish to oneself: the push comes too": {
		[]string{`{"id":2,"subscribe":{"channel":"a"}}` + "\n" + `{"id":3,"publish":{"channel":"a","data":{"n":1}}}`},
		[]string{`{"id":2,"subscribe":{}}`, `{"push":{"channel":"a","pub":{"data":{"n":1},"info":{"user":"","client":"c1"},"offset":1}}}`, `{"id":3,"publish":{}}`}, 0,
	},
	"subscribe twice":          {[]string{`{"id":2,"subscribe":{"channel":"a"}}`, `{"id":3,"subscribe":{"channel":"a"}}`}, []string{`{"id":2,"subscribe":{}}`, `{"id":3,"error":{"code":105,"message":"already subscribed"}}`}, 0},
	"unsubscribe":              {[]string{`{"id":2,"subscribe":{"channel":"a"}}`, `{"id":3,"unsubscribe":{"channel":"a"}}`, `{"id":4,"subscribe":{"channel":"a"}}`}, []string{`{"id":2,"subscribe":{}}`, `{"id":3,"unsubscribe":{}}`, `{"id":4,"subscribe":{}}`}, 0},
	"unsubscribe from nowhere": {[]string{`{"id":3,"unsubscribe":{"channel":"a"}}`}, []string{`{"id":3,"unsubscribe":{}}`}, 0},
	"denied":                   {[]string{`{"id":2,"subscribe":{"channel":"secret"}}`, `{"id":3,"publish":{"channel":"secret","data":1}}`}, []string{`{"id":2,"error":{"code":103,"message":"permission denied"}}`, `{"id":3,"error":{"code":103,"message":"permission denied"}}`}, 0},
	"subscription token": {
		[]string{`{"id":2,"subscribe":{"channel":"secret","token":"` + mustMintSub(token.Subscription{Channel: "secret", ExpireAt: future}) + `"}}`},
		[]string{`{"id":2,"subscribe":{"expires":true,"ttl":0}}`}, 0,
	},
	"subscription token of another channel": {
		[]string{`{"id":2,"subscribe":{"channel":"secret","token":"` + mustMintSub(token.Subscription{Channel: "other"}) + `"}}`},
		nil, 3500,
	},
	"subscription token of another user": {
		[]string{`{"id":2,"subscribe":{"channel":"secret","token":"` + mustMintSub(token.Subscription{Channel: "secret", User: "7"}) + `"}}`},
		nil, 3500,
	},
	"expired subscription token": {
		[]string{`{"id":2,"subscribe":{"channel":"secret","token":"` + mustMintSub(token.Subscription{Channel: "secret", ExpireAt: 1}) + `"}}`},
		[]string{`{"id":2,"error":{"code":109,"message":"token expired"}}`}, 0,
	},
	"sub_refresh": {
		[]string{`{"id":2,"subscribe":{"channel":"a"}}`, `{"id":3,"sub_refresh":{"channel":"a","token":"` + mustMintSub(token.Subscription{Channel: "a", ExpireAt: future}) + `"}}`},
		[]string{`{"id":2,"subscribe":{}}`, `{"id":3,"sub_refresh":{"expires":true,"ttl":0}}`}, 0,
	},
	"subscription token that ends in the past": {
		[]string{`{"id":2,"subscribe":{"channel":"a","token":"` + endedSub + `"}}`}, []string{`{"id":2,"error":{"code":110,"message":"expired"}}`}, 0,
	},
	"sub_refresh, expired": {[]string{`{"id":2,"subscribe":{"channel":"a"}}`, `{"id":3,"sub_refresh":{"channel":"a","token":"` + mustMintSub(token.Subscription{Channel: "a", ExpireAt: 1}) + `"}}`}, []string{`{"id":2,"subscribe":{}}`}, 3006},
	"sub_refresh, invalid": {[]string{`{"id":3,"sub_refresh":{"channel":"a","token":"x"}}`}, nil, 3500},
	"track":                {[]string{`{"id":3,"sub_refresh":{"channel":"a","type":1}}`, `{"id":4,"sub_refresh":{"channel":"a","type":2}}`}, []string{`{"id":3,"error":{"code":108,"message":"this kind of refresh is not available"}}`, `{"id":4,"error":{"code":108,"message":"this kind of refresh is not available"}}`}, 0},
	"history":              {[]string{`{"id":2,"history":{"channel":"a","limit":10}}`}, []string{`{"id":2,"history":{"publications":[{"data":"two","offset":2}],"epoch":"e","offset":2}}`}, 0},
	"history elsewhere":    {[]string{`{"id":2,"history":{"channel":"a","since":{"offset":1,"epoch":"x"}}}`}, []string{`{"id":2,"error":{"code":112,"message":"unrecoverable position"}}`}, 0},
	"presence":             {[]string{`{"id":2,"presence":{"channel":"a"}}`}, []string{`{"id":2,"presence":{"presence":{"c1":{"user":"42","client":"c1","conn_info":{"a":1}}}}}`}, 0},
	"presence stats":       {[]string{`{"id":2,"presence_stats":{"channel":"a"}}`}, []string{`{"id":2,"presence_stats":{"num_clients":2,"num_users":1}}`}, 0},
	"unavailable hides the cause": {[]string{`{"id":2,"presence_stats":{"channel":"broken"}}`},
		[]string{`{"id":2,"error":{"code":100,"message":"the cluster is temporarily unavailable","temporary":true}}`}, 0},
	"unknown namespace":   {[]string{`{"id":2,"subscribe":{"channel":"a b:c"}}`}, []string{`{"id":2,"error":{"code":102,"message":"unknown namespace \"a b\""}}`}, 0},
	"channel too long":    {[]string{`{"id":2,"subscribe":{"channel":"` + strings.Repeat("a", 256) + `"}}`}, []string{`{"id":2,"error":{"code":107,"message":"channel is longer than 255 bytes"}}`}, 0},
	"map subscription":    {[]string{`{"id":2,"subscribe":{"channel":"a","type":1}}`}, []string{`{"id":2,"error":{"code":108,"message":"the channels of namespace \"default\" are no maps"}}`}, 0},
	"rpc":                 {[]string{`{"id":2,"rpc":{"method":"x"}}`}, []string{`{"id":2,"error":{"code":108,"message":"no rpc is configured"}}`}, 0},
	"send":                {[]string{`{"send":{"data":1}}`}, nil, 3508},
	"ping":                {[]string{`{"id":2,"ping":{}}`}, nil, 3501},
	"no id":               {[]string{`{"subscribe":{"channel":"a"}}`}, nil, 3501},
	"nothing asked":       {[]string{`{"id":2}`}, nil, 3501},
	"connect twice":       {[]string{connectFrame}, nil, 3501},
	"no JSON":             {[]string{`hello`}, nil, 3501},
	"half a command":      {[]string{`{"id":2,"subscribe":`}, nil, 3501},
	"empty frame":         {[]string{``}, nil, 3501},
	"refresh":             {[]string{`{"id":2,"refresh":{"token":"` + mustMint(token.Connection{ExpireAt: future}) + `"}}`}, []string{`{"id":2,"refresh":{"client":"c1","version":"test","expires":true,"ttl":0}}`}, 0},
	"refresh, expired":    {[]string{`{"id":2,"refresh":{"token":"` + mustMint(token.Connection{ExpireAt: 1}) + `"}}`}, nil, 3005},
	"refresh, other user": {[]string{`{"id":2,"refresh":{"token":"` + mustMint(token.Connection{User: "7"}) + `"}}`}, nil, 3500},
}

// TestExchanges are golden frames. The samples follow the public protocol.
func TestExchanges(t *testing.T) {
	for name, tt := range exchanges {
		t.Run(name, func(t *testing.T) {
			s := newTestServer(t, newFakeRouter(), nil)
			sess, tr := newTestSession(s, jsonWS)
			var got []string
			for _, frame := range append([]string{connectFrame}, tt.send...) {
				sess.onFrame([]byte(frame))
				settle(s, sess)
				got = append(got, tr.take()...)
			}
			for i := range got {
				got[i] = volatile.ReplaceAllString(got[i], `"$1":0`)
			}
			if want := append([]string{connectedFrame}, tt.want...); !slices.Equal(got, want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			if code := tr.closed(); code != tt.closed {
				t.Errorf("closed with %d, want %d", code, tt.closed)
			}
		})
	}
}

// TestConnectTokens: who gets in and what the others are told.
func TestConnectTokens(t *testing.T) {
	mint := func(secret string, c token.Connection) string {
		s, err := token.MintConnection(secret, c)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	sub, err := token.MintSubscription("secret", token.Subscription{Channel: "a"})
	if err != nil {
		t.Fatal(err)
	}
	// {"alg":"none"} with {"sub":"42"} and no signature.
	const none = "eyJhbGciOiJub25lIn0.eyJzdWIiOiI0MiJ9."
	for name, tt := range map[string]struct {
		token     string
		anonymous bool
		reply     string // part of the reply
		closed    uint16
	}{
		"valid":                {mint("secret", token.Connection{User: "42"}), false, `"client":"c1"`, 0},
		"expired":              {mint("secret", token.Connection{User: "42", ExpireAt: 1}), false, `"code":109`, 0},
		"wrong secret":         {mint("other", token.Connection{User: "42"}), false, "", 3500},
		"alg none":             {none, true, "", 3500},
		"garbage":              {"garbage", true, "", 3500},
		"a subscription token": {sub, true, "", 3500},
		"none, allowed":        {"", true, `"client":"c1"`, 0},
		"none, not allowed":    {"", false, "", 3501},
	} {
		t.Run(name, func(t *testing.T) {
			s := newTestServer(t, newFakeRouter(), func(c *Config) { c.AllowAnonymous = tt.anonymous })
			sess, tr := newTestSession(s, jsonWS)
			sess.onFrame([]byte(`{"id":1,"connect":{"token":"` + tt.token + `"}}`))
			got := strings.Join(tr.take(), "\n")
			if !strings.Contains(got, tt.reply) || (tt.reply == "") != (got == "") || tr.closed() != tt.closed {
				t.Errorf("got %q and code %d, want %q and %d", got, tr.closed(), tt.reply, tt.closed)
			}
		})
	}
}

// Commands of a session to one channel take effect in order, even when the first
// waits for the cluster; those to other channels do not wait.
func TestCommandsToAChannelKeepTheirOrder(t *testing.T) {
	f := newFakeRouter()
	f.gate = make(chan struct{})
	s := newTestServer(t, f, nil)
	sess, tr := newTestSession(s, jsonWS)
	sess.onFrame([]byte(`{"id":1,"connect":{}}` + "\n" +
		`{"id":2,"subscribe":{"channel":"a"}}` + "\n" + `{"id":3,"publish":{"channel":"a","data":1}}` + "\n" +
		`{"id":4,"unsubscribe":{"channel":"a"}}` + "\n" + `{"id":5,"publish":{"channel":"a","data":2}}` + "\n" +
		`{"id":6,"publish":{"channel":"b","data":3}}`))
	if got, want := f.asked(), []string{"subscribe a", "publish b"}; !slices.Equal(got, want) {
		t.Errorf("before the answer: %q, want %q", got, want)
	}
	close(f.gate)
	settle(s, sess)
	want := []string{"subscribe a", "publish b", "publish a", "unsubscribe a", "publish a"}
	if got := f.asked(); !slices.Equal(got, want) {
		t.Errorf("asked %q, want %q", got, want)
	}
	var ids []string
	for _, frame := range tr.take()[1:] {
		ids = append(ids, regexp.MustCompile(`"id":\d|push`).FindString(frame))
	}
	if want := []string{`"id":6`, `"id":2`, "push", `"id":3`, `"id":4`, `"id":5`}; !slices.Equal(ids, want) {
		t.Errorf("frames %q, want %q", ids, want)
	}
}

func TestDroppedSubscriptionIsTold(t *testing.T) {
	f := newFakeRouter()
	s := newTestServer(t, f, nil)
	sess, tr := newTestSession(s, jsonWS)
	sess.onFrame([]byte(`{"id":1,"connect":{}}` + "\n" + `{"id":2,"subscribe":{"channel":"a"}}`))
	tr.take()
	f.drop("a", router.UnsubscribedInsufficientState)
	want := `{"push":{"channel":"a","unsubscribe":{"code":2500,"reason":"insufficient state"}}}`
	if got := tr.take(); len(got) != 1 || got[0] != want {
		t.Errorf("got %q, want %q", got, want)
	}
	sess.onFrame([]byte(`{"id":3,"subscribe":{"channel":"a"}}`))
	if got := tr.take(); len(got) != 1 || got[0] != `{"id":3,"subscribe":{}}` {
		t.Errorf("subscribing again: %q", got)
	}
}

func TestChannelLimit(t *testing.T) {
	s := newTestServer(t, newFakeRouter(), func(c *Config) { c.ChannelLimit = 3 })
	sess, tr := newTestSession(s, jsonWS)
	sess.onFrame([]byte(`{"id":1,"connect":{}}`))
	for i := range 4 {
		sess.onFrame(fmt.Appendf(nil, `{"id":%d,"subscribe":{"channel":"c%d"}}`, i+2, i))
	}
	frames := tr.take()
	if last := frames[len(frames)-1]; !strings.Contains(last, `"code":106`) {
		t.Errorf("fourth channel: %s", last)
	}
}

// The wheel, in virtual time.
func TestTimeEndsThings(t *testing.T) {
	for name, tt := range map[string]struct {
		answer bool // pings
		token  time.Duration
		silent bool // never connects
		code   uint16
		after  time.Duration // at which second
	}{
		"no connect command": {silent: true, code: 3502, after: 10 * time.Second},
		"no pong":            {code: 3012, after: 33 * time.Second},
		"expired token":      {answer: true, token: time.Minute, code: 3005, after: time.Minute + 25*time.Second},
		"answers its pings":  {answer: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newTestServer(t, newFakeRouter(), nil)
				sess, tr := newTestSession(s, jsonWS)
				start := time.Now()
				if !tt.silent {
					c := token.Connection{User: "42"}
					if tt.token > 0 {
						c.ExpireAt = start.Add(tt.token).Unix()
					}
					text, err := token.MintConnection("secret", c)
					if err != nil {
						t.Fatal(err)
					}
					sess.onFrame([]byte(`{"id":1,"connect":{"token":"` + text + `"}}`))
				}
				tr.take()
				pings := 0
				for range 300 {
					time.Sleep(time.Second) // virtual
					sess.tick(time.Now())
					if tr.closed() != 0 {
						break
					}
					for _, f := range tr.take() {
						if f == "{}" {
							pings++
							if tt.answer {
								sess.onFrame([]byte("{}"))
							}
						}
					}
				}
				if tr.closed() != tt.code {
					t.Fatalf("closed with %d, want %d", tr.closed(), tt.code)
				}
				if took := time.Since(start); tt.code != 0 && took != tt.after {
					t.Errorf("closed after %v, want %v", took, tt.after)
				}
				if tt.code == 0 && pings != 12 {
					t.Errorf("%d pings in 300 s, want 12", pings)
				}
				if tt.code != 0 && s.sessions.Count() != 0 {
					t.Error("the session is still there")
				}
			})
		})
	}
}

func TestExpiredSubscriptionEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer(t, newFakeRouter(), nil)
		sess, tr := newTestSession(s, jsonWS)
		text, err := token.MintSubscription("secret", token.Subscription{Channel: "a", ExpireAt: time.Now().Add(5 * time.Second).Unix()})
		if err != nil {
			t.Fatal(err)
		}
		sess.onFrame([]byte(`{"id":1,"connect":{}}` + "\n" + `{"id":2,"subscribe":{"channel":"a","token":"` + text + `"}}`))
		tr.take()
		for range 31 {
			time.Sleep(time.Second) // virtual
			sess.mu.Lock()
			sess.pongBy = time.Time{}
			sess.mu.Unlock()
			sess.tick(time.Now())
		}
		frames := tr.take()
		want := `{"push":{"channel":"a","unsubscribe":{"code":2501,"reason":"subscription expired"}}}`
		if !slices.Contains(frames, want) {
			t.Errorf("got %q, want %q among them", frames, want)
		}
	})
}

// An edge whose router has no leader sends its clients away, spread over the
// drain window, but not for an election.
func TestJ2ClientsAreMovedAwayFromABlindEdge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeRouter()
		s := newTestServer(t, f, func(c *Config) { c.PingInterval = time.Hour })
		var all []*fakeTransport
		for range 100 {
			sess, tr := newTestSession(s, jsonWS)
			sess.onFrame([]byte(`{"id":1,"connect":{}}`))
			all = append(all, tr)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		closed := func() (n int) {
			for _, tr := range all {
				if tr.closed() == 3011 {
					n++
				}
			}
			return n
		}
		blind := func(err error) { f.mu.Lock(); defer f.mu.Unlock(); f.ready = err }

		blind(errors.New("election"))
		time.Sleep(12 * time.Second) // virtual
		blind(nil)
		time.Sleep(30 * time.Second) // virtual
		if n := closed(); n != 0 {
			t.Errorf("%d clients were moved for an election", n)
		}
		blind(errors.New("cut off"))
		time.Sleep(500 * time.Millisecond) // virtual: look between the ticks
		most, before := 0, 0
		for range 40 {
			time.Sleep(time.Second) // virtual
			most, before = max(most, closed()-before), closed()
		}
		if closed() != len(all) || most > 25 {
			t.Errorf("%d of %d clients were moved, at most %d in a second", closed(), len(all), most)
		}
		cancel()
		<-done
	})
}

package edge

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"

	"github.com/headrace/headrace/edge/token"
)

// idp is an identity provider without a socket, so that virtual time works.
type idp struct {
	mu    sync.Mutex // guards the fields below
	keys  map[string]*ecdsa.PrivateKey
	down  bool
	delay time.Duration
}

func (p *idp) RoundTrip(r *http.Request) (*http.Response, error) {
	p.mu.Lock()
	delay, down := p.delay, p.down
	w := httptest.NewRecorder()
	var set jose.JSONWebKeySet
	for id, k := range p.keys {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: k.Public(), KeyID: id})
	}
	p.mu.Unlock()
	select {
	case <-time.After(delay):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	if down {
		w.WriteHeader(http.StatusBadGateway)
	}
	json.NewEncoder(w).Encode(set) //nolint:errcheck // a test
	return w.Result(), nil
}

// rotate adds key id, removing all others of keep.
func (p *idp) rotate(id string, keep ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for other := range p.keys {
		if !slices.Contains(keep, other) {
			delete(p.keys, other)
		}
	}
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	p.keys[id] = k
}

func (p *idp) change(f func()) { p.mu.Lock(); defer p.mu.Unlock(); f() }

func (p *idp) token(id string, ttl time.Duration, claims ...string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := jwt.MapClaims{"sub": "42", "exp": time.Now().Add(ttl).Unix()}
	for i := 0; i+1 < len(claims); i += 2 {
		c[claims[i]] = claims[i+1]
	}
	t := jwt.NewWithClaims(jwt.SigningMethodES256, c)
	t.Header["kid"] = id
	return must(t.SignedString(p.keys[id]))
}

// Keys rotate under a hundred clients that refresh their tokens; none is
// disconnected, not even while the endpoint hangs and fails.
func TestKeyRotationDropsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &idp{keys: make(map[string]*ecdsa.PrivateKey)}
		p.rotate("k0")
		s := newTestServer(t, newFakeRouter(), func(c *Config) {
			c.Tokens = token.Options{JWKSEndpoint: "https://idp.test/jwks", Transport: p}
			c.AllowAnonymous = false
			c.PingInterval, c.PongTimeout = 10*time.Second, 2*time.Second // shorter than a fetch may take
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		synctest.Wait()
		var clients []*rotatingClient
		for range 100 {
			sess, tr := newTestSession(s, jsonWS)
			c := &rotatingClient{sess: sess, tr: tr}
			c.send("connect", p.token("k0", time.Minute))
			clients = append(clients, c)
		}
		for round := 1; round <= 5; round++ {
			id, before := fmt.Sprint("k", round), fmt.Sprint("k", round-1)
			p.rotate(id, before)
			p.change(func() { p.down, p.delay = round == 2, time.Duration(round)*time.Second })
			for second := range 50 {
				time.Sleep(time.Second) // virtual
				if round == 2 && second == 40 {
					p.change(func() { p.down = false })
				}
				for _, c := range clients {
					c.live(func() string { return p.token(id, time.Minute) })
				}
			}
		}
		for i, c := range clients {
			if code := c.tr.closed(); code != 0 || c.refreshed < 5 {
				t.Errorf("client %d: closed with %d, refreshed %d times", i, code, c.refreshed)
			}
		}
		cancel()
		<-done
	})
}

// rotatingClient answers pings and refreshes its token as SDKs do: when it is
// told to, and again after a temporary error.
type rotatingClient struct {
	sess      *session
	tr        *fakeTransport
	refreshAt time.Time
	refreshed int
}

func (c *rotatingClient) send(method, token string) {
	c.sess.onFrame(fmt.Appendf(nil, `{"id":1,%q:{"token":%q}}`, method, token))
	c.refreshAt = time.Time{} // until the answer
}

func (c *rotatingClient) live(mint func() string) {
	for _, f := range c.tr.take() {
		switch {
		case f == "{}":
			c.sess.onFrame([]byte("{}"))
		case strings.Contains(f, `"temporary":true`):
			c.refreshAt = time.Now().Add(2 * time.Second)
		case strings.Contains(f, `"ttl"`):
			c.refreshAt = time.Now().Add(30 * time.Second)
			if strings.Contains(f, `"refresh"`) {
				c.refreshed++
			}
		}
	}
	if !c.refreshAt.IsZero() && !time.Now().Before(c.refreshAt) {
		go c.send("refresh", mint())
		synctest.Wait()
	}
}

// A connect command that waits for a key blocks neither its caller nor others,
// and what follows it in the same frame comes after it.
func TestConnectWaitsForItsKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &idp{keys: make(map[string]*ecdsa.PrivateKey), delay: 4 * time.Second}
		p.rotate("k0")
		f := newFakeRouter()
		s := newTestServer(t, f, func(c *Config) {
			c.Tokens = token.Options{JWKSEndpoint: "https://idp.test/jwks", Transport: p}
		})
		sess, tr := newTestSession(s, jsonWS)
		start := time.Now()
		sess.onFrame([]byte(`{"id":1,"connect":{"token":"` + p.token("k0", time.Hour) + `"}}`))
		if time.Since(start) != 0 || len(tr.take()) != 0 {
			t.Fatalf("onFrame took %v", time.Since(start))
		}
		sess.onFrame([]byte(`{"id":2,"subscribe":{"channel":"a"}}`)) // waits
		if time.Since(start) != 4*time.Second {
			t.Errorf("the second frame was taken after %v", time.Since(start))
		}
		settle(s, sess)
		got := tr.take()
		if len(got) != 2 || !strings.Contains(got[0], `"user"`) && !strings.Contains(got[0], `"connect":{"client"`) || !strings.Contains(got[1], `"id":2,"subscribe"`) {
			t.Errorf("got %q", got)
		}
		// A session that ends meanwhile lets its reader go.
		p.rotate("k1")
		time.Sleep(time.Minute) // virtual
		other, _ := newTestSession(s, jsonWS)
		other.onFrame([]byte(`{"id":1,"connect":{"token":"` + p.token("k1", time.Hour) + `"}}`))
		freed := make(chan bool)
		go func() { freed <- other.onFrame([]byte(`{}`)) }()
		synctest.Wait()
		other.ended(disconnectClosed)
		if <-freed {
			t.Error("a session that ended takes commands")
		}
	})
}

// A pong that cannot be read because a command waits for a key is not missed.
func TestPongWaitsForAKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &idp{keys: make(map[string]*ecdsa.PrivateKey), delay: 4 * time.Second}
		p.rotate("k0")
		s := newTestServer(t, newFakeRouter(), func(c *Config) {
			c.Tokens = token.Options{JWKSEndpoint: "https://idp.test/jwks", Transport: p}
			c.PingInterval, c.PongTimeout = 10*time.Second, 2*time.Second
		})
		sess, tr := newTestSession(s, jsonWS)
		sess.onFrame([]byte(`{"id":1,"connect":{"token":"` + p.token("k0", time.Hour) + `"}}`))
		settle(s, sess)
		time.Sleep(10 * time.Second) // virtual
		sess.tick(time.Now())        // pings
		p.rotate("k1")
		sess.onFrame([]byte(`{"id":2,"refresh":{"token":"` + p.token("k1", time.Hour) + `"}}`))
		go sess.onFrame([]byte(`{}`))
		for range 8 {
			time.Sleep(time.Second) // virtual
			sess.tick(time.Now())
		}
		if got := tr.take(); tr.closed() != 0 || !strings.Contains(got[len(got)-1], `"refresh"`) {
			t.Errorf("closed with %d after %q", tr.closed(), got)
		}
	})
}

func TestRequestToken(t *testing.T) {
	for name, tt := range map[string]struct {
		url, header, cookie, origin, site string
		want                              string
	}{
		"header":                              {header: "Bearer abc", want: "abc"},
		"header in small letters":             {header: "bearer abc", want: "abc"},
		"another scheme":                      {header: "Basic abc"},
		"query":                               {url: "?t=abc", want: "abc"},
		"the header goes before the query":    {url: "?t=q", header: "Bearer h", want: "h"},
		"another parameter":                   {url: "?token=abc"},
		"cookie, own page":                    {cookie: "abc", origin: "http://example.com", want: "abc"},
		"cookie, page that is listed":         {cookie: "abc", origin: "https://app.test", want: "abc"},
		"cookie, page that only * allows":     {cookie: "abc", origin: "https://evil.test"},
		"cookie, a page of another port":      {cookie: "abc", origin: "http://example.com:81"},
		"cookie, opaque origin":               {cookie: "abc", origin: "null"},
		"cookie, no origin":                   {cookie: "abc"},
		"cookie, no origin but the same site": {cookie: "abc", site: "same-origin", want: "abc"},
		"cookie, no origin and another site":  {cookie: "abc", site: "cross-site"},
		"nothing":                             {},
	} {
		t.Run(name, func(t *testing.T) {
			s := newTestServer(t, newFakeRouter(), func(c *Config) {
				c.TokenCookie, c.TokenQuery, c.AllowedOrigins = "hr", "t", []string{"*", "https://app.test"}
			})
			r := httptest.NewRequest("GET", "http://example.com/connection/websocket"+tt.url, nil)
			for h, v := range map[string]string{"Authorization": tt.header, "Origin": tt.origin, "Sec-Fetch-Site": tt.site} {
				if v != "" {
					r.Header.Set(h, v)
				}
			}
			if tt.cookie != "" {
				r.AddCookie(&http.Cookie{Name: "hr", Value: tt.cookie})
			}
			if got := s.requestToken(r); got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
			off := newTestServer(t, newFakeRouter(), nil)
			if got := off.requestToken(r); tt.header == "" && got != "" {
				t.Errorf("%q without being asked to", got)
			}
		})
	}
}

// Over a real connection, in each place that is not the connect command.
func TestTokenOfTheRequest(t *testing.T) {
	url := serve(t, newTestServer(t, newFakeRouter(), func(c *Config) {
		c.AllowAnonymous, c.TokenCookie, c.TokenQuery = false, "hr", "t"
	}))
	good := mustMint(token.Connection{User: "42"})
	own := strings.Replace(strings.TrimSuffix(url, "/connection/websocket"), "ws", "http", 1)
	for name, tt := range map[string]struct {
		query  string
		header http.Header
		want   string
	}{
		"header":             {"", http.Header{"Authorization": {"Bearer " + good}}, `"client":`},
		"query":              {"?t=" + good, nil, `"client":`},
		"cookie":             {"", http.Header{"Cookie": {"hr=" + good}, "Origin": {own}}, `"client":`},
		"cookie, no origin":  {"", http.Header{"Cookie": {"hr=" + good}}, "3501"},
		"a bad one":          {"?t=x", nil, "3500"},
		"nothing":            {"", nil, "3501"},
		"header, wrong kind": {"", http.Header{"Authorization": {"Basic " + good}}, "3501"},
	} {
		t.Run(name, func(t *testing.T) {
			ws := dialWS(t, url+tt.query, tt.header)
			sendText(t, ws, connectFrame)
			_, frame, err := ws.ReadMessage()
			if got := fmt.Sprint(string(frame), err); !strings.Contains(got, tt.want) {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

// The connect command's own token goes before the request's, and after connect
// nothing is left of it.
func TestCarriedToken(t *testing.T) {
	good, other := mustMint(token.Connection{User: "42"}), mustMint(token.Connection{User: "43"})
	for name, tt := range map[string]struct{ carried, sent, user string }{
		"only the request's": {good, "", "42"},
		"both":               {good, other, "43"},
		"a bad one carried":  {"bad", other, "43"},
	} {
		s := newTestServer(t, newFakeRouter(), func(c *Config) { c.AllowAnonymous = false })
		sess, tr := newTestSession(s, jsonWS)
		sess.carry(tt.carried)
		sess.onFrame([]byte(`{"id":1,"connect":{"token":"` + tt.sent + `"}}`))
		if tr.closed() != 0 || sess.user() != tt.user || sess.grant != nil {
			t.Errorf("%s: closed %d, user %q, grant %v", name, tr.closed(), sess.user(), sess.grant)
		}
	}
}

// Whatever is wrong with a token, the log says so and does not have it.
func TestTokensAreNotLogged(t *testing.T) {
	var log bytes.Buffer
	const secret = "a-secret-that-is-not-short"
	s := newTestServer(t, newFakeRouter(), func(c *Config) {
		c.Tokens = token.Options{HMACSecret: secret, Audience: "app"}
		c.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	good := must(token.MintConnection(secret, token.Connection{User: "42"}))
	sub := must(token.MintSubscription(secret, token.Subscription{User: "42", Channel: "secret"}))
	for _, text := range []string{good, sub, good + "x", "x" + good, good[:80], mustMint(token.Connection{User: "42"}), "x.y.z", strings.Repeat("x", 20<<10)} {
		for _, frame := range []string{`{"id":1,"connect":{"token":"` + text + `"}}`, `{"id":1,"connect":{}}` + "\n" + `{"id":2,"subscribe":{"channel":"secret","token":"` + text + `"}}`} {
			sess, _ := newTestSession(s, jsonWS)
			log.Reset()
			sess.onFrame([]byte(frame))
			if got := log.String(); !strings.Contains(got, "token refused") || strings.Contains(got, secret) || strings.Contains(got, text[:min(len(text), 30)]) && len(text) > 10 {
				t.Errorf("%.60s: %s", frame, got)
			}
		}
	}
}

// A refresh brings the new token's capabilities and takes the old one's.
func TestRefreshReplacesCapabilities(t *testing.T) {
	signer, err := token.NewHMACSigner("secret")
	if err != nil {
		t.Fatal(err)
	}
	mint := func(caps string) string {
		return must(signer.Connection(token.Connection{User: "42"}, []byte(caps)))
	}
	s := newTestServer(t, newFakeRouter(), nil)
	sess, _ := newTestSession(s, jsonWS)
	granted := func() bool { return sess.grant != nil && sess.grant.caps.Allowed("a") != 0 }
	sess.onFrame([]byte(`{"id":1,"connect":{"token":"` + mint(`[{"channels":["a"],"allow":["sub"]}]`) + `"}}`))
	if !granted() {
		t.Error("not granted at connect")
	}
	sess.onFrame([]byte(`{"id":2,"refresh":{"token":"` + mint("") + `"}}`))
	if granted() {
		t.Error("still granted after the refresh")
	}
}

package edge

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"

	"github.com/headrace/headrace/edge/token"
	"github.com/headrace/headrace/internal/natstest"
	"github.com/headrace/headrace/persistence"
	"github.com/headrace/headrace/router"
)

// outcomes of a command: "ok", the code of an error reply, or of the close frame.

// mayDo is the matrix of who × where: the operations that succeed before the
// client has subscribed, whether it may subscribe, and what succeeds afterwards.
var mayDo = map[string]struct {
	token   string // of the connection; "" is anonymous
	sub     string // subscription token
	channel string
	before  string
	join    string // outcome of subscribe
	after   string
}{
	"no rule, a user":                    {"user 42", "", "closed:a", "", "103", ""},
	"no rule, anonymous":                 {"", "", "closed:a", "", "103", ""},
	"no such namespace":                  {"user 42", "", "nowhere:a", "", "102", ""},
	"every rule, a user":                 {"user 42", "", "open:a", "pub hst prs", "ok", "pub hst prs"},
	"every rule, anonymous":              {"", "", "open:a", "", "103", ""},
	"anonymous rules":                    {"", "", "public:a", "pub hst prs", "ok", "pub hst prs"},
	"anonymous rules alone open nothing": {"", "", "halfpublic:a", "", "103", ""},
	"subscriber rules":                   {"user 42", "", "members:a", "", "ok", "pub hst prs"},

	"a capability for this channel":     {"caps", "", "closed:exact", "pub", "ok", "pub"},
	"a capability for other channels":   {"caps", "", "closed:other", "", "103", ""},
	"a wildcard capability":             {"caps", "", "closed:team-7", "hst prs", "103", ""},
	"a pattern capability":              {"caps", "", "closed:room12", "", "ok", ""},
	"a pattern that almost matches":     {"caps", "", "closed:room12x", "", "103", ""},
	"a capability and subscriber rules": {"caps", "", "members:a", "hst", "ok", "pub hst prs"},
	"capabilities of an anonymous user": {"caps, no user", "", "closed:exact", "pub", "ok", "pub"},
	"capabilities in no namespace":      {"caps", "", "nowhere:exact", "", "102", ""},

	"a subscription token":                   {"user 42", "for 42", "closed:a", "", "ok", ""},
	"a subscription token, anonymous":        {"", "for nobody", "closed:a", "", "ok", ""},
	"a subscription token that lets publish": {"user 42", "for 42, may publish", "closed:a", "", "ok", "pub"},
	"a subscription token, subscriber rules": {"user 42", "for 42", "members:a", "", "ok", "pub hst prs"},
	"a subscription token in no namespace":   {"user 42", "for 42", "nowhere:a", "", "102", ""},
	"a subscription token of another user":   {"user 42", "for 43", "closed:a", "", "3500", ""},

	"a channel of mine":                          {"user 42", "", "dialog:x#41,42", "", "ok", "pub hst prs"},
	"a channel of others":                        {"user 42", "", "dialog:x#1,2", "", "103", ""},
	"a channel of others, anonymous":             {"", "", "dialog:x#1,2", "", "103", ""},
	"a channel of others, with a capability":     {"caps", "", "dialog:x#1,2", "", "103", ""},
	"a channel of mine, with a capability":       {"caps", "", "dialog:x#42", "hst", "ok", "pub hst prs"},
	"a channel of others, a subscription token":  {"user 42", "for 42", "dialog:x#1,2", "", "ok", "pub hst prs"},
	"a user-limited namespace without the limit": {"user 42", "", "dialog:x", "", "103", ""},

	"a name of the right form":                  {"user 42", "", "named:abc", "pub", "ok", "pub"},
	"a name of another form":                    {"user 42", "", "named:abc1", "!107", "107", ""},
	"a name of another form, with a token":      {"user 42", "for 42", "named:abc1", "!107", "107", ""},
	"a name of another form, with a capability": {"caps", "", "named:abc1", "!107", "107", ""},
}

// badTokens is the matrix of token × where it is shown: as token of connect, of
// subscribe, of refresh, and of sub_refresh.
var badTokens = map[string]struct {
	claims jwt.MapClaims // beyond those of a good one; nil removes
	by     string        // key that signs
	want   string        // connect, subscribe, refresh, sub_refresh
}{
	"good, HMAC":                   {nil, "secret", "ok ok ok ok"},
	"good, public key":             {nil, "static", "ok ok ok ok"},
	"good, key set":                {nil, "set", "ok ok ok ok"},
	"good for a list of audiences": {jwt.MapClaims{"aud": []string{"x", "app"}}, "secret", "ok ok ok ok"},
	"forged":                       {nil, "other secret", "3500 103 3500 3500"},
	"forged, known key id":         {nil, "not in set", "3500 103 3500 3500"},
	"alg none":                     {nil, "none", "3500 103 3500 3500"},
	"alg none, unknown key id":     {nil, "none with id", "3500 103 3500 3500"},
	"public key as HMAC secret":    {nil, "confused", "3500 103 3500 3500"},
	"unknown key, endpoint down":   {nil, "later", "100 100 100 100"},
	"expired":                      {jwt.MapClaims{"exp": 1}, "secret", "109 109 3005 3006"},
	"expired and forged":           {jwt.MapClaims{"exp": 1}, "other secret", "3500 103 3500 3500"},
	"not yet valid":                {jwt.MapClaims{"nbf": 4102444800}, "secret", "109 109 3005 3006"},
	"issued in the future":         {jwt.MapClaims{"iat": 4102444800}, "secret", "109 109 3005 3006"},
	"ends in the past":             {jwt.MapClaims{"expire_at": 1}, "secret", "110 110 110 110"},
	"never ends":                   {jwt.MapClaims{"expire_at": 0}, "secret", "ok ok ok ok"},
	"oversized":                    {jwt.MapClaims{"info": strings.Repeat("x", token.MaxBytes)}, "secret", "3500 103 3500 3500"},
	"other audience":               {jwt.MapClaims{"aud": "x"}, "secret", "3500 103 3500 3500"},
	"other issuer":                 {jwt.MapClaims{"iss": "x"}, "secret", "3500 103 3500 3500"},
	"no issuer":                    {jwt.MapClaims{"iss": nil}, "secret", "3500 103 3500 3500"},
	"another user":                 {jwt.MapClaims{"sub": "43"}, "secret", "ok 3500 3500 3500"},
	"another client":               {jwt.MapClaims{"client": "x"}, "secret", "ok 3500 ok 3500"},
	"this client":                  {jwt.MapClaims{"client": "c1"}, "secret", "ok ok ok ok"},
	"another channel":              {jwt.MapClaims{"channel": "closed:b"}, "secret", "3500 3500 3500 3500"},
	"another namespace":            {jwt.MapClaims{"channel": "open:a"}, "secret", "3500 3500 3500 3500"},
	"a connection token":           {jwt.MapClaims{"channel": ""}, "secret", "ok 103 ok 3500"},
	"broken claims":                {jwt.MapClaims{"sub": 42}, "secret", "3500 103 3500 3500"},
	"an unknown capability":        {jwt.MapClaims{"caps": "all", "allow": []string{"all"}}, "secret", "3500 103 3500 3500"},
	"garbage":                      {nil, "garbage", "3500 103 3500 3500"},
	"none at all":                  {nil, "", "3501 103 3500 3500"},
}

// A subscription token can hide its bearer, and does no more than it says.
func TestHiddenSubscriber(t *testing.T) {
	keys := newMatrixKeys(t)
	s := newTestServer(t, newMatrixNode(t), func(c *Config) {
		c.Tokens = token.Options{HMACSecret: "secret", PublicKeys: []string{keys.public}}
	})
	for name, tt := range map[string]struct {
		override string
		members  int
	}{
		"as everybody":      {`{}`, 1},
		"left out":          {`{"presence":{"value":false},"join_leave":{"value":false}}`, 0},
		"expressly present": {`{"presence":{"value":true}}`, 1},
	} {
		c := newMatrixClient(t, s)
		c.do("connect", `{}`)
		channel := "members:" + strings.ReplaceAll(name, " ", "-")
		text := keys.sign("secret", jwt.MapClaims{"channel": channel, "override": json.RawMessage(tt.override), "data": 7})
		if got := c.do("subscribe", fmt.Sprintf(`{"channel":%q,"token":%q}`, channel, text)); got != "ok" || !strings.Contains(c.last, `"data":7`) {
			t.Fatalf("subscribe: %s %s", got, c.last)
		}
		stats, err := s.node.PresenceStats(t.Context(), channel)
		if err != nil || stats.Clients != tt.members {
			t.Errorf("%s: %d members, want %d (%v)", name, stats.Clients, tt.members, err)
		}
		c.sess.ended(disconnectClosed)
	}
}

func TestAuthMatrix(t *testing.T) {
	keys := newMatrixKeys(t)
	node := newMatrixNode(t)
	s := func(t *testing.T, anonymous bool, url string) *Server {
		return newTestServer(t, node, func(c *Config) {
			c.AllowAnonymous = anonymous
			c.Tokens = token.Options{HMACSecret: "secret", PublicKeys: []string{keys.public}, JWKSEndpoint: url,
				Audience: "app", Issuer: "me", Leeway: token.DefaultLeeway}
		})
	}
	for name, tt := range mayDo {
		t.Run("who may do what: "+name, func(t *testing.T) {
			c := newMatrixClient(t, s(t, true, keys.url))
			if got := c.do("connect", fmt.Sprintf(`{"token":%q}`, keys.connection(tt.token))); got != "ok" {
				t.Fatalf("connect: %s", got)
			}
			check := func(when, may string) {
				t.Helper()
				denied := "103"
				if code, ok := strings.CutPrefix(may, "!"); ok {
					denied, may = code, ""
				}
				if tt.join == "102" {
					denied = "102"
				}
				for _, op := range []string{"pub", "hst", "prs"} {
					want := denied
					if strings.Contains(may, op) {
						want = "ok"
					}
					if got := c.op(op, tt.channel); got != want {
						t.Errorf("%s %s: %s, want %s", op, when, got, want)
					}
				}
			}
			check("before", tt.before)
			if got := c.do("subscribe", fmt.Sprintf(`{"channel":%q,"token":%q}`, tt.channel, keys.subscription(tt.sub, tt.channel))); got != tt.join {
				t.Fatalf("subscribe: %s, want %s", got, tt.join)
			}
			if tt.join == "ok" {
				check("after", tt.after)
			}
		})
	}
	for name, tt := range badTokens {
		t.Run("tokens: "+name, func(t *testing.T) {
			url := keys.url
			if tt.by == "later" {
				url = "http://127.0.0.1:1/" // nobody listens
			}
			keys.tryEverywhere(t, s(t, false, url), tt.claims, tt.by, strings.Fields(tt.want))
		})
	}
}

// tryEverywhere shows a token in the four places, each time in a new session.
func (k *matrixKeys) tryEverywhere(t *testing.T, s *Server, claims jwt.MapClaims, by string, want []string) {
	channel := any("closed:a")
	if c, ok := claims["channel"]; ok {
		channel = c
	}
	_, asConn := claims["channel"]
	for i, place := range []string{"connect", "subscribe", "refresh", "sub_refresh"} {
		c := jwt.MapClaims{"sub": "42", "aud": "app", "iss": "me", "exp": future}
		for name, v := range claims {
			c[name] = v
			if v == nil {
				delete(c, name)
			}
		}
		if place == "subscribe" || place == "sub_refresh" || asConn {
			c["channel"] = channel
		}
		text := k.sign(by, c)
		client := newMatrixClient(t, s)
		if place != "connect" {
			if got := client.do("connect", fmt.Sprintf(`{"token":%q}`, k.connection("user 42"))); got != "ok" {
				t.Fatalf("connect: %s", got)
			}
		}
		params := fmt.Sprintf(`{"token":%q}`, text)
		if strings.Contains(place, "sub") {
			params = fmt.Sprintf(`{"channel":"closed:a","token":%q}`, text)
		}
		if place == "sub_refresh" {
			client.do("subscribe", fmt.Sprintf(`{"channel":"closed:a","token":%q}`, k.subscription("for 42", "closed:a")))
		}
		if got := client.do(place, params); got != want[i] {
			t.Errorf("as token of %s: %s, want %s", place, got, want[i])
		}
	}
}

// matrixKeys are the keys of the matrix and where some of them are published.
type matrixKeys struct {
	static, set, later *ecdsa.PrivateKey
	public             string // PEM of static
	url                string // where set's public key is published
}

func newMatrixKeys(t *testing.T) *matrixKeys {
	k := &matrixKeys{}
	for _, p := range []**ecdsa.PrivateKey{&k.static, &k.set, &k.later} {
		var err error
		if *p, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	der, err := x509.MarshalPKIXPublicKey(k.static.Public())
	if err != nil {
		t.Fatal(err)
	}
	k.public = string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	idp := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: k.set.Public(), KeyID: "set"}}}
		json.NewEncoder(w).Encode(set) //nolint:errcheck // a test
	}))
	t.Cleanup(idp.Close)
	k.url = idp.URL
	return k
}

// sign returns a token signed by the key of that name.
func (k *matrixKeys) sign(by string, c jwt.MapClaims) string {
	var method jwt.SigningMethod = jwt.SigningMethodES256
	var key any
	kid := "set"
	switch by {
	case "":
		return ""
	case "garbage":
		return "garbage"
	case "secret", "other secret":
		method, key, kid = jwt.SigningMethodHS256, []byte(by), ""
	case "confused":
		method, key, kid = jwt.SigningMethodHS256, []byte(k.public), ""
	case "none":
		method, key, kid = jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, ""
	case "none with id":
		method, key, kid = jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, "x"
	case "static":
		key, kid = k.static, ""
	case "set":
		key = k.set
	case "not in set":
		key = k.later
	case "later":
		key, kid = k.later, "later"
	}
	t := jwt.NewWithClaims(method, c)
	if kid != "" {
		t.Header["kid"] = kid
	}
	return must(t.SignedString(key))
}

func (k *matrixKeys) connection(name string) string {
	c := jwt.MapClaims{"sub": "42", "aud": "app", "iss": "me", "exp": future}
	switch name {
	case "":
		return ""
	case "caps, no user":
		delete(c, "sub")
		fallthrough
	case "caps":
		c["caps"] = json.RawMessage(`[
			{"channels":["closed:exact","nowhere:exact"],"allow":["sub","pub"]},
			{"channels":["closed:team-*"],"match":"wildcard","allow":["hst","prs"]},
			{"channels":["^closed:room[0-9]+$"],"match":"regex","allow":["sub"]},
			{"channels":["members:*","dialog:*","named:*"],"match":"wildcard","allow":["sub","hst"]}]`)
	}
	return k.sign("secret", c)
}

func (k *matrixKeys) subscription(name, channel string) string {
	c := jwt.MapClaims{"aud": "app", "iss": "me", "exp": future, "channel": channel}
	switch name {
	case "":
		return ""
	case "for 42, may publish":
		c["sub"], c["allow"] = "42", []string{"pub"}
	case "for 42":
		c["sub"] = "42"
	case "for 43":
		c["sub"] = "43"
	}
	return k.sign("static", c)
}

// newMatrixNode is a real router on a real store.
func newMatrixNode(t *testing.T) *router.Node {
	base := router.Namespace{HistorySize: 10, Retention: time.Hour, Partitions: 1, MemoryStorage: true, Payload: router.PayloadJSON, Presence: true}
	with := func(name string, change func(*router.Namespace)) router.Namespace {
		ns := base
		ns.Name = name
		change(&ns)
		return ns
	}
	all := func(ns *router.Namespace) {
		ns.AllowSubscribe, ns.AllowPublish, ns.AllowHistory, ns.AllowPresence = true, true, true, true
	}
	anonymous := func(ns *router.Namespace) {
		ns.AllowSubscribeAnonymous, ns.AllowPublishAnonymous, ns.AllowHistoryAnonymous, ns.AllowPresenceAnonymous = true, true, true, true
	}
	subscribers := func(ns *router.Namespace) {
		ns.AllowPublishSubscriber, ns.AllowHistorySubscriber, ns.AllowPresenceSubscriber = true, true, true
	}
	namespaces := []router.Namespace{
		with("closed", func(*router.Namespace) {}),
		with("open", all),
		with("public", func(ns *router.Namespace) { all(ns); anonymous(ns) }),
		with("halfpublic", anonymous),
		with("members", func(ns *router.Namespace) { subscribers(ns); ns.AllowSubscribe = true }),
		with("dialog", func(ns *router.Namespace) { subscribers(ns); ns.UserLimited = true }),
		with("named", func(ns *router.Namespace) {
			ns.AllowSubscribe, ns.AllowPublish, ns.ChannelRegex = true, true, "[a-z]+"
		}),
	}
	server := natstest.Run(t)
	store, err := persistence.Open(t.Context(), server.Conn(persistence.ConnectOptions()...), persistence.Config{Namespaces: namespaces, Replicas: 1})
	if err != nil {
		t.Fatal(err)
	}
	node, err := router.New(router.Config{NodeID: "n1", Namespaces: namespaces, Core: server.Conn(persistence.ConnectOptions()...), Store: store, Sessions: NewSessions()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- store.Run(ctx) }()
	go func() { done <- node.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		}
	})
	eventually(t, "the router is ready", func() bool { return node.Ready() == nil })
	return node
}

// matrixClient sends commands to a session one by one.
type matrixClient struct {
	t    *testing.T
	sess *session
	tr   *fakeTransport
	id   int
	last string // the last reply
}

func newMatrixClient(t *testing.T, s *Server) *matrixClient {
	sess, tr := newTestSession(s, jsonWS)
	return &matrixClient{t: t, sess: sess, tr: tr}
}

func (c *matrixClient) op(op, channel string) string {
	switch op {
	case "pub":
		return c.do("publish", fmt.Sprintf(`{"channel":%q,"data":1}`, channel))
	case "hst":
		return c.do("history", fmt.Sprintf(`{"channel":%q}`, channel))
	default:
		a, b := c.do("presence", fmt.Sprintf(`{"channel":%q}`, channel)), c.do("presence_stats", fmt.Sprintf(`{"channel":%q}`, channel))
		if a != b {
			c.t.Errorf("presence %s, but presence_stats %s", a, b)
		}
		return a
	}
}

// do sends a command and returns its outcome.
func (c *matrixClient) do(method, params string) (outcome string) {
	c.t.Helper()
	c.id++
	c.sess.onFrame(fmt.Appendf(nil, `{"id":%d,%q:%s}`, c.id, method, params))
	eventually(c.t, method+" is answered", func() bool {
		for _, f := range c.tr.take() {
			for line := range strings.Lines(f) {
				var r struct {
					ID    int
					Error *struct{ Code int }
				}
				if err := json.Unmarshal([]byte(line), &r); err != nil || r.ID != c.id {
					continue
				}
				outcome, c.last = "ok", line
				if r.Error != nil {
					outcome = fmt.Sprint(r.Error.Code)
				}
			}
		}
		if code := c.tr.closed(); code != 0 {
			outcome = fmt.Sprint(code)
		}
		return outcome != ""
	})
	return outcome
}

// eventually polls until ok holds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) { // a poll with a deadline
		if time.Now().After(deadline) {
			t.Fatalf("after 20s: not %s", what)
		}
	}
}

package edge

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/gorilla/websocket"

	tokens "github.com/headrace/headrace/edge/token"
	"github.com/headrace/headrace/router"
)

// neverSent are the codes that only metrics and logs see.
var neverSent = map[int]string{
	3000: "the peer closed first",
	3009: "the socket took nothing more, not even a close frame",
}

// codesInSource returns every number that the code gives to a disconnect, an error
// of the protocol or an unsubscribe, with where it does.
func codesInSource(t *testing.T) map[int]string {
	t.Helper()
	codes := make(map[int]string)
	fset := token.NewFileSet()
	add := func(e ast.Expr) {
		if lit, ok := e.(*ast.BasicLit); ok && lit.Kind == token.INT {
			if n, err := strconv.Atoi(lit.Value); err == nil {
				codes[n] = fset.Position(lit.Pos()).String()
			}
		}
	}
	is := func(e ast.Expr, names ...string) bool {
		if sel, ok := e.(*ast.SelectorExpr); ok {
			e = sel.Sel
		}
		id, ok := e.(*ast.Ident)
		return ok && slices.Contains(names, id.Name)
	}
	visit := func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CompositeLit:
			if m, ok := n.Type.(*ast.MapType); ok && is(m.Value, "protoError") {
				for _, e := range n.Elts {
					if v, ok := e.(*ast.KeyValueExpr).Value.(*ast.CompositeLit); ok {
						add(v.Elts[0])
					}
				}
			}
			if len(n.Elts) > 0 && is(n.Type, "disconnect", "protoError") {
				add(n.Elts[0])
			}
		case *ast.CallExpr:
			if is(n.Fun, "UnsubscribeReason") {
				add(n.Args[0])
			}
		case *ast.ValueSpec:
			if is(n.Type, "UnsubscribeReason") {
				add(n.Values[0])
			}
		}
		return true
	}
	for _, pattern := range []string{"*.go", "../router/*.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range files {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			file, err := parser.ParseFile(fset, path, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(file, visit)
		}
	}
	return codes
}

var codeInFrame = regexp.MustCompile(`"code":(\d+)`)

// reached notes the codes in what a client got.
func reached(seen map[int]bool, tr *fakeTransport) {
	for _, frame := range tr.take() {
		for _, m := range codeInFrame.FindAllStringSubmatch(frame, -1) {
			n, _ := strconv.Atoi(m[1]) // digits
			seen[n] = true
		}
	}
	seen[int(tr.closed())] = true
}

// Every code that this server can send is reached by an exchange here or in
// TestExchanges.
func TestEveryCodeIsReached(t *testing.T) {
	seen := make(map[int]bool)
	for _, tt := range exchanges {
		s := newTestServer(t, newFakeRouter(), nil)
		sess, tr := newTestSession(s, jsonWS)
		for _, frame := range append([]string{connectFrame}, tt.send...) {
			sess.onFrame([]byte(frame))
			settle(s, sess)
		}
		reached(seen, tr)
	}
	for name, f := range codeScenarios {
		t.Run(name, func(t *testing.T) { f(t, seen) })
	}
	for _, code := range slices.Sorted(maps.Keys(codesInSource(t))) {
		if seen[code] == (neverSent[code] != "") {
			t.Errorf("code %d (%s): reached %t, never sent %q", code, codesInSource(t)[code], seen[code], neverSent[code])
		}
	}
	if page, err := os.ReadFile("../docs/protocol.md"); err != nil {
		t.Error(err)
	} else {
		for code := range codesInSource(t) {
			if neverSent[code] == "" && !strings.Contains(string(page), "| "+strconv.Itoa(code)+" |") {
				t.Errorf("docs/protocol.md has no row for code %d", code)
			}
		}
	}
}

// play connects a session and sends frames.
func play(t *testing.T, f *fakeRouter, change func(*Config), connect string, frames ...string) (*Server, *session, *fakeTransport) {
	t.Helper()
	s := newTestServer(t, f, change)
	sess, tr := newTestSession(s, jsonWS)
	for _, frame := range append([]string{connect}, frames...) {
		sess.onFrame([]byte(frame))
		settle(s, sess)
	}
	return s, sess, tr
}

func connectAs(c tokens.Connection) string {
	return `{"id":1,"connect":{"token":"` + mustMint(c) + `"}}`
}

const subscribeA = `{"id":2,"subscribe":{"channel":"a"}}`

var serverSideA = connectAs(tokens.Connection{User: "42", Channels: []string{"a"}})

// codeScenarios are what it takes to see a code that no single exchange brings.
var codeScenarios = map[string]func(t *testing.T, seen map[int]bool){
	"errors of rpc": func(t *testing.T, seen map[int]bool) {
		f := newFakeRouter()
		for _, code := range []router.Code{router.CodeNoMethod, router.CodeTooMany, router.CodeInternal} {
			f.rpc = func(router.RPCRequest) ([]byte, error) { return nil, router.Errorf(code, "it failed") }
			_, _, tr := play(t, f, nil, connectFrame, `{"id":2,"rpc":{"method":"x"}}`)
			reached(seen, tr)
		}
	},
	"more channels than allowed": func(t *testing.T, seen map[int]bool) {
		one := func(c *Config) { c.ChannelLimit = 1 }
		_, _, tr := play(t, newFakeRouter(), one, connectFrame, subscribeA, `{"id":3,"subscribe":{"channel":"b"}}`)
		reached(seen, tr)
		_, _, tr = play(t, newFakeRouter(), one, connectAs(tokens.Connection{User: "42", Channels: []string{"a", "b"}}))
		reached(seen, tr)
	},
	"the router ends a subscription": func(t *testing.T, seen map[int]bool) {
		for _, reason := range []router.UnsubscribeReason{router.UnsubscribedInsufficientState, router.UnsubscribedStateInvalidated} {
			for _, connect := range []string{connectFrame + "\n" + subscribeA, serverSideA} {
				f := newFakeRouter()
				_, _, tr := play(t, f, nil, connect)
				f.drop("a", reason)
				reached(seen, tr)
			}
		}
	},
	"the API ends things": func(t *testing.T, seen map[int]bool) {
		s, _, tr := play(t, newFakeRouter(), nil, serverSideA)
		s.sessions.Control(t.Context(), router.Control{Op: router.ControlUnsubscribe, User: "42", Channel: "a", Code: uint32(unsubscribedByServer)})
		s.sessions.Control(t.Context(), router.Control{Op: router.ControlDisconnect, User: "42", Code: uint32(disconnectForced.code)})
		reached(seen, tr)
	},
	"time passes": func(t *testing.T, seen map[int]bool) {
		later := time.Now().Add(5 * time.Second).Unix()
		sub := mustMintSub(tokens.Subscription{Channel: "a", ExpireAt: later})
		for after, connect := range map[time.Duration]string{
			11 * time.Second: "", // 3502
			70 * time.Second: connectAs(tokens.Connection{ExpireAt: later}),
			71 * time.Second: `{"id":1,"connect":{}}` + "\n" + `{"id":2,"subscribe":{"channel":"a","token":"` + sub + `"}}`,
		} {
			s := newTestServer(t, newFakeRouter(), nil)
			sess, tr := newTestSession(s, jsonWS)
			if connect != "" {
				sess.onFrame([]byte(connect))
			}
			sess.tick(time.Now().Add(after))
			reached(seen, tr)
		}
		s, sess, tr := play(t, newFakeRouter(), nil, serverSideA)
		s.sessions.Control(t.Context(), router.Control{Op: router.ControlUnsubscribe, User: "42", Channel: "a", Code: 2400})
		s.sessions.Control(t.Context(), router.Control{Op: router.ControlSubscribe, User: "42", Channel: "a", ExpireAt: later})
		sess.tick(time.Now().Add(70 * time.Second)) // 3006
		reached(seen, tr)
		_, sess, tr = play(t, newFakeRouter(), nil, connectFrame)
		sess.tick(time.Now().Add(26 * time.Second))
		sess.tick(time.Now().Add(40 * time.Second)) // 3012
		reached(seen, tr)
	},
	"a bad token": func(t *testing.T, seen map[int]bool) {
		_, _, tr := play(t, newFakeRouter(), nil, `{"id":1,"connect":{"token":"x"}}`)
		reached(seen, tr)
	},
	"a token whose session has ended": func(t *testing.T, seen map[int]bool) {
		text := must(jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"sub": "42", "expire_at": 1}).SignedString([]byte("secret")))
		_, _, tr := play(t, newFakeRouter(), nil, `{"id":1,"connect":{"token":"`+text+`"}}`)
		reached(seen, tr)
	},
	"the edge stops": func(t *testing.T, seen map[int]bool) {
		s, _, tr := play(t, newFakeRouter(), func(c *Config) { c.DrainWindow = 0 }, connectFrame)
		if err := s.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		reached(seen, tr)
	},
	"the router cannot work": func(t *testing.T, seen map[int]bool) {
		f := newFakeRouter()
		s, sess, tr := play(t, f, nil, connectFrame)
		f.ready = errors.New("no leader")
		now := time.Now()
		s.moveAway(now.Add(time.Hour), s.moveAway(now, time.Time{}, nil), []*session{sess})
		reached(seen, tr)
	},
	"publications while connecting fill the queue": func(t *testing.T, seen map[int]bool) {
		f := newFakeRouter()
		f.gate, f.gated = make(chan struct{}), "b"
		s := newTestServer(t, f, func(c *Config) { c.QueueBytes = 1000 })
		sess, tr := newTestSession(s, jsonWS)
		sess.onFrame([]byte(connectAs(tokens.Connection{User: "42", Channels: []string{"a", "b"}})))
		for range 2 {
			f.deliver("a", &router.Publication{Data: []byte(`"` + strings.Repeat("x", 600) + `"`)})
		}
		close(f.gate)
		settle(s, sess)
		reached(seen, tr)
	},
	"messages that are none": func(t *testing.T, seen map[int]bool) {
		url := serve(t, newTestServer(t, newFakeRouter(), func(c *Config) { c.MaxMessageBytes = 100 }))
		for want, send := range map[int]func(*websocket.Conn) error{
			1009: func(ws *websocket.Conn) error { return ws.WriteMessage(websocket.TextMessage, make([]byte, 101)) },
			1007: func(ws *websocket.Conn) error { return ws.WriteMessage(websocket.TextMessage, []byte("\xff")) },
			1000: func(ws *websocket.Conn) error {
				return ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(1000, ""), time.Now().Add(time.Second))
			},
		} {
			ws := dialWS(t, url, http.Header{})
			if err := send(ws); err != nil {
				t.Fatal(err)
			}
			_, _, err := ws.ReadMessage()
			seen[want] = seen[want] || websocket.IsCloseError(err, want)
		}
	},
}

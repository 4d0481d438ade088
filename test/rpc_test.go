package test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/headrace/headrace/edge"
	"github.com/headrace/headrace/edge/token"
	"github.com/headrace/headrace/internal/natstest"
)

// backends answer rpc: plain subscriptions and a NATS service.
func backends(t *testing.T, nc *nats.Conn) {
	t.Helper()
	answer := func(subject string, f func(m, reply *nats.Msg)) {
		_, err := nc.QueueSubscribe(subject, "workers", func(m *nats.Msg) {
			reply := nats.NewMsg(m.Reply)
			f(m, reply)
			if err := nc.PublishMsg(reply); err != nil {
				t.Error(err)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	answer("hr.rpc.echo", func(m, reply *nats.Msg) { reply.Data = m.Data })
	answer("hr.rpc.pretty", func(_, reply *nats.Msg) { reply.Data = []byte("{\n  \"a\": 1\r\n}\n") })
	answer("hr.rpc.empty", func(_, _ *nats.Msg) {})
	answer("hr.rpc.binary", func(_, reply *nats.Msg) { reply.Data = []byte{0xff, 0} })
	answer("hr.rpc.open.headers", func(m, reply *nats.Msg) { reply.Data, _ = json.Marshal(m.Header) })
	answer("hr.rpc.fail.*", func(m, reply *nats.Msg) {
		code := m.Subject[len("hr.rpc.fail."):]
		reply.Header.Set("Headrace-Error-Code", code)
		reply.Header.Set("Headrace-Error", "it failed")
	})
	answer("hr.rpc.fail.wordless", func(_, reply *nats.Msg) { reply.Header.Set("Headrace-Error", "no code") })
	if _, err := nc.Subscribe("hr.rpc.sleep", func(*nats.Msg) {}); err != nil {
		t.Fatal(err)
	}
	svc, err := micro.AddService(nc, micro.Config{Name: "shop", Version: "1.0.0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { svc.Stop() }) //nolint:errcheck // the connection may be closed
	shop := svc.AddGroup("hr.rpc.shop")
	for name, f := range map[string]micro.HandlerFunc{
		"price": func(r micro.Request) { r.RespondJSON(map[string]int{"price": 3}) },   //nolint:errcheck // the caller times out then
		"buy":   func(r micro.Request) { r.Error("402", "Payment Required", nil) },     //nolint:errcheck // the caller times out then
		"crash": func(r micro.Request) { r.Error("oops", "a code of letters", nil) },   //nolint:errcheck // the caller times out then
		"steal": func(r micro.Request) { r.Error("109", "token expired, ha ha", nil) }, //nolint:errcheck // the caller times out then
	} {
		if err := shop.AddEndpoint(name, f); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
}

// What a client gets for what a back end does. A method of sleep is never answered.
func TestR5RPC(t *testing.T) {
	h := newHarness(t, 1, 2, func(c *edge.Config) {
		c.Insecure, c.AllowAnonymous, c.RPCTimeout = false, true, 300*time.Millisecond
	})
	backends(t, h.connect())
	internal := `"error":{"code":100,"message":"internal server error","temporary":true}`
	for name, tt := range map[string]struct{ method, data, want string }{
		"an answer":                          {"echo", `{"x":[1,2]}`, `"rpc":{"data":{"x":[1,2]}}`},
		"of more than one line":              {"pretty", `1`, `"rpc":{"data":{"a":1}}`},
		"of nothing":                         {"empty", `1`, `"rpc":{}`},
		"that is not JSON":                   {"binary", `1`, internal},
		"nobody there":                       {"nobody", `1`, `"error":{"code":104,"message":"method not found"}`},
		"silence":                            {"sleep", `1`, `"error":{"code":100,"message":"the back end did not answer in time","temporary":true}`},
		"an error with a code":               {"fail.400", `1`, `"error":{"code":400,"message":"it failed"}`},
		"the largest code":                   {"fail.1999", `1`, `"error":{"code":1999,"message":"it failed"}`},
		"a code beyond":                      {"fail.2000", `1`, internal},
		"a code of the protocol":             {"fail.109", `1`, internal},
		"an error without a code":            {"fail.wordless", `1`, internal},
		"a service's answer":                 {"shop.price", `1`, `"rpc":{"data":{"price":3}}`},
		"a service's error":                  {"shop.buy", `1`, `"error":{"code":402,"message":"Payment Required"}`},
		"a service's error without number":   {"shop.crash", `1`, internal},
		"a service's error of the protocol":  {"shop.steal", `1`, internal},
		"a wildcard is no wildcard":          {"*", `1`, `"error":{"code":104,"message":"method not found"}`},
		"nor is a longer one":                {"shop.>", `1`, `"error":{"code":104,"message":"method not found"}`},
		"a method with spaces and a newline": {"no\r\nsuch method", `1`, `"error":{"code":104,"message":"method not found"}`},
		"no method":                          {"", `1`, `"error":{"code":107,"message":"method must have 1 to 128 bytes"}`},
		"a long method":                      {strings.Repeat("m", 129), `1`, `"error":{"code":107,"message":"method must have 1 to 128 bytes"}`},
	} {
		t.Run(name, func(t *testing.T) {
			s := dialUser(t, h.any().url, "42")
			if _, err := s.Send("rpc", map[string]any{"method": tt.method, "data": json.RawMessage(tt.data)}); err != nil {
				t.Fatal(err)
			}
			got := rawReply(t, s)
			if got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
	t.Run("a client without a user id", func(t *testing.T) {
		s := dial(t, h.any().url, struct{}{})
		for method, want := range map[string]string{"echo": `"error":{"code":103,"message":"permission denied"}`, "open.nothing": `"error":{"code":104,"message":"method not found"}`} {
			if _, err := s.Send("rpc", map[string]string{"method": method}); err != nil {
				t.Fatal(err)
			}
			if got := rawReply(t, s); got != want {
				t.Errorf("%s: got %s, want %s", method, got, want)
			}
		}
	})
}

// rawReply is the next reply without its id, as it was written.
func rawReply(t *testing.T, s *session) string {
	t.Helper()
	select {
	case e := <-s.events:
		if e.Reply == nil {
			t.Fatalf("got the push %s", describePush(e.Push))
		}
		_, rest, _ := strings.Cut(strings.TrimSuffix(e.Raw, "}"), ",")
		return rest
	case <-time.After(natstest.Patience(10 * time.Second)):
		t.Fatal("no reply")
		return ""
	}
}

// A back end may believe the headers: they come from the token, and nothing that
// the client sends becomes one.
func TestR5HeadersCannotBeForged(t *testing.T) {
	h := newHarness(t, 1, 1)
	backends(t, h.connect())
	url := h.list()[0].url
	forged := map[string]string{"Headrace-User": "root", "Nats-Service-Error": "x", "Headrace-Client": "y", "traceparent": "evil"}
	s := dial(t, url, map[string]any{
		"token":   mint(t, token.Connection{User: "Zoë\r\nHeadrace-User: root", Info: []byte(`{"name": "Zoë",` + "\n" + `"n":1}`), Meta: []byte(`{"plan":"ü"}`)}),
		"headers": forged, "data": forged, "name": "x\r\nHeadrace-User: root",
	})
	for _, method := range []string{"open.headers", "open.headers\r\nHeadrace-User: root"} {
		if _, err := s.Send("rpc", map[string]any{"method": method, "data": forged}); err != nil {
			t.Fatal(err)
		}
	}
	var reply struct {
		RPC struct{ Data map[string][]string } `json:"rpc"`
	}
	got := []string{rawReply(t, s), rawReply(t, s)}
	slices.Sort(got) // error, rpc: in either order
	if want := `"error":{"code":104,"message":"method not found"}`; got[0] != want {
		t.Errorf("a method with a header in it: %s, want %s", got[0], want)
	}
	if err := json.Unmarshal([]byte("{"+got[1]+"}"), &reply); err != nil {
		t.Fatal(err)
	}
	want := map[string][]string{
		"Headrace-User":   {"Zo%C3%AB%0D%0AHeadrace-User: root"},
		"Headrace-Client": {s.id},
		"Headrace-Info":   {`{"name":"Zo\u00eb","n":1}`},

		"Headrace-Token-Meta": {`{"plan":"\u00fc"}`},
	}
	if !maps.EqualFunc(reply.RPC.Data, want, slices.Equal) {
		t.Errorf("headers %q, want %q", reply.RPC.Data, want)
	}
}

// The API passes the caller's trace on; a trace that is none is not passed.
func TestR5TraceIsPassedOn(t *testing.T) {
	h := newHarness(t, 1, 1)
	nc := h.connect()
	backends(t, nc)
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for _, header := range []string{trace, trace + "\r\nx: y", ""} {
		want := `{"result":{"data":null}}`
		if header == trace {
			want = `{"result":{"data":{"traceparent":["` + trace + `"]}}}`
		}
		m := nats.NewMsg("hr.api.rpc")
		m.Data = []byte(`{"method":"open.headers"}`)
		m.Header.Set("traceparent", header)
		answer, err := nc.RequestMsg(m, 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if string(answer.Data) != want {
			t.Errorf("over NATS %q: %s, want %s", header, answer.Data, want)
		}
	}
	req, err := http.NewRequest(http.MethodPost, h.list()[0].url+"/api/rpc", strings.NewReader(`{"method":"open.headers"}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("traceparent", trace)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct {
		Result struct{ Data map[string][]string } `json:"result"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || !slices.Equal(answer.Result.Data["traceparent"], []string{trace}) {
		t.Errorf("over HTTP: %v, %v", answer, err)
	}
}

// A flood of calls beyond the pool is answered at once and clearly, and when the
// back end answers again all is well.
func TestE10RPCFloodBeyondThePool(t *testing.T) {
	const pool = 10
	h := newHarness(t, 1, 1, func(c *edge.Config) { c.RPCMaxInflight, c.MaxInflight = pool, 64 })
	nc := h.connect()
	held := make(chan *nats.Msg, 100)
	if _, err := nc.ChanSubscribe("hr.rpc.slow", held); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	s := dialUser(t, h.list()[0].url, "1")
	const calls = 40
	for range calls {
		if _, err := s.Send("rpc", map[string]string{"method": "slow"}); err != nil {
			t.Fatal(err)
		}
	}
	exhausted := fmt.Sprintf(`"error":{"code":111,"message":"rpc is exhausted: %d calls are under way on this node","temporary":true}`, pool)
	for range calls - pool {
		if got := rawReply(t, s); got != exhausted {
			t.Fatalf("got %s, want %s", got, exhausted)
		}
	}
	for range pool {
		if err := (<-held).Respond([]byte("1")); err != nil {
			t.Fatal(err)
		}
	}
	for range pool {
		if got := rawReply(t, s); got != `"rpc":{"data":1}` {
			t.Fatalf("got %s", got)
		}
	}
	if len(held) != 0 {
		t.Errorf("%d calls above the pool reached the back end", len(held))
	}
}

// What a client sends without wanting an answer reaches the back ends too, where a
// rule allows the method _send.
func TestR5SendReachesABackEnd(t *testing.T) {
	h := newHarness(t, 1, 1)
	nc := h.connect()
	got := make(chan *nats.Msg, 1)
	if _, err := nc.ChanSubscribe("hr.rpc._send", got); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	s := dialUser(t, h.list()[0].url, "1")
	if _, err := s.Send("send", map[string]any{"data": map[string]int{"n": 1}}); err != nil {
		t.Fatal(err)
	}
	select {
	case m := <-got:
		if string(m.Data) != `{"n":1}` || m.Header.Get("Headrace-User") != "1" || m.Reply != "" {
			t.Errorf("got %s %v %q", m.Data, m.Header, m.Reply)
		}
	case <-time.After(natstest.Patience(10 * time.Second)):
		t.Fatal("nothing came")
	}
}

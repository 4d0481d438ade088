package test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/headrace/headrace/edge/token"
	"github.com/headrace/headrace/internal/natstest"
	"github.com/headrace/headrace/test/rawclient"
)

// apiCall calls the server API and returns the whole answer.
type apiCall func(t *testing.T, method, body string) string

// overHTTP calls the API of one edge.
func overHTTP(url string) apiCall {
	return func(t *testing.T, method, body string) string {
		t.Helper()
		resp, err := http.Post(url+"/api/"+method, "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var b bytes.Buffer
		if _, err := b.ReadFrom(resp.Body); err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(b.String())
	}
}

// overNATS calls the API of whichever edge answers.
func overNATS(nc *nats.Conn) apiCall {
	return func(t *testing.T, method, body string) string {
		t.Helper()
		m, err := nc.Request("hr.api."+method, []byte(body), 20*time.Second)
		if err != nil {
			t.Fatalf("%s: %v", method, err)
		}
		if isError := m.Header.Get(micro.ErrorCodeHeader) != ""; isError != strings.HasPrefix(string(m.Data), `{"error"`) {
			t.Errorf("%s: headers %v, body %s", method, m.Header, m.Data)
		}
		return string(m.Data)
	}
}

// session is a client and what was pushed to it.
type session struct {
	*rawclient.Client
	id     string
	events chan rawclient.Event
	reply  *rawclient.ConnectReply
}

func mint(t *testing.T, c token.Connection) string {
	t.Helper()
	text, err := token.MintConnection(tokenSecret, c)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func dial(t *testing.T, url string, connect any) *session {
	t.Helper()
	s := &session{events: make(chan rawclient.Event, 100)}
	var err error
	s.Client, s.reply, err = rawclient.DialWith(t.Context(), url, connect, func(e rawclient.Event) { s.events <- e })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	s.id = s.reply.Client
	return s
}

func dialUser(t *testing.T, url, user string) *session {
	t.Helper()
	return dial(t, url, map[string]string{"token": mint(t, token.Connection{User: user, Info: []byte(`{"name":"Zoë"}`)})})
}

// next returns the next event as text.
func (s *session) next(t *testing.T) string {
	t.Helper()
	select {
	case e := <-s.events:
		if e.Push != nil {
			return describePush(e.Push)
		}
		b, err := json.Marshal(e.Reply)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	case <-s.Done():
		return fmt.Sprintf("closed %d", s.CloseCode())
	case <-time.After(natstest.Patience(15 * time.Second)):
		t.Fatal("nothing came")
		return ""
	}
}

func describePush(p *rawclient.Push) string {
	switch {
	case p.Pub != nil:
		return fmt.Sprintf("pub %s %d %s", p.Channel, p.Pub.Offset, p.Pub.Data)
	case p.Unsubscribe != nil:
		return fmt.Sprintf("unsubscribe %s %d %s", p.Channel, p.Unsubscribe.Code, p.Unsubscribe.Reason)
	case p.Subscribe != nil:
		return fmt.Sprintf("subscribe %s offset %d recoverable %t", p.Channel, p.Subscribe.Offset, p.Subscribe.Recoverable)
	case p.Message != nil:
		return fmt.Sprintf("message %s", p.Message.Data)
	case p.Refresh != nil:
		return fmt.Sprintf("refresh expires %t", p.Refresh.Expires)
	}
	return fmt.Sprintf("%+v", *p)
}

var volatile = []struct{ re, with string }{
	{`"(epoch)":"[^"]*"`, `"$1":"E"`}, {`"(time|uptime)":\d+`, `"$1":0`},
	{`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22,}`, "ID"}, {`edge-\d+`, "EDGE"},
}

func settled(answer string) string {
	for _, v := range volatile {
		answer = regexp.MustCompile(v.re).ReplaceAllString(answer, v.with)
	}
	return answer
}

// apiStep is one call: what it answers, and what each of the user's two sessions,
// on two edges, is told by it.
type apiStep struct {
	method, body, want string
	pushes             []string
}

const anyAnswer = "" // of a step whose answer is looked at elsewhere

// apiSteps use every method; %[1]s is a fresh name.
var apiSteps = []apiStep{
	{"subscribe", `{"user":"%[1]s","channel":"h:%[1]s","info":{"role":"guest"},"data":{"why":1}}`, `{"result":{"sessions":2}}`, []string{"subscribe h:%[1]s offset 0 recoverable true"}},
	{"subscribe", `{"user":"%[1]s","channel":"h:%[1]s"}`, `{"result":{"sessions":0}}`, nil},
	{"subscribe", `{"channel":"h:%[1]s"}`, `{"error":{"code":107,"message":"user or client is needed"}}`, nil},
	{"subscribe", `{"user":"%[1]s","channel":"nowhere:x"}`, `{"error":{"code":102,"message":"unknown namespace \"nowhere\""}}`, nil},
	{"subscribe", `{"user":"%[1]s","channel":"h:x","session":"s"}`, `{"error":{"code":108,"message":"session is not available; use client"}}`, nil},
	{"subscribe", `{"user":"%[1]s","channel":"h:x","override":{"presence":{"value":true}}}`, `{"error":{"code":108,"message":"override is not available; the namespace's rules hold"}}`, nil},
	{"publish", `{"channel":"h:%[1]s","data":{"n":1},"idempotency_key":"k1"}`, `{"result":{"offset":1,"epoch":"E"}}`, []string{`pub h:%[1]s 1 {"n":1}`}},
	{"publish", `{"channel":"h:%[1]s","data":{"n":1},"idempotency_key":"k1"}`, `{"result":{"offset":1,"epoch":"E"}}`, nil},
	{"broadcast", `{"channels":["h:%[1]s","nowhere:x"],"data":{"n":2}}`, `{"result":{"responses":[{"result":{"offset":2,"epoch":"E"}},{"error":{"code":102,"message":"unknown namespace \"nowhere\""}}]}}`, []string{`pub h:%[1]s 2 {"n":2}`}},
	{"history", `{"channel":"h:%[1]s","limit":1}`, `{"result":{"publications":[{"data":{"n":1},"offset":1,"time":0}],"offset":2,"epoch":"E"}}`, nil},
	{"presence_stats", `{"channel":"h:%[1]s"}`, `{"result":{"num_clients":2,"num_users":1}}`, nil},
	{"presence", `{"channel":"h:%[1]s"}`, `{"result":{"presence":{"ID":{"user":"%[1]s","client":"ID","conn_info":{"name":"Zo\u00eb"},"chan_info":{"role":"guest"}},"ID":{"user":"%[1]s","client":"ID","conn_info":{"name":"Zo\u00eb"},"chan_info":{"role":"guest"}}}}}`, nil},
	{"channels", `{"pattern":"h:%[1]s*"}`, `{"result":{"channels":{"h:%[1]s":{"num_clients":2}}}}`, nil},
	{"info", ``, anyAnswer, nil},
	{"message", `{"user":"%[1]s","data":"hi"}`, `{"result":{"delivered":2}}`, []string{`message "hi"`}},
	{"message", `{"user":"nobody","data":"hi"}`, `{"error":{"code":108,"message":"target is not online"}}`, nil},
	{"rpc", `{"method":"echo.%[1]s","data":{"n":3}}`, `{"result":{"data":{"n":3}}}`, nil},
	{"rpc", `{"method":"nobody.there"}`, `{"error":{"code":104,"message":"method not found"}}`, nil},
	{"history_remove", `{"channel":"h:%[1]s"}`, `{"result":{}}`, nil},
	{"history", `{"channel":"h:%[1]s","limit":-1}`, `{"result":{"publications":[],"offset":3,"epoch":"E"}}`, nil},
	{"refresh", `{"user":"%[1]s","expire_at":9999999999}`, `{"result":{"sessions":2}}`, []string{"refresh expires true"}},
	{"unsubscribe", `{"user":"%[1]s","channel":"h:%[1]s","unsubscribe":{"code":3000}}`, `{"error":{"code":107,"message":"code 3000 is not within 2000 to 2999"}}`, nil},
	{"unsubscribe", `{"user":"%[1]s","channel":"h:%[1]s"}`, `{"result":{"sessions":2}}`, []string{"unsubscribe h:%[1]s 2000 server unsubscribe"}},
	{"unsubscribe", `{"user":"%[1]s","channel":"h:%[1]s"}`, `{"result":{"sessions":0}}`, nil},
	{"subscribe", `{"user":"%[1]s","channel":"h:%[1]s","recover_since":{"offset":0,"epoch":""}}`, `{"result":{"sessions":2}}`, []string{"subscribe h:%[1]s offset 3 recoverable true"}},
	{"unsubscribe", `{"user":"%[1]s","channel":"h:%[1]s","unsubscribe":{"code":2400,"reason":"bye"}}`, `{"result":{"sessions":2}}`, []string{"unsubscribe h:%[1]s 2400 bye"}},
	{"batch", `{"commands":[{"publish":{"channel":"eph:%[1]s","data":1}},{"publish":{"data":1}},{"nonsense":{}},{"batch":{}},{"history":{"channel":7}}]}`,
		`{"result":{"replies":[{"publish":{}},{"error":{"code":107,"message":"channel is empty"}},{"error":{"code":104,"message":"unknown method \"nonsense\""}},{"error":{"code":107,"message":"a batch within a batch"}},{"error":{"code":107,"message":"field \"channel\" at byte 12 must be a string, not a number"}}]}}`, nil},
	{"disconnect", `{"user":"%[1]s","disconnect":{"code":1000}}`, `{"error":{"code":107,"message":"code 1000 is not within 3000 to 4999"}}`, nil},
	{"disconnect", `{"user":"%[1]s","disconnect":{"code":4001,"reason":"` + strings.Repeat("x", 124) + `"}}`, `{"error":{"code":107,"message":"reason must be UTF-8 of at most 123 bytes"}}`, nil},
	{"disconnect", `{"user":"%[1]s"}`, `{"result":{"sessions":2}}`, []string{"closed 3503"}},
	{"disconnect", `{"user":"%[1]s"}`, `{"result":{"sessions":0}}`, nil},
}

// Every method, over both transports, with sessions on both edges.
func TestServerAPI(t *testing.T) {
	h := newHarness(t, 1, 2)
	edges, nc := h.list(), h.connect()
	_, err := nc.Subscribe("hr.rpc.echo.>", func(m *nats.Msg) { m.Respond(m.Data) }) //nolint:errcheck // the caller times out then
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	used := make(map[string]bool)
	for name, call := range map[string]apiCall{"HTTP": overHTTP(edges[0].url), "NATS": overNATS(nc)} {
		t.Run(name, func(t *testing.T) {
			user := strings.ToLower("u" + name)
			sessions := []*session{dialUser(t, edges[0].url, user), dialUser(t, edges[1].url, user)}
			for _, step := range slices.Concat(inboxSteps, apiSteps) {
				used[step.method] = true
				answer := settled(call(t, step.method, filled(step.body, user)))
				if want := filled(step.want, user); step.want != anyAnswer && answer != want {
					t.Errorf("%s %s\nanswered %s\nwant     %s", step.method, step.body, answer, want)
				}
				for _, push := range step.pushes {
					for i, s := range sessions {
						if got := s.next(t); got != filled(push, user) {
							t.Errorf("after %s session %d got %s, want %s", step.method, i, got, filled(push, user))
						}
					}
				}
			}
		})
	}
	for _, method := range serviceMethods(t, nc) {
		// Those of queues are tested with the binary, cmd/headrace/queueapi_test.go, those
		// of maps in state_test.go.
		elsewhere := slices.ContainsFunc([]string{"queue_", "dlq_", "map_", "state_"}, func(p string) bool { return strings.HasPrefix(method, p) })
		if !used[method] && !elsewhere {
			t.Errorf("method %s is not tested", method)
		}
	}
}

func filled(format, name string) string { return strings.ReplaceAll(format, "%[1]s", name) }

// serviceMethods asks as `nats micro info headrace` does.
func serviceMethods(t *testing.T, nc *nats.Conn) []string {
	t.Helper()
	subject, err := micro.ControlSubject(micro.InfoVerb, "headrace", "")
	if err != nil {
		t.Fatal(err)
	}
	m, err := nc.Request(subject, nil, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	var info micro.Info
	if err := json.Unmarshal(m.Data, &info); err != nil {
		t.Fatal(err)
	}
	var methods []string
	for _, e := range info.Endpoints {
		methods = append(methods, cmp.Or(e.Name, e.Subject))
	}
	slices.Sort(methods)
	if len(methods) != 43 {
		t.Errorf("the service offers %d methods: %v", len(methods), methods)
	}
	return methods
}

func dialError(t *testing.T, url string, connect any) error {
	t.Helper()
	c, _, err := rawclient.DialWith(t.Context(), url, connect, func(rawclient.Event) {})
	if err == nil {
		t.Cleanup(c.Close)
	}
	return err
}

// An answer larger than NATS carries is refused, not lost; over HTTP it comes.
func TestAnswerLargerThanNATSCarries(t *testing.T) {
	h := newHarness(t, 1, 1)
	http, nats := overHTTP(h.list()[0].url), overNATS(h.connect())
	body := `{"channel":"h:large","data":"` + strings.Repeat("x", 400_000) + `"}`
	for range 3 {
		if got := nats(t, "publish", body); !strings.HasPrefix(got, `{"result"`) {
			t.Fatal(got)
		}
	}
	want := `{"error":{"code":106,"message":"the answer is larger than NATS carries; ask for less, or over HTTP"}}`
	if got := nats(t, "history", `{"channel":"h:large","limit":10}`); got != want {
		t.Errorf("over NATS: %.200s", got)
	}
	if got := http(t, "history", `{"channel":"h:large","limit":10}`); !strings.HasPrefix(got, `{"result"`) || len(got) < 1_200_000 {
		t.Errorf("over HTTP: %.200s", got)
	}
}

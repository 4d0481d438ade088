package edge

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/centrifugal/protocol"

	"github.com/headrace/headrace/edge/token"
	"github.com/headrace/headrace/router"
)

// stateSteps are the calls whose answers are the same for the server API and for
// clients; {writer} is the info of a client that wrote.
var stateSteps = map[string][]apiStep{
	"a value is set and read": {
		{"set", `{"channel":"map","key":"a","data":{"x":1}}`, `{"applied":true,"entry":{"key":"a","version":1,"life":"l0","data":{"x":1},"time":1000{writer},"offset":1},"offset":1,"epoch":"e0"}`},
		{"get", `{"channel":"map","key":"a"}`, `{"entry":{"key":"a","version":1,"life":"l0","data":{"x":1},"time":1000{writer},"offset":1}}`},
	},
	"what is not JSON is base64": {
		{"set", `{"channel":"map","key":"a","b64data":"AQI="}`, `{"applied":true,"entry":{"key":"a","version":1,"life":"l0","b64data":"AQI=","time":1000{writer},"offset":1},"offset":1,"epoch":"e0"}`},
		{"set", `{"channel":"map","key":"a","b64data":"eyJ4IjoxfQ=="}`, `{"applied":true,"entry":{"key":"a","version":2,"life":"l0","data":{"x":1},"time":1000{writer},"offset":2},"offset":2,"epoch":"e0"}`},
	},
	"null is a value": {
		{"set", `{"channel":"map","key":"a","data":null}`, `{"applied":true,"entry":{"key":"a","version":1,"life":"l0","data":null,"time":1000{writer},"offset":1},"offset":1,"epoch":"e0"}`},
	},
	"nothing is known of a key": {
		{"get", `{"channel":"map","key":"a"}`, `{}`},
		{"history", `{"channel":"map","key":"a"}`, `{"entries":[]}`},
	},
	"every field of a change is kept": {
		{"set", `{"channel":"map","key":"a","data":1,"time":900,"ttl":"1000000h","tags":{"lang":"en"},"expect":{"version":0},"strategy":"reject"}`,
			`{"applied":true,"entry":{"key":"a","version":1,"life":"l0","data":1,"time":1000,"client_time":900,"expires":3600000001000{writer},"tags":{"lang":"en"},"offset":1},"offset":1,"epoch":"e0"}`},
		{"set", `{"channel":"map","key":"a","data":1,"ttl":"never"}`, `{"applied":true,"entry":{"key":"a","version":2,"life":"l0","data":1,"time":1000{writer},"offset":2},"offset":2,"epoch":"e0"}`},
	},
	"the expected version is compared with its life": {
		{"set", `{"channel":"map","key":"a","data":1}`, `{"applied":true,"entry":{"key":"a","version":1,"life":"l0","data":1,"time":1000{writer},"offset":1},"offset":1,"epoch":"e0"}`},
		{"set", `{"channel":"map","key":"a","data":2,"expect":{"version":1,"life":"l9"}}`, `{"applied":false,"reason":"conflict","entry":{"key":"a","version":1,"life":"l0","data":1,"time":1000{writer},"offset":1}}`},
		{"set", `{"channel":"map","key":"a","data":2,"expect":{"version":0}}`, `{"applied":false,"reason":"exists","entry":{"key":"a","version":1,"life":"l0","data":1,"time":1000{writer},"offset":1}}`},
		{"set", `{"channel":"map","key":"a","data":2,"expect":{"version":1,"life":"l0"}}`, `{"applied":true,"entry":{"key":"a","version":2,"life":"l0","data":2,"time":1000{writer},"offset":2},"offset":2,"epoch":"e0"}`},
		{"set", `{"channel":"map","key":"b","data":2,"expect":{"version":1}}`, `{"applied":false,"reason":"conflict"}`},
	},
	"a refusal has the back end's words": {
		{"set", `{"channel":"map","key":"a","data":1,"strategy":"custom"}`, `{"applied":false,"reason":"rejected","message":"not on Sundays"}`},
	},
	"an older change is not applied": {
		{"set", `{"channel":"map","key":"a","data":1,"time":900}`, `{"applied":true,"entry":{"key":"a","version":1,"life":"l0","data":1,"time":1000,"client_time":900{writer},"offset":1},"offset":1,"epoch":"e0"}`},
		{"set", `{"channel":"map","key":"a","data":2,"time":899,"strategy":"lastWriteWins"}`, `{"applied":false,"reason":"older","entry":{"key":"a","version":1,"life":"l0","data":1,"time":1000,"client_time":900{writer},"offset":1}}`},
	},
	"a removal is a version": {
		{"delete", `{"channel":"map","key":"a"}`, `{"applied":false,"reason":"missing"}`},
		{"set", `{"channel":"map","key":"a","data":1}`, `{"applied":true,"entry":{"key":"a","version":1,"life":"l0","data":1,"time":1000{writer},"offset":1},"offset":1,"epoch":"e0"}`},
		{"delete", `{"channel":"map","key":"a","expect":{"version":7},"time":5}`, `{"applied":false,"reason":"conflict","entry":{"key":"a","version":1,"life":"l0","data":1,"time":1000{writer},"offset":1}}`},
		{"delete", `{"channel":"map","key":"a","expect":{"version":1}}`, `{"applied":true,"entry":{"key":"a","version":2,"life":"l0","removed":true,"time":1000{writer},"offset":2},"offset":2,"epoch":"e0"}`},
		{"get", `{"channel":"map","key":"a"}`, `{"entry":{"key":"a","version":2,"life":"l0","removed":true,"time":1000{writer},"offset":2}}`},
	},
	"an expired value is no more, and its version is": {
		{"set", `{"channel":"map","key":"a","data":1,"ttl":"1s"}`, `{"applied":true,"entry":{"key":"a","version":1,"life":"l0","removed":true,"time":1000,"expires":2000{writer},"offset":1},"offset":1,"epoch":"e0"}`},
		{"get", `{"channel":"map","key":"a"}`, `{"entry":{"key":"a","version":1,"life":"l0","removed":true,"time":1000,"expires":2000{writer},"offset":1}}`},
		{"get", `{"channel":"map","key":"a","version":1}`, `{"entry":{"key":"a","version":1,"life":"l0","data":1,"time":1000,"expires":2000{writer},"offset":1}}`},
	},
	"versions are read, newest first": {
		{"set", `{"channel":"map","key":"a","data":1}`, `{"applied":true,"entry":{"key":"a","version":1,"life":"l0","data":1,"time":1000{writer},"offset":1},"offset":1,"epoch":"e0"}`},
		{"set", `{"channel":"map","key":"a","data":2}`, `{"applied":true,"entry":{"key":"a","version":2,"life":"l0","data":2,"time":1000{writer},"offset":2},"offset":2,"epoch":"e0"}`},
		{"history", `{"channel":"map","key":"a"}`, `{"entries":[{"key":"a","version":2,"life":"l0","data":2,"time":1000{writer},"offset":2},{"key":"a","version":1,"life":"l0","data":1,"time":1000{writer},"offset":1}]}`},
		{"history", `{"channel":"map","key":"a","limit":1}`, `{"entries":[{"key":"a","version":2,"life":"l0","data":2,"time":1000{writer},"offset":2}]}`},
		{"get", `{"channel":"map","key":"a","version":1}`, `{"entry":{"key":"a","version":1,"life":"l0","data":1,"time":1000{writer},"offset":1}}`},
		{"get", `{"channel":"map","key":"a","version":9}`, `{"code":112,"message":"version 9 is gone"}`},
	},
	"a repetition answers what was stored": {
		{"set", `{"channel":"map","key":"a","data":1,"idempotency_key":"k"}`, `{"applied":true,"entry":{"key":"a","version":1,"life":"l0","data":1,"time":1000{writer},"offset":1},"offset":1,"epoch":"e0"}`},
		{"set", `{"channel":"map","key":"a","data":1,"idempotency_key":"k"}`, `{"applied":true,"duplicate":true,"entry":{"key":"a","version":1,"life":"l0","data":1,"time":1000{writer},"offset":1},"offset":1,"epoch":"e0"}`},
	},
	"a sync answers each change on its own": {
		{"sync", `{"channel":"map","changes":[{"key":"a","data":1},{"key":"a","remove":true},{"key":"","data":1},{"key":"b","data":1,"expect":{"version":3}},{"key":"c"},{"key":"d","data":1,"remove":true},{"key":"e","b64data":"AQI="}]}`,
			`{"results":[{"key":"a","applied":true,"entry":{"key":"a","version":1,"life":"l0","data":1,"time":1000{writer},"offset":1},"offset":1,"epoch":"e0"},` +
				`{"key":"a","applied":true,"entry":{"key":"a","version":2,"life":"l0","removed":true,"time":1000{writer},"offset":2},"offset":2,"epoch":"e0"},` +
				`{"key":"","error":{"code":107,"message":"key is empty"}},` +
				`{"key":"b","applied":false,"reason":"conflict"},` +
				`{"key":"c","error":{"code":107,"message":"data is missing"}},` +
				`{"key":"d","error":{"code":107,"message":"remove has neither data nor ttl"}},` +
				`{"key":"e","applied":true,"entry":{"key":"e","version":1,"life":"l0","b64data":"AQI=","time":1000{writer},"offset":3},"offset":3,"epoch":"e0"}]}`},
		{"sync", `{"channel":"map","changes":[{"key":"c"}]}`, `{"results":[{"key":"c","error":{"code":107,"message":"data is missing"}}]}`},
	},
}

// stateErrors are calls that fail, and how.
var stateErrors = []apiStep{
	{"get", `{"channel":"a","key":"k"}`, `108 the channels of namespace "default" are no maps`},
	{"history", `{"channel":"a","key":"k"}`, `108 the channels of namespace "default" are no maps`},
	{"set", `{"channel":"a","key":"k","data":1}`, `108 the channels of namespace "default" are no maps`},
	{"delete", `{"channel":"a","key":"k"}`, `108 the channels of namespace "default" are no maps`},
	{"sync", `{"channel":"a","changes":[{"key":"k","data":1}]}`, `108 the channels of namespace "default" are no maps`},
	{"get", `{"channel":"","key":"k"}`, `107 channel is empty`},
	{"set", `{"channel":"map","data":1}`, `107 key is empty`},
	{"set", `{"channel":"map","data":1,"key":"` + strings.Repeat("k", 129) + `"}`, `106 key has 129 bytes, more than 128`},
	{"set", `{"channel":"map","key":"k","data":"` + strings.Repeat("k", 100) + `"}`, `106 value has 102 bytes, more than 100`},
	{"set", `{"channel":"map","key":"k","data":1,"strategy":"firstWriteWins"}`, `107 unknown strategy "firstWriteWins"`},
	{"set", `{"channel":"map","key":"k"}`, `107 data is missing`},
	{"set", `{"channel":"map","key":"k","data":1,"b64data":"AQ=="}`, `107 data and b64data exclude each other`},
	{"set", `{"channel":"map","key":"k","data":1,"ttl":"soon"}`, `107 ttl is neither a duration such as 30s or 24h nor "never"`},
	{"set", `{"channel":"map","key":"k","data":1,"ttl":"0s"}`, `107 ttl is neither a duration such as 30s or 24h nor "never"`},
	{"set", `{"channel":"map","key":"k","data":1,"ttl":"-1s"}`, `107 ttl is neither a duration such as 30s or 24h nor "never"`},
	{"set", `{"channel":"map","key":"k","data":1,"time":-1}`, `107 time is negative`},
	{"set", `{"channel":"map","key":"k","data":1,"expect":{}}`, `107 expect needs version; 0 is a key without a value`},
	{"set", `{"channel":"map","key":"k","data":1,"expected":1}`, `107 request: unknown field "expected"`},
	{"set", `{"channel":"map","key":"k","data":1,"expect":{"version":1,"epoch":""}}`, `107 request: unknown field "epoch"`},
	{"set", `{"channel":"map","key":"k","data":1,"idempotency_key":"` + strings.Repeat("k", 257) + `"}`, `107 idempotency_key is longer than 256 bytes`},
	{"delete", `{"channel":"map","key":"k","data":1}`, `107 request: unknown field "data"`},
	{"delete", `{"channel":"map","key":"k","expect":{"life":"x"}}`, `107 expect needs version; 0 is a key without a value`},
	{"get", `{"channel":"map","key":"k","seen":{"life":"x"}}`, `107 seen needs version; 0 is a key without a value`},
	{"get", `{"channel":"map","key":"k","version":-1}`, `107 field "version" at byte 39 must be a uint64, not a number -1`},
	{"history", `{"channel":"map","key":"k","limit":-1}`, `107 limit -1 is negative`},
	{"sync", `{"channel":"map","changes":[]}`, `106 a sync has 1 to 100 changes, not 0`},
	{"sync", `{"channel":"map","changes":[` + strings.Repeat(`{"key":"k","data":1},`, 100) + `{"key":"k","data":1}]}`, `106 a sync has 1 to 100 changes, not 101`},
	{"sync", `{"channel":"map","changes":[{"key":"k","data":1,"x":1}]}`, `107 request: unknown field "x"`},
}

func TestStateOverTheAPI(t *testing.T) {
	for does, steps := range stateSteps {
		t.Run(does, func(t *testing.T) {
			var calls []apiStep
			for _, s := range steps {
				want := `{"result":` + strings.ReplaceAll(s.want, "{writer}", "") + `}`
				if strings.HasPrefix(s.want, `{"code":`) {
					want = `{"error":` + s.want + `}`
				}
				calls = append(calls, apiStep{"state_" + s.method, s.body, want})
			}
			runSteps(t, calls, nil)
		})
	}
	for _, s := range stateErrors {
		code, message, _ := strings.Cut(s.want, " ")
		runSteps(t, []apiStep{{"state_" + s.method, s.body, fmt.Sprintf(`{"error":{"code":%s,"message":%q}}`, code, message)}}, nil)
	}
}

// rpcClient is a connected client of either protocol that calls rpc methods.
type rpcClient struct {
	t    *testing.T
	srv  *Server
	sess *session
	tr   *fakeTransport
	kind kind
	id   uint32
}

func newRPCClient(t *testing.T, srv *Server, k kind, user string) *rpcClient {
	t.Helper()
	c := &rpcClient{t: t, srv: srv, kind: k}
	c.sess, c.tr = newTestSession(srv, k)
	connect := &protocol.ConnectRequest{}
	if user != "" {
		connect.Token = mustMint(token.Connection{User: user, Info: []byte(`{"name":"Zoë"}`)})
	}
	if r := c.do(&protocol.Command{Connect: connect}); r.Error != nil {
		t.Fatal(r.Error)
	}
	return c
}

// do sends a command and returns the reply.
func (c *rpcClient) do(cmd *protocol.Command) *protocol.Reply {
	c.t.Helper()
	c.id++
	cmd.Id = c.id
	var frame []byte
	var err error
	if c.kind == protobufWS {
		frame, err = protocol.NewProtobufCommandEncoder().Encode(cmd)
	} else {
		frame, err = protocol.NewJSONCommandEncoder().Encode(cmd)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	c.sess.onFrame(frame)
	settle(c.srv, c.sess)
	frames := c.tr.take()
	if len(frames) != 1 {
		c.t.Fatalf("frames %q", frames)
	}
	var r *protocol.Reply
	if c.kind == protobufWS {
		r, _ = protocol.NewProtobufReplyDecoder([]byte(frames[0])).Decode()
	} else {
		r, _ = protocol.NewJSONReplyDecoder([]byte(frames[0])).Decode()
	}
	if r == nil || r.Id != c.id {
		c.t.Fatalf("reply %q", frames[0])
	}
	return r
}

// call returns the data of the answer, or "code message".
func (c *rpcClient) call(method, data string) string {
	c.t.Helper()
	r := c.do(&protocol.Command{Rpc: &protocol.RPCRequest{Method: method, Data: []byte(data)}})
	if r.Error != nil {
		return fmt.Sprint(r.Error.Code, " ", r.Error.Message)
	}
	return string(r.Rpc.Data)
}

func TestStateOfClients(t *testing.T) {
	const writer = `,"info":{"user":"42","client":"c1","conn_info":{"name":"Zoë"}}`
	for _, k := range []kind{jsonWS, protobufWS} {
		for does, steps := range stateSteps {
			t.Run(k.String()+" "+does, func(t *testing.T) {
				c := newRPCClient(t, newTestServer(t, newFakeRouter(), nil), k, "42")
				for _, s := range steps {
					want := strings.ReplaceAll(s.want, "{writer}", writer)
					if rest, ok := strings.CutPrefix(want, `{"code":`); ok {
						code, message, _ := strings.Cut(rest, `,"message":"`)
						want = code + " " + strings.TrimSuffix(message, `"}`)
					}
					if got := c.call("state."+s.method, s.body); got != want {
						t.Errorf("%s %s\ngot  %s\nwant %s", s.method, s.body, got, want)
					}
				}
			})
		}
		for _, s := range stateErrors {
			c := newRPCClient(t, newTestServer(t, newFakeRouter(), nil), k, "42")
			if got := c.call("state."+s.method, s.body); got != s.want {
				t.Errorf("%s: %s %s\ngot  %s\nwant %s", k, s.method, s.body, got, s.want)
			}
		}
	}
}

// What the reader saw and wants reaches the router, and so does who writes.
func TestStateOptionsArePassedOn(t *testing.T) {
	f := newFakeRouter()
	c := newRPCClient(t, newTestServer(t, f, nil), jsonWS, "42")
	c.call("state.get", `{"channel":"map","key":"a","seen":{"version":3,"life":"l"},"fresh":true}`)
	c.call("state.set", `{"channel":"map","key":"a","data":1,"idempotency_key":"k","ttl":"1m30s","strategy":"merge"}`)
	if o := f.options[0]; !o.Fresh || o.Seen == nil || *o.Seen != (router.Expect{Version: 3, Life: "l"}) {
		t.Errorf("options %+v", o)
	}
	if w := f.changes[0]; w.User != "42" || w.Info == nil || w.Info.Client != "c1" || w.IdempotencyKey != "k" || w.TTL != 90*time.Second || w.Strategy != router.StrategyMerge {
		t.Errorf("change %+v", w)
	}
}

// A store that cannot be reached is a temporary error, per change in a sync.
func TestStateThatIsUnavailable(t *testing.T) {
	f := newFakeRouter()
	f.unfit = router.Unavailable("state", nil)
	c := newRPCClient(t, newTestServer(t, f, nil), jsonWS, "42")
	for method, want := range map[string]string{
		`state.set`:  "100 state is temporarily unavailable",
		`state.sync`: `{"results":[{"key":"a","error":{"code":100,"message":"state is temporarily unavailable"}}]}`,
	} {
		body := `{"channel":"map","key":"a","data":1}`
		if method == "state.sync" {
			body = `{"channel":"map","changes":[{"key":"a","data":1}]}`
		}
		if got := c.call(method, body); got != want {
			t.Errorf("%s: %s", method, got)
		}
	}
}

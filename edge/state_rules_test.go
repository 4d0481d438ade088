package edge

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/headrace/headrace/router"
)

// stateCalls is one call of each method.
var stateCalls = map[string]string{
	"get":     `{"channel":"map","key":"a"}`,
	"history": `{"channel":"map","key":"a"}`,
	"set":     `{"channel":"map","key":"a","data":1}`,
	"delete":  `{"channel":"map","key":"a"}`,
	"sync":    `{"channel":"map","changes":[{"key":"a","data":1},{"key":"a","remove":true}]}`,
}

// Reading is for who may subscribe or is subscribed, setting is publishing,
// removing is an operation of its own.
func TestWhoMayUseState(t *testing.T) {
	for does, tt := range map[string]struct {
		allowed    []router.Op
		subscribed bool
		insecure   bool
		want       string // the methods that work, and of sync what
	}{
		"nobody without a rule":                 {want: ""},
		"who may subscribe reads":               {allowed: []router.Op{router.OpSubscribe}, want: "get history"},
		"a subscriber reads":                    {subscribed: true, want: "get history"},
		"who may publish sets":                  {allowed: []router.Op{router.OpPublish}, want: "set sync:set"},
		"who may remove removes":                {allowed: []router.Op{router.OpRemove}, want: "delete sync:remove"},
		"reading the history is something else": {allowed: []router.Op{router.OpHistory, router.OpPresence}, want: ""},
		"insecure is for everybody":             {insecure: true, want: "delete get history set sync:set sync:remove"},
	} {
		t.Run(does, func(t *testing.T) {
			f := newFakeRouter()
			open := true
			f.rules = func(op router.Op, _ router.Access) bool {
				return open || slices.Contains(tt.allowed, op)
			}
			c := newRPCClient(t, newTestServer(t, f, func(cfg *Config) { cfg.Insecure = tt.insecure }), jsonWS, "42")
			if tt.subscribed {
				c.sess.onFrame([]byte(`{"id":2,"subscribe":{"channel":"map","type":1,"phase":2}}`))
				settle(c.srv, c.sess)
				c.tr.take()
			}
			open = false
			var works []string
			for _, method := range []string{"delete", "get", "history", "set", "sync"} {
				got := c.call("state."+method, stateCalls[method])
				if method == "sync" {
					works = append(works, syncWorks(t, got)...)
				} else if got != "103 permission denied" {
					works = append(works, method)
				}
			}
			if got := strings.Join(works, " "); got != tt.want {
				t.Errorf("works: %q, want %q", got, tt.want)
			}
		})
	}
}

func syncWorks(t *testing.T, answer string) (works []string) {
	t.Helper()
	var r struct {
		Results []struct{ Error *apiErrorBody }
	}
	if err := json.Unmarshal([]byte(answer), &r); err != nil || len(r.Results) != 2 {
		t.Fatalf("%v: %s", err, answer)
	}
	for i, what := range []string{"sync:set", "sync:remove"} {
		if e := r.Results[i].Error; e == nil {
			works = append(works, what)
		} else if e.Code != 103 {
			t.Errorf("%s: %+v", what, e)
		}
	}
	return works
}

func TestRulesOfStateForClients(t *testing.T) {
	noID := "107 an idempotency_key needs a client with a user id"
	denied := "103 a back end decides about changes in this namespace; strategy \"reject\" would pass it by"
	for does, tt := range map[string]struct {
		options   router.MapOptions
		user      string
		body      string
		want, key string
	}{
		"any key":                            {user: "42", body: `{"channel":"map","key":"a","data":1}`, key: "a"},
		"the client's key is its id":         {options: router.MapOptions{ClientKey: router.ClientKeyClient}, user: "42", body: `{"channel":"map","data":1}`, key: "c1"},
		"and may be named":                   {options: router.MapOptions{ClientKey: router.ClientKeyClient}, user: "42", body: `{"channel":"map","key":"c1","data":1}`, key: "c1"},
		"another is denied":                  {options: router.MapOptions{ClientKey: router.ClientKeyClient}, user: "42", body: `{"channel":"map","key":"c2","data":1}`, want: `103 clients may change the key "c1" only: it is their client_id`},
		"the client's key is its user's id":  {options: router.MapOptions{ClientKey: router.ClientKeyUser}, user: "42", body: `{"channel":"map","data":1}`, key: "42"},
		"another user's is denied":           {options: router.MapOptions{ClientKey: router.ClientKeyUser}, user: "42", body: `{"channel":"map","key":"43","data":1}`, want: `103 clients may change the key "42" only: it is their user_id`},
		"a client without a user has none":   {options: router.MapOptions{ClientKey: router.ClientKeyUser}, body: `{"channel":"map","key":"","data":1}`, want: "103 the key is the user's id, and the client has none"},
		"anonymous clients have no keys":     {body: `{"channel":"map","key":"a","data":1,"idempotency_key":"k"}`, want: noID},
		"anonymous clients write without":    {body: `{"channel":"map","key":"a","data":1}`, key: "a"},
		"nobody passes by the back end":      {options: router.MapOptions{Conflict: router.StrategyCustom}, user: "42", body: `{"channel":"map","key":"a","data":1,"strategy":"reject"}`, want: denied},
		"who names the back end's is asked":  {options: router.MapOptions{Conflict: router.StrategyCustom}, user: "42", body: `{"channel":"map","key":"a","data":1,"strategy":"custom"}`, want: `{"applied":false,"reason":"rejected","message":"not on Sundays"}`},
		"elsewhere a strategy may be chosen": {options: router.MapOptions{Conflict: router.StrategyReject}, user: "42", body: `{"channel":"map","key":"a","data":1,"strategy":"merge"}`, key: "a"},
		"keys that last as a subscription does": {options: router.MapOptions{ClientKey: router.ClientKeyClient, RemoveOnUnsubscribe: true}, user: "42", body: `{"channel":"map","data":1}`,
			want: "108 keys of this namespace last as long as the client's subscription: publish them there"},
		"a channel with a name that is longer": {user: "42", body: `{"channel":"map` + strings.Repeat("x", 300) + `","key":"a","data":1}`, want: "107 channel is longer than 255 bytes"},
	} {
		t.Run(does, func(t *testing.T) {
			f := newFakeRouter()
			f.ns.Map = &tt.options
			c := newRPCClient(t, newTestServer(t, f, nil), jsonWS, tt.user)
			got := c.call("state.set", tt.body)
			if tt.want != "" {
				if got != tt.want {
					t.Errorf("got %s, want %s", got, tt.want)
				}
				return
			}
			if !strings.HasPrefix(got, fmt.Sprintf(`{"applied":true,"entry":{"key":%q,`, tt.key)) {
				t.Errorf("got %s, want key %s", got, tt.key)
			}
		})
	}
}

// Every change counts against the user's limit, and those above it are not made.
func TestE8ChangesCountAsPublications(t *testing.T) {
	f := newFakeRouter()
	srv := newTestServer(t, f, func(c *Config) { c.UserLimit = &userQuota{left: map[string]int{"42": 3}} })
	c := newRPCClient(t, srv, jsonWS, "42")
	c.call("state.set", `{"channel":"map","key":"a","data":1}`)
	got := c.call("state.sync", `{"channel":"map","changes":[{"key":"a","data":2},{"key":"a","data":3},{"key":"b","data":4},{"key":"c","data":5}]}`)
	if n := strings.Count(got, `"applied":true`); n != 2 {
		t.Errorf("%d applied: %s", n, got)
	}
	if n := strings.Count(got, `"error":{"code":111,"message":"too many messages"}`); n != 2 {
		t.Errorf("%d refused: %s", n, got)
	}
	if got := c.call("state.delete", `{"channel":"map","key":"a"}`); got != "111 too many messages" {
		t.Errorf("a removal: %s", got)
	}
	if len(f.changes) != 3 {
		t.Errorf("%d changes", len(f.changes))
	}
	if got := c.call("state.get", `{"channel":"map","key":"a"}`); !strings.Contains(got, `"data":3`) {
		t.Errorf("reading: %s", got)
	}
}

// FuzzStateCalls feeds the decoders of everything that clients send to state.
func FuzzStateCalls(f *testing.F) {
	for _, steps := range stateSteps {
		for _, s := range steps {
			f.Add("state."+s.method, s.body)
		}
	}
	for _, s := range stateErrors {
		f.Add("state."+s.method, s.body)
	}
	f.Fuzz(func(t *testing.T, method, data string) {
		r := newFakeRouter()
		srv := newTestServer(t, r, nil)
		sess, _ := newTestSession(srv, jsonWS)
		sess.connected = true
		sess.info.User = "42"
		call := srv.builtins[method]
		if call == nil {
			return
		}
		result, err := call(t.Context(), sess, []byte(data))
		for _, c := range r.changes {
			if c.User != "42" || c.Remove && c.Data != nil || !c.Remove && c.Data == nil || c.Time < 0 || len(c.IdempotencyKey) > maxIdempotencyKey {
				t.Errorf("%q became %+v", data, c)
			}
		}
		if err != nil {
			if toProtoError(err).code == 100 && router.CodeOf(err) != router.CodeInternal {
				t.Errorf("%q: %v", data, err)
			}
			return
		}
		if line, err := encodeLine(result); err != nil || !validJSON(line) {
			t.Errorf("answer %q: %v", line, err)
		}
	})
}

package edge

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/headrace/headrace/router"
)

// apiStep is one call of the server API and its whole answer.
type apiStep struct{ method, body, want string }

// runSteps makes the calls one after the other, over NATS and, on a server of its
// own, over HTTP.
func runSteps(t *testing.T, steps []apiStep, prepare func(*fakeRouter)) {
	t.Helper()
	for _, over := range []string{"NATS", "HTTP"} {
		f := newFakeRouter()
		if prepare != nil {
			prepare(f)
		}
		s := newTestServer(t, f, func(c *Config) { c.APIInsecure = true })
		for _, step := range steps {
			var got string
			if over == "NATS" {
				got = string(s.callNATS(t.Context(), step.method, router.APICall{Body: []byte(step.body)}).Body)
			} else {
				_, got, _ = strings.Cut(postAPI(s, step.method, step.body), " ")
				got = strings.Replace(got, `"code":400,`, `"code":107,`, 1) // what reaches no method
			}
			if got != step.want {
				t.Errorf("over %s: %s %s\ngot  %s\nwant %s", over, step.method, step.body, got, step.want)
			}
		}
	}
}

func TestMapMethods(t *testing.T) {
	publishA := apiStep{"map_publish", `{"channel":"map","key":"a","data":{"x":1}}`, `{"result":{"offset":1,"epoch":"e0","version":1,"life":"l0"}}`}
	publishB := apiStep{"map_publish", `{"channel":"map","key":"b","b64data":"AQI="}`, `{"result":{"offset":2,"epoch":"e0","version":1,"life":"l0"}}`}
	const a = `{"key":"a","data":{"x":1},"offset":1,"time":1000,"version":1,"life":"l0"}`
	const b = `{"key":"b","b64data":"AQI=","offset":2,"time":1000,"version":1,"life":"l0"}`
	for does, steps := range map[string][]apiStep{
		"values are published and read page by page": {
			publishA, publishB,
			{"map_read_state", `{"channel":"map"}`, `{"result":{"entries":[` + a + `,` + b + `],"offset":2,"epoch":"e0"}}`},
			{"map_read_state", `{"channel":"map","limit":1}`, `{"result":{"entries":[` + a + `],"offset":2,"epoch":"e0","cursor":"1"}}`},
			{"map_read_state", `{"channel":"map","limit":1,"cursor":"1","revision_epoch":"e0","revision_offset":2}`, `{"result":{"entries":[` + b + `],"offset":2,"epoch":"e0"}}`},
			{"map_stats", `{"channel":"map"}`, `{"result":{"num_keys":2,"offset":2,"epoch":"e0"}}`},
		},
		"one key is read": {
			publishA, publishB,
			{"map_read_state", `{"channel":"map","key":"b"}`, `{"result":{"entries":[` + b + `],"offset":2,"epoch":"e"}}`},
			{"map_read_state", `{"channel":"map","key":"c"}`, `{"result":{"entries":[],"offset":2,"epoch":"e"}}`},
		},
		"tags stay with a value": {
			{"map_publish", `{"channel":"map","key":"a","data":1,"tags":{"lang":"en"},"delta":true}`, `{"result":{"offset":1,"epoch":"e0","version":1,"life":"l0"}}`},
			{"map_read_state", `{"channel":"map"}`, `{"result":{"entries":[{"key":"a","data":1,"tags":{"lang":"en"},"offset":1,"time":1000,"version":1,"life":"l0"}],"offset":1,"epoch":"e0"}}`},
		},
		"a key is removed once": {
			publishA,
			{"map_remove", `{"channel":"map","key":"a"}`, `{"result":{"offset":2,"epoch":"e0","version":2,"life":"l0"}}`},
			{"map_remove", `{"channel":"map","key":"a"}`, `{"result":{"suppressed":true,"suppress_reason":"key_not_found","version":2,"life":"l0"}}`},
			{"map_read_state", `{"channel":"map"}`, `{"result":{"entries":[],"offset":2,"epoch":"e0"}}`},
		},
		"a repetition is answered and does nothing": {
			{"map_publish", `{"channel":"map","key":"a","data":1,"idempotency_key":"k"}`, `{"result":{"offset":1,"epoch":"e0","version":1,"life":"l0"}}`},
			{"map_publish", `{"channel":"map","key":"a","data":1,"idempotency_key":"k"}`, `{"result":{"offset":1,"epoch":"e0","suppressed":true,"suppress_reason":"idempotency","version":1,"life":"l0"}}`},
			{"map_stats", `{"channel":"map"}`, `{"result":{"num_keys":1,"offset":1,"epoch":"e0"}}`},
		},
		"key_mode if_new applies to keys without a value": {
			{"map_publish", `{"channel":"map","key":"a","data":1,"key_mode":"if_new"}`, `{"result":{"offset":1,"epoch":"e0","version":1,"life":"l0"}}`},
			{"map_publish", `{"channel":"map","key":"a","data":2,"key_mode":"if_new"}`, `{"result":{"suppressed":true,"suppress_reason":"key_exists","version":1,"life":"l0"}}`},
			{"map_publish", `{"channel":"map","key":"a","data":2,"key_mode":"replace"}`, `{"result":{"offset":2,"epoch":"e0","version":2,"life":"l0"}}`},
		},
		"key_mode if_exists applies to keys with a value": {
			{"map_publish", `{"channel":"map","key":"a","data":1,"key_mode":"if_exists"}`, `{"result":{"suppressed":true,"suppress_reason":"key_not_found"}}`},
			publishA,
			{"map_publish", `{"channel":"map","key":"a","data":1,"key_mode":"if_exists"}`, `{"result":{"offset":2,"epoch":"e0","version":2,"life":"l0"}}`},
		},
		"a cleared map is empty, and its pages are refused": {
			publishA,
			{"map_clear", `{"channel":"map","idempotency_key":"k"}`, `{"result":{}}`},
			publishB,
			{"map_clear", `{"channel":"map","idempotency_key":"k"}`, `{"result":{}}`},
			{"map_read_state", `{"channel":"map","cursor":"0","revision_epoch":"e0"}`, `{"error":{"code":112,"message":"the state is another one since; begin again without a cursor"}}`},
		},
		"the feed is read": {
			{"map_read_stream", `{"channel":"map","limit":-1}`, `{"result":{"entries":[{"key":"","data":"two","offset":2}],"offset":2,"epoch":"e"}}`},
			{"map_read_stream", `{"channel":"map","limit":-1,"since_offset":1,"since_epoch":"e"}`, `{"result":{"entries":[{"key":"","data":"two","offset":2}],"offset":2,"epoch":"e"}}`},
			{"map_read_stream", `{"channel":"map","limit":-1,"since":{"offset":1,"epoch":"f"}}`, `{"error":{"code":112,"message":"unrecoverable position"}}`},
		},
	} {
		t.Run(does, func(t *testing.T) {
			if strings.HasPrefix(does, "a cleared map") {
				steps[2].want = `{"result":{"offset":3,"epoch":"e1","version":1,"life":"l1"}}`
			}
			runSteps(t, steps, nil)
		})
	}
}

func TestMapMethodsRefuse(t *testing.T) {
	long := strings.Repeat("k", router.MaxKeyLength+1)
	wrong := func(code int, message string) string {
		return fmt.Sprintf(`{"error":{"code":%d,"message":%q}}`, code, message)
	}
	noMap := wrong(108, `the channels of namespace "default" are no maps`)
	for _, step := range []apiStep{
		{"map_publish", `{"channel":"a","key":"k","data":1}`, noMap},
		{"map_remove", `{"channel":"a","key":"k"}`, noMap},
		{"map_read_state", `{"channel":"a"}`, noMap},
		{"map_read_state", `{"channel":"a","key":"k"}`, noMap},
		{"map_read_stream", `{"channel":"a"}`, noMap},
		{"map_stats", `{"channel":"a"}`, noMap},
		{"map_clear", `{"channel":"a"}`, noMap},
		{"map_publish", `{"channel":"map","key":"k"}`, wrong(107, "data is missing")},
		{"map_publish", `{"channel":"map","data":1}`, wrong(107, "key is empty")},
		{"map_publish", `{"channel":"map","data":1,"key":"` + long + `"}`, wrong(106, "key has 129 bytes, more than 128")},
		{"map_publish", `{"channel":"map","key":"k","data":"` + long + `"}`, wrong(106, "value has 131 bytes, more than 100")},
		{"map_publish", `{"channel":"map","key":"k","data":1,"key_mode":"sometimes"}`, wrong(107, `key_mode "sometimes" is neither replace, if_new nor if_exists`)},
		{"map_publish", `{"channel":"map","key":"k","data":1,"version":3}`, wrong(108, "version and version_epoch are not available; state_set compares versions")},
		{"map_publish", `{"channel":"map","key":"k","data":1,"ttl":"1s"}`, wrong(107, `request: unknown field "ttl"`)},
		{"map_publish", `{"channel":"map","key":"k","data":1,"idempotency_key":"` + long + long + `"}`, wrong(107, "idempotency_key is longer than 256 bytes")},
		{"map_remove", `{"channel":"map","key":"k","idempotency_key":"` + long + long + `"}`, wrong(107, "idempotency_key is longer than 256 bytes")},
		{"map_read_state", `{"channel":"map","asc":true}`, wrong(108, "asc is not available; pages have an order of their own")},
		{"map_read_state", `{"channel":"map","key":"k","cursor":"1"}`, wrong(107, "key and cursor exclude each other")},
		{"map_read_state", `{"channel":"map","cursor":"x"}`, wrong(107, "the cursor is not one of ours")},
		{"map_read_state", `{"channel":"map","key":"k","revision_epoch":"x"}`, wrong(112, "the state is another one since; begin again without a cursor")},
		{"map_stats", `{"channel":"map","x":1}`, wrong(107, `request: unknown field "x"`)},
		{"map_remove", `{"channel":1}`, wrong(107, `field "channel" at byte 12 must be a string, not a number`)},
	} {
		runSteps(t, []apiStep{step}, nil)
	}
}

// A change that gets between reading and writing is met again.
func TestIfExistsMeetsAnotherChange(t *testing.T) {
	f := newFakeRouter()
	s := newTestServer(t, f, nil)
	call := func(method, body string) string {
		return string(s.callNATS(t.Context(), method, router.APICall{Body: []byte(body)}).Body)
	}
	call("map_publish", `{"channel":"map","key":"a","data":1}`)
	meddled := 0
	var meddle func()
	meddle = func() {
		if meddled++; meddled < 4 {
			f.ChangeState(context.Background(), "map", router.Change{Key: "a", Data: []byte("2")}) //nolint:errcheck // a fake
			f.meddle = meddle
		}
	}
	f.meddle = meddle
	got := call("map_publish", `{"channel":"map","key":"a","data":3,"key_mode":"if_exists"}`)
	if got != `{"result":{"offset":5,"epoch":"e0","version":5,"life":"l0"}}` {
		t.Errorf("after 3 other changes: %s", got)
	}
	f.meddle = func() {
		f.ChangeState(context.Background(), "map", router.Change{Key: "a", Remove: true}) //nolint:errcheck // a fake
	}
	got = call("map_publish", `{"channel":"map","key":"a","data":3,"key_mode":"if_exists"}`)
	if got != `{"result":{"suppressed":true,"suppress_reason":"key_not_found","version":6,"life":"l0"}}` {
		t.Errorf("removed meanwhile: %s", got)
	}
}

package test

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/headrace/headrace/edge/token"
	"github.com/headrace/headrace/router"
)

// strategyNamespaces are one for each strategy.
func strategyNamespaces() []router.Namespace {
	with := func(name string, o router.MapOptions) router.Namespace {
		o.Mode = router.MapPersistent
		ns := router.Namespace{Name: name, HistorySize: 100, Partitions: 1, Payload: router.PayloadJSON, Map: &o}
		return ns.WithDefaults()
	}
	return []router.Namespace{
		with("doc", router.MapOptions{MaxValueBytes: 1000}),
		with("note", router.MapOptions{Conflict: router.StrategyLastWriteWins}),
		with("form", router.MapOptions{Conflict: router.StrategyMerge}),
		with("stock", router.MapOptions{Conflict: router.StrategyCustom, ConflictMethod: "stock.decide"}),
	}
}

// decideStock is a back end for the strategy custom: a change adds to what is left,
// and nothing is sold that is not there.
func decideStock(t *testing.T, nc *nats.Conn) {
	t.Helper()
	type amounts struct{ Add, Left int }
	_, err := nc.QueueSubscribe("hr.rpc.stock.decide", "stock", func(m *nats.Msg) {
		var q struct{ Current, Proposed *struct{ Data amounts } }
		if err := json.Unmarshal(m.Data, &q); err != nil {
			t.Errorf("%s: %v", m.Data, err)
			return
		}
		left := q.Proposed.Data.Add
		if q.Current != nil {
			left += q.Current.Data.Left
		}
		var answer any = map[string]any{"data": map[string]int{"left": left}}
		if left < 0 {
			answer = map[string]string{"reject": "sold out"}
		}
		b, err := json.Marshal(answer)
		if err == nil {
			err = m.Respond(b)
		}
		if err != nil {
			t.Error(err)
		}
	})
	if err == nil {
		err = nc.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestS4DevicesOnlineAndOffline: two devices on different edges edit the same keys
// online and offline, and each strategy gives what docs/state.md says.
func TestS4DevicesOnlineAndOffline(t *testing.T) {
	needNode(t)
	h := newHarness(t, 1, 2)
	decideStock(t, h.connect())
	runJS(t, h, "state.test.mjs", token.Connection{User: "js"})
}

// stateSteps use every method of maps on real edges; %[1]s is a fresh name.
var stateSteps = []apiStep{
	{method: "map_publish", body: `{"channel":"doc:%[1]s","key":"a","data":{"x":1},"tags":{"lang":"en"}}`, want: `{"result":{"offset":1,"epoch":"E","version":1,"life":"L"}}`},
	{method: "map_publish", body: `{"channel":"doc:%[1]s","key":"a","data":2,"key_mode":"if_new"}`, want: `{"result":{"suppressed":true,"suppress_reason":"key_exists","version":1,"life":"L"}}`},
	{method: "map_publish", body: `{"channel":"doc:%[1]s","key":"a","data":2,"key_mode":"if_exists","idempotency_key":"k"}`, want: `{"result":{"offset":2,"epoch":"E","version":2,"life":"L"}}`},
	{method: "state_set", body: `{"channel":"doc:%[1]s","key":"b","data":1,"expect":{"version":0},"time":1000,"idempotency_key":"b1"}`,
		want: `{"result":{"applied":true,"entry":{"key":"b","version":1,"life":"L","data":1,"time":0,"client_time":1000,"offset":3},"offset":3,"epoch":"E"}}`},
	{method: "state_set", body: `{"channel":"doc:%[1]s","key":"b","data":1,"expect":{"version":0},"time":1000,"idempotency_key":"b1"}`,
		want: `{"result":{"applied":true,"duplicate":true,"entry":{"key":"b","version":1,"life":"L","data":1,"time":0,"client_time":1000,"offset":3},"offset":3,"epoch":"E"}}`},
	{method: "state_set", body: `{"channel":"doc:%[1]s","key":"b","data":2,"expect":{"version":7}}`,
		want: `{"result":{"applied":false,"reason":"conflict","entry":{"key":"b","version":1,"life":"L","data":1,"time":0,"client_time":1000,"offset":3}}}`},
	{method: "state_get", body: `{"channel":"doc:%[1]s","key":"a"}`, want: `{"result":{"entry":{"key":"a","version":2,"life":"L","data":2,"time":0,"offset":2}}}`},
	{method: "state_get", body: `{"channel":"doc:%[1]s","key":"a","version":1}`, want: `{"result":{"entry":{"key":"a","version":1,"life":"L","data":{"x":1},"time":0,"tags":{"lang":"en"},"offset":1}}}`},
	{method: "state_get", body: `{"channel":"doc:%[1]s","key":"a","version":9}`, want: `{"error":{"code":112,"message":"version 9 is not stored"}}`},
	{method: "state_get", body: `{"channel":"doc:%[1]s","key":"nothing"}`, want: `{"result":{}}`},
	{method: "map_read_state", body: `{"channel":"doc:%[1]s","key":"b"}`, want: `{"result":{"entries":[{"key":"b","data":1,"offset":3,"time":0,"version":1,"life":"L"}],"offset":3,"epoch":"E"}}`},
	{method: "state_delete", body: `{"channel":"doc:%[1]s","key":"a"}`, want: `{"result":{"applied":true,"entry":{"key":"a","version":3,"life":"L","removed":true,"time":0,"offset":4},"offset":4,"epoch":"E"}}`},
	{method: "map_remove", body: `{"channel":"doc:%[1]s","key":"a"}`, want: `{"result":{"suppressed":true,"suppress_reason":"key_not_found","version":3,"life":"L"}}`},
	{method: "state_history", body: `{"channel":"doc:%[1]s","key":"a","limit":2}`,
		want: `{"result":{"entries":[{"key":"a","version":3,"life":"L","removed":true,"time":0,"offset":4},{"key":"a","version":2,"life":"L","data":2,"time":0,"offset":2}]}}`},
	{method: "map_read_stream", body: `{"channel":"doc:%[1]s","limit":2,"reverse":true}`,
		want: `{"result":{"entries":[{"key":"a","offset":4,"removed":true,"time":0,"version":3},{"key":"b","data":1,"offset":3,"time":0,"version":1}],"offset":4,"epoch":"E"}}`},
	{method: "map_stats", body: `{"channel":"doc:%[1]s"}`, want: `{"result":{"num_keys":1,"offset":4,"epoch":"E"}}`},
	{method: "state_sync", body: `{"channel":"form:%[1]s","changes":[{"key":"a","data":{"x":1,"y":1}},{"key":"a","data":{"x":null}},{"key":"c","data":1,"strategy":"no"}]}`,
		want: `{"result":{"results":[{"key":"a","applied":true,"entry":{"key":"a","version":1,"life":"L","data":{"x":1,"y":1},"time":0,"offset":1},"offset":1,"epoch":"E"},` +
			`{"key":"a","applied":true,"entry":{"key":"a","version":2,"life":"L","data":{"y":1},"time":0,"offset":2},"offset":2,"epoch":"E"},` +
			`{"key":"c","error":{"code":107,"message":"unknown strategy \"no\"; it is one of reject, lastWriteWins, merge, custom"}}]}}`},
	{method: "map_clear", body: `{"channel":"doc:%[1]s"}`, want: `{"result":{}}`},
	{method: "map_read_state", body: `{"channel":"doc:%[1]s"}`, want: anyAnswer},
	{method: "state_get", body: `{"channel":"doc:%[1]s","key":"b"}`, want: `{"result":{}}`},
	{method: "state_set", body: `{"channel":"h:%[1]s","key":"b","data":1}`, want: `{"error":{"code":108,"message":"the channels of namespace \"h\" are no maps"}}`},
}

// lives stand in answers and are never the same.
var lives = regexp.MustCompile(`"life":"[^"]*"`)

// Every method of maps, over both transports.
func TestStateAPI(t *testing.T) {
	h := newHarness(t, 1, 2)
	nc := h.connect()
	used := make(map[string]bool)
	for name, call := range map[string]apiCall{"HTTP": overHTTP(h.list()[0].url), "NATS": overNATS(nc)} {
		t.Run(name, func(t *testing.T) {
			for _, step := range stateSteps {
				used[step.method] = true
				channel := strings.ToLower(name)
				answer := lives.ReplaceAllString(settled(call(t, step.method, filled(step.body, channel))), `"life":"L"`)
				if want := filled(step.want, channel); step.want != anyAnswer && answer != want {
					t.Errorf("%s %s\nanswered %s\nwant     %s", step.method, step.body, answer, want)
				}
			}
		})
	}
	for _, method := range serviceMethods(t, nc) {
		if (strings.HasPrefix(method, "map_") || strings.HasPrefix(method, "state_")) && !used[method] {
			t.Errorf("method %s is not tested", method)
		}
	}
}

// A change acknowledged by one edge is read from another at once when asked for,
// though the first is killed.
func TestS4ChangesOutliveTheirEdge(t *testing.T) {
	h := newHarness(t, 3, 3)
	for round := range 2 {
		edges := h.list()
		set := overHTTP(edges[0].url)(t, "state_set", `{"channel":"doc:x","key":"a","data":`+string(rune('0'+round))+`}`)
		if !strings.Contains(set, `"applied":true`) {
			t.Fatal(set)
		}
		edges[0].kill()
		got := overHTTP(edges[1].url)(t, "state_get", `{"channel":"doc:x","key":"a","fresh":true}`)
		if !strings.Contains(got, `"data":`+string(rune('0'+round))) {
			t.Errorf("round %d: %s", round, got)
		}
		h.replace(0)
	}
}

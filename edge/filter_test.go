package edge

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/centrifugal/protocol"

	"github.com/headrace/headrace/router"
)

func parseFilter(text string) (*filter, error) {
	var tf protocol.FilterNode
	if err := json.Unmarshal([]byte(text), &tf); err != nil {
		return nil, err
	}
	return newFilter(&tf)
}

func TestFilterMatches(t *testing.T) {
	tags := map[string]string{"team": "eng", "price": "100", "big": "9007199254740993", "odd": "x1", "half": "0.5", "empty": "", "inf": "Inf"}
	for filter, want := range map[string]bool{
		`{"key":"team","cmp":"eq","val":"eng"}`:             true,
		`{"key":"team","cmp":"eq","val":"ENG"}`:             false,
		`{"key":"none","cmp":"eq","val":""}`:                false,
		`{"key":"empty","cmp":"eq","val":""}`:               true,
		`{"key":"team","cmp":"neq","val":"eng"}`:            false,
		`{"key":"none","cmp":"neq","val":"eng"}`:            true,
		`{"key":"team","cmp":"in","vals":["a","eng"]}`:      true,
		`{"key":"team","cmp":"in","vals":["a"]}`:            false,
		`{"key":"none","cmp":"in","vals":[""]}`:             false,
		`{"key":"team","cmp":"nin","vals":["a"]}`:           true,
		`{"key":"team","cmp":"nin","vals":["eng"]}`:         false,
		`{"key":"none","cmp":"nin","vals":["eng"]}`:         true,
		`{"key":"empty","cmp":"ex"}`:                        true,
		`{"key":"none","cmp":"ex"}`:                         false,
		`{"key":"none","cmp":"nex"}`:                        true,
		`{"key":"empty","cmp":"nex"}`:                       false,
		`{"key":"team","cmp":"sw","val":"en"}`:              true,
		`{"key":"team","cmp":"sw","val":"ng"}`:              false,
		`{"key":"team","cmp":"ew","val":"ng"}`:              true,
		`{"key":"team","cmp":"ew","val":"en"}`:              false,
		`{"key":"team","cmp":"ct","val":"n"}`:               true,
		`{"key":"none","cmp":"ct","val":""}`:                false,
		`{"key":"price","cmp":"lt","val":"100.5"}`:          true,
		`{"key":"price","cmp":"lt","val":"100"}`:            false,
		`{"key":"price","cmp":"lte","val":"1e2"}`:           true,
		`{"key":"price","cmp":"gt","val":"20"}`:             true, // as numbers, not as text
		`{"key":"price","cmp":"gt","val":"100"}`:            false,
		`{"key":"price","cmp":"gte","val":"100"}`:           true,
		`{"key":"half","cmp":"gt","val":"-1"}`:              true,
		`{"key":"big","cmp":"gt","val":"9007199254740992"}`: true, // equal as float64
		`{"key":"odd","cmp":"gt","val":"0"}`:                false,
		`{"key":"inf","cmp":"gt","val":"0"}`:                false,
		`{"key":"none","cmp":"lt","val":"1"}`:               false,
		`{"op":"not","nodes":[{"key":"team","cmp":"ex"}]}`:  false,
		`{"op":"and","nodes":[{"key":"team","cmp":"ex"}]}`:  true,
		`{"op":"or","nodes":[{"key":"a","cmp":"ex"}]}`:      false,
		`{"op":"or","nodes":[{"key":"a","cmp":"ex"},` + `{"op":"and","nodes":[{"key":"team","cmp":"eq","val":"eng"},{"op":"not","nodes":[{"key":"price","cmp":"gt","val":"500"}]}]}]}`: true,
	} {
		f, err := parseFilter(filter)
		if err != nil {
			t.Errorf("%s: %v", filter, err)
		} else if got := f.root.match(tags); got != want {
			t.Errorf("%s is %v, want %v", filter, got, want)
		}
	}
}

func TestFilterRefusals(t *testing.T) {
	const leaf = `{"key":"a","cmp":"ex"}`
	deep := func(n int) string {
		return strings.Repeat(`{"op":"not","nodes":[`, n) + leaf + strings.Repeat(`]}`, n)
	}
	wide := func(n int) string { return `{"op":"and","nodes":[` + strings.Repeat(leaf+`,`, n-1) + leaf + `]}` }
	for name, tt := range map[string]struct {
		filter string
		code   router.Code // "" is none
	}{
		"as deep as may be":           {deep(maxFilterDepth - 1), ""},
		"too deep":                    {deep(maxFilterDepth), router.CodeLimit},
		"as wide as may be":           {wide(maxFilterNodes - 1), ""},
		"too wide":                    {wide(maxFilterNodes), router.CodeLimit},
		"too many values":             {`{"key":"a","cmp":"in","vals":["` + strings.Repeat(`x","`, maxFilterNodes) + `"]}`, router.CodeLimit},
		"too long":                    {`{"key":"a","cmp":"eq","val":"` + strings.Repeat("x", maxFilterBytes) + `"}`, router.CodeLimit},
		"no comparison":               {`{"key":"a"}`, router.CodeInvalid},
		"an unknown comparison":       {`{"key":"a","cmp":"regex","val":"x"}`, router.CodeInvalid},
		"an unknown operation":        {`{"op":"xor","nodes":[` + leaf + `]}`, router.CodeInvalid},
		"no key":                      {`{"cmp":"ex"}`, router.CodeInvalid},
		"an empty and":                {`{"op":"and"}`, router.CodeInvalid},
		"a not of two":                {`{"op":"not","nodes":[` + leaf + `,` + leaf + `]}`, router.CodeInvalid},
		"a comparison with nodes":     {`{"key":"a","cmp":"ex","nodes":[` + leaf + `]}`, router.CodeInvalid},
		"in, of nothing":              {`{"key":"a","cmp":"in"}`, router.CodeInvalid},
		"less than what no number is": {`{"key":"a","cmp":"lt","val":"0x10"}`, router.CodeInvalid},
		"a missing node":              {`{"op":"and","nodes":[null]}`, router.CodeInvalid},
	} {
		_, err := parseFilter(tt.filter)
		if tt.code == "" && err != nil || tt.code != "" && (err == nil || router.CodeOf(err) != tt.code) {
			t.Errorf("%s: %v, want %q", name, err, tt.code)
		}
	}
}

func FuzzFilter(f *testing.F) {
	f.Add([]byte(`{"op":"or","nodes":[{"key":"a","cmp":"in","vals":["b"]},{"op":"not","nodes":[{"key":"n","cmp":"lte","val":"1e3"}]}]}`), "a", "b")
	f.Fuzz(func(t *testing.T, data []byte, key, val string) {
		var tf protocol.FilterNode
		if json.Unmarshal(data, &tf) != nil && tf.UnmarshalVT(data) != nil {
			return
		}
		got, err := newFilter(&tf)
		if err != nil {
			if c := router.CodeOf(err); c != router.CodeInvalid && c != router.CodeLimit {
				t.Fatalf("error %v", err)
			}
			return
		}
		again, _ := newFilter(&tf)
		if got.key != again.key {
			t.Fatal("the same filter has two keys")
		}
		tags := map[string]string{key: val}
		not, err := newFilter(&protocol.FilterNode{Op: "not", Nodes: []*protocol.FilterNode{&tf}})
		if err == nil && not.root.match(tags) == got.root.match(tags) {
			t.Fatal("not changes nothing")
		}
	})
}

// A filter counts in the state, in what was missed and live; positions are those of
// the channel.
func TestFilterInEveryPhase(t *testing.T) {
	f := newFakeMaps(router.MapOptions{Mode: router.MapPersistent})
	eng, sales := map[string]string{"team": "eng"}, map[string]string{"team": "sales"}
	f.set("a", "1", eng)
	f.set("b", "2", sales)
	s, sess, tr := mapSession(t, f, nil)
	const only = `,"tf":{"key":"team","cmp":"eq","val":"eng"}}}`
	got := unsetTime.ReplaceAllString(ask(s, sess, tr, `{"id":2,"subscribe":{"channel":"m","type":1,"phase":2`+only), `"time":0`)
	if want := `{"id":2,"subscribe":{"recoverable":true,"epoch":"e","offset":2,"positioned":true,"type":1,"state":[{"data":1,"offset":1,"tags":{"team":"eng"},"time":0,"key":"a","version":1}]}}`; got != want {
		t.Errorf("state: got %s, want %s", got, want)
	}
	f.set("c", "3", sales)
	f.set("d", "4", eng)
	f.set("b", "", nil)
	want := []string{
		`{"push":{"channel":"m","pub":{"data":4,"offset":4,"tags":{"team":"eng"},"key":"d","version":1}}}`,
		`{"push":{"channel":"m","pub":{"offset":5,"key":"b","removed":true,"version":2}}}`,
	}
	if got := tr.take(); !slices.Equal(got, want) {
		t.Errorf("live: got %q, want %q", got, want)
	}
	f.set("d", "5", sales) // no longer what is wanted
	f.set("c", "5", eng)
	want = []string{
		`{"push":{"channel":"m","pub":{"offset":6,"key":"d","removed":true,"version":2}}}`,
		`{"push":{"channel":"m","pub":{"data":5,"offset":7,"tags":{"team":"eng"},"key":"c","version":2}}}`,
	}
	if got := tr.take(); !slices.Equal(got, want) {
		t.Errorf("live, tags that change: got %q, want %q", got, want)
	}
	f.set("e", "6", sales)
	ask(s, sess, tr, `{"id":3,"unsubscribe":{"channel":"m"}}`)
	f.set("f", "7", eng)
	f.set("g", "8", sales)
	got = ask(s, sess, tr, `{"id":2,"subscribe":{"channel":"m","type":1,"phase":1,"recover":true,"epoch":"e","offset":7`+only)
	if want := `{"id":2,"subscribe":{"recoverable":true,"epoch":"e","publications":[{"data":7,"offset":9,"tags":{"team":"eng"},"key":"f","version":1}],"recovered":true,"offset":10,"positioned":true,"was_recovering":true,"type":1}}`; got != want {
		t.Errorf("recovery: got %s, want %s", got, want)
	}
}

// A filter works for streams as well, and leaves joins and leaves alone.
func TestFilterOfAStream(t *testing.T) {
	f := newFakeRouter()
	f.ns.TagsFilter = true
	f.result = router.SubscribeResult{Recovered: true, WasRecovering: true, Position: router.Position{Offset: 3, Epoch: "e"},
		Publications: []*router.Publication{{Offset: 2, Data: []byte(`2`)}, {Offset: 3, Data: []byte(`3`), Tags: map[string]string{"a": "1"}}}}
	s := newTestServer(t, f, nil)
	sess, tr := newTestSession(s, jsonWS)
	ask(s, sess, tr, `{"id":1,"connect":{}}`)
	got := ask(s, sess, tr, `{"id":2,"subscribe":{"channel":"x","recover":true,"offset":1,"epoch":"e","tf":{"key":"a","cmp":"ex"}}}`)
	if want := `{"id":2,"subscribe":{"epoch":"e","publications":[{"data":3,"offset":3,"tags":{"a":"1"}}],"recovered":true,"offset":1,"was_recovering":true}}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	b := &router.Batch{Channel: "x", Pushes: []router.Push{
		{Pub: &router.Publication{Offset: 4, Data: []byte(`4`)}}, {Join: &router.ClientInfo{Client: "c"}}}}
	for sub := range f.subs["x"] {
		sub.Subscriber.Deliver(sub, b)
	}
	if got := tr.take(); len(got) != 1 || got[0] != `{"push":{"channel":"x","join":{"info":{"user":"","client":"c"}}}}` {
		t.Errorf("live: got %q", got)
	}
}

// A batch is filtered and encoded once for all who have the same filter, and nothing
// is allocated for each of them.
func TestFilterIsEvaluatedOnceForAll(t *testing.T) {
	s := newTestServer(t, newFakeRouter(), nil)
	encoded := 0
	encode := s.encode[jsonWS]
	s.encode[jsonWS] = func(b *router.Batch) []byte { encoded++; return encode(b) }
	var subs []*router.Subscription
	for range 100 {
		sess := newSession(s, jsonWS, nowhere{}, time.Time{})
		f, err := parseFilter(`{"key":"a","cmp":"eq","val":"1"}`)
		if err != nil {
			t.Fatal(err)
		}
		subs = append(subs, &router.Subscription{Channel: "x", Subscriber: sess.subscriber(&invitation{filter: f})})
	}
	b := &router.Batch{Channel: "x"}
	for i := range 10 {
		b.Pushes = append(b.Pushes, router.Push{Pub: &router.Publication{Data: []byte(`1`), Tags: map[string]string{"a": fmt.Sprint(i)}}})
	}
	deliver := func() {
		for _, sub := range subs {
			sub.Subscriber.Deliver(sub, b)
		}
	}
	deliver()
	if encoded != 1 {
		t.Errorf("encoded %d times", encoded)
	}
	if n := testing.AllocsPerRun(10, deliver); n != 0 {
		t.Errorf("%v allocations for 100 deliveries", n)
	}
}

// nowhere is a transport to nowhere.
type nowhere struct{}

func (nowhere) Send([]byte)      {}
func (nowhere) Close(disconnect) {}

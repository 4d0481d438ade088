package router

import (
	"encoding/json"
	"fmt"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// The examples of RFC 7396, appendix A.
func TestMergePatchExamples(t *testing.T) {
	for _, tt := range []struct{ target, patch, want string }{
		{`{"a":"b"}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"b"}`, `{"b":"c"}`, `{"a":"b","b":"c"}`},
		{`{"a":"b"}`, `{"a":null}`, `{}`},
		{`{"a":"b","b":"c"}`, `{"a":null}`, `{"b":"c"}`},
		{`{"a":["b"]}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"c"}`, `{"a":["b"]}`, `{"a":["b"]}`},
		{`{"a":{"b":"c"}}`, `{"a":{"b":"d","c":null}}`, `{"a":{"b":"d"}}`},
		{`{"a":[{"b":"c"}]}`, `{"a":[1]}`, `{"a":[1]}`},
		{`["a","b"]`, `["c","d"]`, `["c","d"]`},
		{`{"a":"b"}`, `["c"]`, `["c"]`},
		{`{"a":"foo"}`, `null`, `null`},
		{`{"a":"foo"}`, `"bar"`, `"bar"`},
		{`{"e":null}`, `{"a":1}`, `{"a":1,"e":null}`},
		{`[1,2]`, `{"a":"b","c":null}`, `{"a":"b"}`},
		{`{}`, `{"a":{"bb":{"ccc":null}}}`, `{"a":{"bb":{}}}`},
		// Ours: nothing there, and values that must come through as they are.
		{``, `{"a":1,"b":null}`, `{"a":1}`},
		{`{"big":12345678901234567890.10}`, `{"s":"<&>"}`, `{"big":12345678901234567890.10,"s":"<&>"}`},
	} {
		got, err := mergePatch([]byte(tt.target), []byte(tt.patch))
		if err != nil || string(got) != tt.want {
			t.Errorf("%s patched with %s is %s (%v), want %s", tt.target, tt.patch, got, err, tt.want)
		}
	}
}

// jsonValue generates JSON values; depth bounds nesting.
func jsonValue(depth int) *rapid.Generator[any] {
	leaf := rapid.OneOf(
		rapid.Just[any](nil),
		rapid.Map(rapid.Bool(), func(b bool) any { return b }),
		rapid.Map(rapid.IntRange(-9, 9), func(i int) any { return float64(i) }),
		rapid.Map(rapid.SampledFrom([]string{"", "x", "é"}), func(s string) any { return s }),
	)
	if depth == 0 {
		return leaf
	}
	member := jsonValue(depth - 1)
	return rapid.OneOf(
		leaf,
		rapid.Map(rapid.SliceOfN(member, 0, 3), func(s []any) any { return s }),
		rapid.Map(rapid.MapOfN(rapid.SampledFrom([]string{"a", "b", "c"}), member, 0, 3), func(m map[string]any) any { return m }),
	)
}

func patched(t *rapid.T, target, patch any) any {
	encode := func(v any) []byte {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	out, err := mergePatch(encode(target), encode(patch))
	if err != nil {
		t.Fatal(err)
	}
	var v any
	if err := json.Unmarshal(out, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestMergePatchProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		target, patch := jsonValue(3).Draw(t, "target"), jsonValue(3).Draw(t, "patch")
		got := patched(t, target, patch)
		if again := patched(t, got, patch); !reflect.DeepEqual(again, got) {
			t.Fatalf("patched twice: %v, once: %v", again, got)
		}
		p, isObject := patch.(map[string]any)
		if !isObject {
			if !reflect.DeepEqual(got, patch) {
				t.Fatalf("a patch that is no object replaces: %v", got)
			}
			return
		}
		g := got.(map[string]any)
		before, _ := target.(map[string]any)
		for _, name := range []string{"a", "b", "c"} {
			value, named := p[name]
			have, there := g[name]
			old, was := before[name]
			switch {
			case named && value == nil && there:
				t.Fatalf("%q was not removed", name)
			case !named && (there != was || !reflect.DeepEqual(have, old)):
				t.Fatalf("%q changed from %v to %v", name, old, have)
			}
		}
	})
}

// What is stored after a number of changes does not depend on the order in which they
// arrive, as long as their times differ.
func TestLastWriteWinsConverges(t *testing.T) {
	ns := Namespace{Name: "m", Map: &MapOptions{}}
	rapid.Check(t, func(t *rapid.T) {
		times := rapid.SliceOfNDistinct(rapid.Int64Range(1, 1000), 1, 8, rapid.ID[int64]).Draw(t, "times")
		var changes []Change
		for i, at := range times {
			remove := rapid.Bool().Draw(t, fmt.Sprint("remove ", i))
			changes = append(changes, Change{Data: fmt.Append(nil, at), Time: at, Remove: remove, Strategy: StrategyLastWriteWins})
		}
		run := func(changes []Change) StateEntry {
			var cur StateEntry
			for _, c := range changes {
				d, err := ns.decide(&c)(cur)
				if err != nil {
					t.Fatal(err)
				}
				if d.Refuse == "" {
					cur = StateEntry{Version: cur.Version + 1, Data: d.Data, Removed: d.Remove, ClientTime: c.Time}
				}
			}
			return cur
		}
		a, b := run(changes), run(rapid.Permutation(changes).Draw(t, "order"))
		now := time.Now()
		if a.Present(now) != b.Present(now) || string(a.Data) != string(b.Data) {
			t.Fatalf("one order gives %+v, another %+v", a, b)
		}
	})
}

func TestDecide(t *testing.T) {
	now := time.Now()
	stored := StateEntry{Version: 3, Life: "l", Data: []byte(`{"a":1}`), ClientTime: 100}
	expired, removed := stored, StateEntry{Version: 4, Life: "l", Removed: true, ClientTime: 200}
	expired.Expires = now.Add(-time.Second)
	for name, tt := range map[string]struct {
		cur  StateEntry
		c    Change
		want Decision
	}{
		"reject applies what expects nothing":                {stored, Change{Data: []byte("1")}, Decision{Data: []byte("1")}},
		"reject applies what expects the version":            {stored, Change{Data: []byte("1"), Expect: &Expect{3, "l"}}, Decision{Data: []byte("1")}},
		"reject: another version":                            {stored, Change{Data: []byte("1"), Expect: &Expect{2, "l"}}, Decision{Refuse: ReasonConflict}},
		"reject: the version of another life":                {stored, Change{Data: []byte("1"), Expect: &Expect{3, "m"}}, Decision{Refuse: ReasonConflict}},
		"reject: expected to be absent":                      {stored, Change{Data: []byte("1"), Expect: &Expect{}}, Decision{Refuse: ReasonExists}},
		"an expired key is absent":                           {expired, Change{Data: []byte("1"), Expect: &Expect{}}, Decision{Data: []byte("1")}},
		"an expired version is not current":                  {expired, Change{Data: []byte("1"), Expect: &Expect{3, "l"}}, Decision{Refuse: ReasonConflict}},
		"a removed key is absent":                            {removed, Change{Data: []byte("1"), Expect: &Expect{}}, Decision{Data: []byte("1")}},
		"removing a removed key":                             {removed, Change{Remove: true}, Decision{Refuse: ReasonMissing}},
		"removing an expired key":                            {expired, Change{Remove: true}, Decision{Refuse: ReasonMissing}},
		"lastWriteWins: an older change":                     {stored, Change{Data: []byte("1"), Time: 99, Strategy: StrategyLastWriteWins}, Decision{Refuse: ReasonOlder}},
		"lastWriteWins: older than a removal":                {removed, Change{Data: []byte("1"), Time: 150, Strategy: StrategyLastWriteWins}, Decision{Refuse: ReasonOlder}},
		"lastWriteWins: at the same time":                    {stored, Change{Data: []byte("1"), Time: 100, Strategy: StrategyLastWriteWins}, Decision{Data: []byte("1")}},
		"lastWriteWins: no time":                             {stored, Change{Data: []byte("1"), Strategy: StrategyLastWriteWins}, Decision{Data: []byte("1")}},
		"merge: whatever the version":                        {stored, Change{Data: []byte(`{"b":2}`), Expect: &Expect{1, "x"}, Strategy: StrategyMerge}, Decision{Data: []byte(`{"a":1,"b":2}`)}},
		"merge: an expired value is not merged":              {expired, Change{Data: []byte(`{"b":2}`), Strategy: StrategyMerge}, Decision{Data: []byte(`{"b":2}`)}},
		"lastWriteWins: a removal before anything was there": {StateEntry{}, Change{Remove: true, Time: 50, Strategy: StrategyLastWriteWins}, Decision{Remove: true}},
		"the removal of the expected version":                {stored, Change{Remove: true, Expect: &Expect{3, "l"}}, Decision{Remove: true}},
		"lastWriteWins: a removal older than what is here":   {stored, Change{Remove: true, Time: 50, Strategy: StrategyLastWriteWins}, Decision{Refuse: ReasonOlder}},
	} {
		t.Run(name, func(t *testing.T) {
			ns := Namespace{Map: &MapOptions{MaxValueBytes: 100}}
			got, err := ns.decide(&tt.c)(tt.cur)
			if err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("%+v %v, want %+v", got, err, tt.want)
			}
		})
	}
}

package edge

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/router"
)

const (
	deltaLive   = `{"id":2,"subscribe":{"channel":"m","type":1,"delta":"fossil"`
	deltaState  = deltaLive + `,"phase":2`
	deltaStream = deltaLive + `,"phase":1`
)

var mapDeltas = map[string]struct {
	before func(f *fakeMaps) // what has been set when the client comes
	ask    []string
	after  func(f *fakeMaps)
	want   []string
}{
	"what came with the state is a base": {
		before: func(f *fakeMaps) { f.set("a", long(1), nil); f.set("b", long(2), nil) },
		ask:    []string{deltaState + `}}`},
		after:  func(f *fakeMaps) { f.set("a", long(3), nil); f.set("b", long(4), nil); f.set("c", long(5), nil) },
		want:   []string{long(1), long(2), "Δ" + long(3), "Δ" + long(4), long(5)},
	},
	"unless it may have expired before": {
		before: func(f *fakeMaps) {
			f.set("a", long(1), nil)
			e := f.keys["a"]
			e.Expires = time.Now().Add(-time.Second) // and nobody has removed it
			f.keys["a"] = e
		},
		ask:   []string{deltaState + `}}`},
		after: func(f *fakeMaps) { f.set("a", long(2), nil); f.set("a", long(3), nil) },
		want:  []string{long(1), long(2), "Δ" + long(3)}, // the fake tells expired keys, a router does not
	},
	"what came in an earlier page is none": {
		before: func(f *fakeMaps) { f.set("a", long(1), nil); f.set("b", long(2), nil) },
		ask:    []string{deltaState + `,"limit":1}}`, deltaState + `,"limit":1,"cursor":"a","offset":2,"epoch":"e"}}`},
		after:  func(f *fakeMaps) { f.set("a", long(3), nil); f.set("b", long(4), nil); f.set("b", long(5), nil) },
		want:   []string{long(1), long(2), long(3), long(4), "Δ" + long(5)},
	},
	"what was missed is whole, then deltas, live ones too": {
		before: func(f *fakeMaps) {
			f.set("a", long(1), nil)
			f.set("a", long(2), nil)
			f.set("a", long(3), nil)
			f.set("b", long(4), nil)
		},
		ask:   []string{deltaStream + `,"recover":true,"offset":1,"epoch":"e"}}`},
		after: func(f *fakeMaps) { f.set("a", long(5), nil); f.set("b", long(6), nil) },
		want:  []string{long(2), "Δ" + long(3), long(4), "Δ" + long(5), "Δ" + long(6)},
	},
	"a client that asks for no state has no bases": {
		before: func(f *fakeMaps) { f.set("a", long(1), nil) },
		ask:    []string{deltaLive + `}}`},
		after:  func(f *fakeMaps) { f.set("a", long(2), nil); f.set("a", long(3), nil) },
		want:   []string{long(2), "Δ" + long(3)},
	},
	"a removal is told, and ends the base": {
		before: func(f *fakeMaps) { f.set("a", long(1), nil) },
		ask:    []string{deltaState + `}}`},
		after:  func(f *fakeMaps) { f.set("a", "", nil); f.set("a", long(1), nil); f.set("a", long(2), nil) },
		want:   []string{long(1), "-", long(1), "Δ" + long(2)},
	},
	"a change while the page is read is a delta to what the page has": {
		before: func(f *fakeMaps) { f.set("a", long(1), nil); f.late = func() { f.set("a", long(2), nil) } },
		ask:    []string{deltaState + `}}`},
		after:  func(f *fakeMaps) { f.set("a", long(3), nil) },
		want:   []string{long(1), "Δ" + long(2), "Δ" + long(3)},
	},
}

func TestDeltasOfAMap(t *testing.T) {
	for name, test := range mapDeltas {
		for _, k := range []kind{jsonWS, protobufWS} {
			t.Run(name+" "+k.String(), func(t *testing.T) {
				f := newFakeMaps(router.MapOptions{Mode: router.MapPersistent})
				f.ns.DeltaTypes = []string{router.DeltaFossil}
				test.before(f)
				s := newTestServer(t, f, nil)
				sess, tr := newTestSession(s, k)
				for _, text := range append([]string{`{"id":1,"connect":{}}`}, test.ask...) {
					command(t, sess, text)
					settle(s, sess)
				}
				test.after(f)
				c := &deltaClient{k: k}
				for _, frame := range tr.take() {
					c.take(t, frame)
				}
				if !slices.Equal(c.seen, test.want) {
					t.Errorf("saw %q, want %q", c.seen, test.want)
				}
			})
		}
	}
}

// Removals are parsed by SDKs as all else.
func TestRemovalAmongDeltasIsJSON(t *testing.T) {
	f := newFakeMaps(router.MapOptions{Mode: router.MapPersistent})
	f.ns.DeltaTypes = []string{router.DeltaFossil}
	s, sess, tr := mapSession(t, f, nil)
	ask(s, sess, tr, stateFrame+`,"delta":"fossil"}}`)
	f.set("a", "1", nil)
	f.set("a", "", nil)
	want := []string{
		`{"push":{"channel":"m","pub":{"data":"1","offset":1,"key":"a","version":1}}}`,
		`{"push":{"channel":"m","pub":{"data":"null","offset":2,"key":"a","removed":true,"version":2}}}`,
	}
	if got := tr.take(); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Clients that come in all ways while keys are set and removed see exactly what is
// published, and get deltas.
func TestDeltasOfMapsAreNeverWrong(t *testing.T) {
	for seed := range uint64(8) {
		r := rand.New(rand.NewPCG(seed, 2))
		f := newFakeMaps(router.MapOptions{Mode: router.MapPersistent})
		f.ns.DeltaTypes = []string{router.DeltaFossil}
		s := newTestServer(t, f, nil)
		type member struct {
			*deltaClient
			tr   *fakeTransport
			from int // in the feed
		}
		var members []*member
		for n := 1; n < 150; n++ {
			key, data := fmt.Sprint("k", r.IntN(5)), long(n)
			if r.IntN(6) == 0 {
				data = ""
			}
			f.set(key, data, nil)
			if r.IntN(10) > 0 {
				continue
			}
			m := &member{deltaClient: &deltaClient{k: kind(r.IntN(2))}, from: len(f.feed)}
			sess, tr := newTestSession(s, m.k)
			m.tr = tr
			text := `,"phase":2}}`
			if r.IntN(2) == 0 {
				m.from = max(len(f.feed)-r.IntN(20), 0)
				text = fmt.Sprintf(`,"phase":1,"recover":true,"epoch":"e","offset":%d}}`, m.from)
			} else if r.IntN(2) == 0 {
				f.late = func() { f.set("k0", long("0"), nil) }
			}
			command(t, sess, `{"id":1,"connect":{}}`)
			command(t, sess, `{"id":2,"subscribe":{"channel":"m","type":1,"delta":"fossil"`+text)
			settle(s, sess)
			members = append(members, m)
		}
		deltas := 0
		for _, m := range members {
			frames := m.tr.take()
			for _, frame := range frames {
				m.take(t, frame)
			}
			var want []string
			for _, p := range f.feed[m.from:] {
				if p.Removed {
					want = append(want, "-")
				} else {
					want = append(want, string(p.Data))
				}
			}
			if len(m.seen) < len(want) {
				t.Fatalf("seed %d: saw %d of %d", seed, len(m.seen), len(want))
			}
			for i, got := range m.seen[len(m.seen)-len(want):] {
				data, isDelta := strings.CutPrefix(got, "Δ")
				if isDelta {
					deltas++
				}
				if data != want[i] {
					t.Fatalf("seed %d: saw %q, want %q", seed, data, want[i])
				}
			}
		}
		if len(members) > 3 && deltas < 20 {
			t.Errorf("seed %d: %d deltas only", seed, deltas)
		}
	}
}

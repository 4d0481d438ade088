package edge

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/centrifugal/protocol"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	fdelta "github.com/shadowspore/fossil-delta"

	"github.com/headrace/headrace/router"
)

// deltaClient does what an SDK does with deltas, and relies on no more than a server
// may: the bases of what came before the last subscribe are forgotten.
type deltaClient struct {
	k    kind
	base map[string][]byte
	plan bool     // deltas were promised
	seen []string // data, "-" for a removal; "Δ" in front when it came as a delta
}

func (c *deltaClient) take(t *testing.T, frame string) {
	t.Helper()
	var dec protocol.ReplyDecoder = protocol.NewJSONReplyDecoder([]byte(frame))
	if c.k == protobufWS {
		dec = protocol.NewProtobufReplyDecoder([]byte(frame))
	}
	for {
		r, err := dec.Decode()
		if r != nil {
			c.reply(t, r)
		}
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func (c *deltaClient) reply(t *testing.T, r *protocol.Reply) {
	t.Helper()
	switch {
	case r.Error != nil:
		t.Fatal(r.Error)
	case r.Subscribe != nil:
		c.base, c.plan = make(map[string][]byte), r.Subscribe.Delta
		for _, p := range append(r.Subscribe.State, r.Subscribe.Publications...) {
			c.publication(t, p)
		}
	case r.Push != nil && r.Push.Pub != nil:
		c.publication(t, r.Push.Pub)
	}
}

func (c *deltaClient) publication(t *testing.T, p *protocol.Publication) {
	t.Helper()
	data, mark := []byte(p.Data), ""
	if c.plan && c.k == jsonWS {
		var text string
		if err := json.Unmarshal(p.Data, &text); err != nil {
			t.Fatalf("data %s: %v", p.Data, err)
		}
		data = []byte(text)
	}
	if p.Delta {
		base, ok := c.base[p.Key]
		if !ok {
			t.Fatalf("a delta of %q to nothing", p.Key)
		}
		var err error
		if data, err = fdelta.Apply(base, data); err != nil {
			t.Fatalf("delta %q to %q: %v", p.Data, base, err)
		}
		mark = "Δ"
	}
	c.base[p.Key] = data
	if p.Removed {
		delete(c.base, p.Key)
		data = []byte("-")
	}
	c.seen = append(c.seen, mark+string(data))
}

// long is JSON with n in it and much beside.
func long(n any) string {
	return fmt.Sprintf(`{"n":%v,"text":"what is the same in all of them, größer als nötig"}`, n)
}

func pubs(data ...string) []*router.Publication {
	var out []*router.Publication
	for _, d := range data {
		out = append(out, &router.Publication{Data: []byte(d)})
	}
	return out
}

func TestDeltasOfAStream(t *testing.T) {
	offered := []string{router.DeltaFossil}
	other := `"` + strings.Repeat("other ", 8) + `"`
	for name, test := range map[string]struct {
		types     []string
		payload   router.Payload
		more      string // of the subscribe command
		recovered []*router.Publication
		live      [][]*router.Publication // batches
		want      []string
	}{
		"the first is whole, those that follow are not": {types: offered,
			live: [][]*router.Publication{pubs(long(1)), pubs(long(2)), pubs(long(3))}, want: []string{long(1), "Δ" + long(2), "Δ" + long(3)}},
		"within a batch as well": {types: offered,
			live: [][]*router.Publication{pubs(long(1), long(2), long(3)), pubs(long(4))}, want: []string{long(1), "Δ" + long(2), "Δ" + long(3), "Δ" + long(4)}},
		"those of the answer follow each other, and live ones follow them": {types: offered,
			recovered: pubs(long(1), long(2)), live: [][]*router.Publication{pubs(long(3))}, want: []string{long(1), "Δ" + long(2), "Δ" + long(3)}},
		"what has little in common goes whole, and is the next base": {types: offered,
			live: [][]*router.Publication{pubs(long(1)), pubs(other), pubs(other)}, want: []string{long(1), other, "Δ" + other}},
		"a namespace that does not offer them": {
			live: [][]*router.Publication{pubs(long(1)), pubs(long(2))}, want: []string{long(1), long(2)}},
		"an unknown kind of delta": {types: offered, more: `,"delta":"other"`,
			live: [][]*router.Publication{pubs(long(1)), pubs(long(2))}, want: []string{long(1), long(2)}},
		"with a tags filter there are none": {types: offered, more: `,"delta":"fossil","tf":{"key":"a","cmp":"nex"}`,
			live: [][]*router.Publication{pubs(long(1)), pubs(long(2))}, want: []string{long(1), long(2)}},
		"bytes that are no JSON are whole, as a base and as a delta": {types: offered, payload: router.PayloadAny,
			live: [][]*router.Publication{pubs(long(1)), pubs(long(2) + "\xff"), pubs(long(3) + "\xff"), pubs(long(4)), pubs(long(5))},
			want: []string{long(1), "?", "?", long(4), "Δ" + long(5)}},
	} {
		for _, k := range []kind{jsonWS, protobufWS} {
			t.Run(name+" "+k.String(), func(t *testing.T) {
				f := newFakeRouter()
				f.ns.DeltaTypes, f.ns.TagsFilter = test.types, true
				if f.ns.Payload = test.payload; test.payload == "" {
					f.ns.Payload = router.PayloadJSON
				}
				f.result = router.SubscribeResult{Recovered: test.recovered != nil, Publications: test.recovered}
				s := newTestServer(t, f, nil)
				sess, tr := newTestSession(s, k)
				if test.more == "" {
					test.more = `,"delta":"fossil"`
				}
				command(t, sess, `{"id":1,"connect":{}}`)
				command(t, sess, `{"id":2,"subscribe":{"channel":"a"`+test.more+`}}`)
				settle(s, sess)
				for _, batch := range test.live {
					f.deliver("a", batch...)
				}
				c := &deltaClient{k: k}
				for _, frame := range tr.take() {
					c.take(t, frame)
				}
				for i, want := range test.want {
					if i >= len(c.seen) || want != "?" && c.seen[i] != want {
						t.Fatalf("saw %q, want %q", c.seen, test.want)
					}
				}
			})
		}
	}
}

// command hands a JSON command to a session of any kind.
func command(t *testing.T, sess *session, text string) {
	t.Helper()
	if sess.kind == jsonWS {
		sess.onFrame([]byte(text))
		return
	}
	var cmd protocol.Command
	if err := json.Unmarshal([]byte(text), &cmd); err != nil {
		t.Fatal(err)
	}
	b, err := protocol.NewProtobufCommandEncoder().Encode(&cmd)
	if err != nil {
		t.Fatal(err)
	}
	sess.onFrame(b)
}

// The frames as they are on the wire.
func TestDeltaFrames(t *testing.T) {
	f := newFakeRouter()
	f.ns.DeltaTypes = []string{router.DeltaFossil}
	s := newTestServer(t, f, nil)
	sess, tr := newTestSession(s, jsonWS)
	ask(s, sess, tr, `{"id":1,"connect":{}}`)
	if got, want := ask(s, sess, tr, `{"id":2,"subscribe":{"channel":"a","delta":"fossil"}}`), `{"id":2,"subscribe":{"delta":true}}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	f.deliver("a", pubs(`{"a":"<äöü> is what there is to say","n":1}`, `{"a":"<äöü> is what there is to say","n":22}`)...)
	want := `{"push":{"channel":"a","pub":{"data":"{\"a\":\"<äöü> is what there is to say\",\"n\":1}"}}}
{"push":{"channel":"a","pub":{"data":"k\nh@0,3:22}2UCiHB;","delta":true}}}`
	if got := strings.Join(tr.take(), "\n"); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// Every subscriber has the base that it has; those who have the same share one frame,
// and a delivery to them allocates nothing.
func TestADeltaIsMadeOnceForAll(t *testing.T) {
	s := newTestServer(t, newFakeRouter(), nil)
	encoded := 0
	encode := s.encodeDelta[jsonWS]
	s.encodeDelta[jsonWS] = func(b *router.Batch) []byte { encoded++; return encode(b) }
	ns := &router.Namespace{Payload: router.PayloadJSON, DeltaTypes: []string{router.DeltaFossil}}
	maps := &router.Namespace{Payload: router.PayloadJSON, DeltaTypes: []string{router.DeltaFossil}, Map: &router.MapOptions{}}
	for name, ns := range map[string]*router.Namespace{"stream": ns, "map": maps} {
		var subs []*router.Subscription
		for range 100 {
			sess := newSession(s, jsonWS, nowhere{}, time.Time{})
			subs = append(subs, &router.Subscription{Channel: "x", Subscriber: sess.subscriber(&invitation{ns: ns, delta: true})})
		}
		var b *router.Batch
		deliver := func() {
			for _, sub := range subs {
				sub.Subscriber.Deliver(sub, b)
			}
		}
		for n, want := range []int{1, 1, 2} {
			if n == 2 { // somebody joined
				sess := newSession(s, jsonWS, nowhere{}, time.Time{})
				sub := sess.subscriber(&invitation{ns: ns, delta: true})
				if v, ok := sub.(*mapDelta); ok {
					v.since = 2
				}
				subs = append(subs, &router.Subscription{Channel: "x", Subscriber: sub})
			}
			b = &router.Batch{Channel: "x", Pushes: []router.Push{{Pub: pubs(long(n))[0]}}}
			if ns.Map != nil {
				b.Pushes[0].Before = &router.StateEntry{Offset: uint64(n), Data: []byte(long(n - 1))}
			}
			before := counted(s.metrics.reduced.deltaIn)
			if encoded = 0; n == 0 {
				before -= float64(len(long(n))) // a stream has no base yet
			}
			deliver()
			if encoded != want {
				t.Errorf("%s %d: encoded %d times, want %d", name, n, encoded, want)
			}
			if got := counted(s.metrics.reduced.deltaIn) - before; n > 0 && got != float64(len(long(n))) {
				t.Errorf("%s %d: deltas of %v bytes were made, want those of one publication", name, n, got)
			}
		}
		subs = subs[:100]
		if v, ok := subs[0].Subscriber.(*streamDelta); ok {
			same := v.base
			if n := testing.AllocsPerRun(10, func() {
				for _, sub := range subs {
					sub.Subscriber.(*streamDelta).base = same
				}
				deliver()
			}); n > 0 {
				t.Errorf("%s: %v allocations for 100 deliveries", name, n)
			}
		} else if n := testing.AllocsPerRun(10, deliver); n > 0 {
			t.Errorf("%s: %v allocations for 100 deliveries", name, n)
		}
	}
}

// deltaMember is a client of that test and what it is to see.
type deltaMember struct {
	*deltaClient
	sess *session
	tr   *fakeTransport
	want []string
}

// judge compares what m saw with what it was to see, and returns how many deltas came.
func (m *deltaMember) judge(t *testing.T, seed uint64) (deltas int) {
	t.Helper()
	for _, frame := range m.tr.take() {
		m.take(t, frame)
	}
	for i, got := range m.seen {
		data, isDelta := strings.CutPrefix(got, "Δ")
		if isDelta {
			deltas++
		}
		m.seen[i] = data
		if b := []byte(m.want[i]); m.k == jsonWS && !jsonOnOneLine(b) {
			m.want[i] = string(jsonPublication(&router.Publication{Data: b}).Data)
		}
	}
	if !slices.Equal(m.seen, m.want) {
		t.Fatalf("seed %d: saw %q, want %q", seed, m.seen, m.want)
	}
	return deltas
}

// Subscribers that join at any time, of both kinds, with deltas, with a filter and
// without, and lose some of the batches to a floor: all see exactly what is published.
func TestDeltasAreNeverWrong(t *testing.T) {
	for seed := range uint64(8) {
		r := rand.New(rand.NewPCG(seed, 1))
		f := newFakeRouter()
		f.ns.DeltaTypes, f.ns.TagsFilter, f.ns.Payload = []string{router.DeltaFossil}, true, []router.Payload{router.PayloadJSON, router.PayloadAny}[seed%2]
		s := newTestServer(t, f, nil)
		var members []*deltaMember
		published := pubs(long(0))
		join := func() {
			m := &deltaMember{deltaClient: &deltaClient{k: kind(r.IntN(2))}}
			m.sess, m.tr = newTestSession(s, m.k)
			missed := published[r.IntN(len(published)):]
			f.result = router.SubscribeResult{Recovered: true, Publications: missed}
			command(t, m.sess, `{"id":1,"connect":{}}`)
			command(t, m.sess, `{"id":2,"subscribe":{"channel":"a","delta":"fossil"`+[]string{"", "", `,"tf":{"key":"no","cmp":"nex"}`}[r.IntN(3)]+`}}`)
			settle(s, m.sess)
			for _, p := range missed {
				m.want = append(m.want, string(p.Data))
			}
			members = append(members, m)
		}
		for n := 1; n < 60; n++ {
			if r.IntN(4) == 0 {
				join()
			}
			var batch []*router.Publication
			for range 1 + r.IntN(3) {
				data := long(r.IntN(1000))
				switch r.IntN(8) {
				case 0:
					data = fmt.Sprintf(`["%d"]`, n)
				case 1:
					data = strings.Replace(data, "größer", strings.Repeat("ä€😀", r.IntN(9)), 1)
				case 2:
					if f.ns.Payload == router.PayloadAny {
						data += "\n\xff"
					}
				}
				batch = append(batch, pubs(data)...)
			}
			published = append(published, batch...)
			f.deliver("a", batch...)
			for _, m := range members {
				for _, p := range batch {
					m.want = append(m.want, string(p.Data))
				}
			}
		}
		deltas := 0
		for _, m := range members {
			deltas += m.judge(t, seed)
		}
		if deltas < 100 {
			t.Errorf("seed %d: %d deltas only", seed, deltas)
		}
	}
}

func FuzzQuoteJSON(f *testing.F) {
	f.Add("a\"b\\c\n\x00<ä\u2028")
	f.Fuzz(func(t *testing.T, text string) {
		text = strings.ToValidUTF8(text, "?")
		var got string
		if err := json.Unmarshal(quoteJSON([]byte(text)), &got); err != nil || got != text {
			t.Fatalf("%q became %q: %v", text, got, err)
		}
	})
}

// 320 bytes are a size class of the allocator; see session.
func TestSizeOfASession(t *testing.T) {
	if n := unsafe.Sizeof(session{}); n > 320 {
		t.Errorf("a session has %d bytes", n)
	}
}

// counted returns the value of a counter.
func counted(c prometheus.Counter) float64 {
	var m dto.Metric
	if c.Write(&m) != nil {
		return -1
	}
	return m.GetCounter().GetValue()
}

func byteSize(n int) string { return fmt.Sprintf("%d_bytes", n) }

// document is JSON of about size bytes.
func document(size int) []byte {
	var b bytes.Buffer
	b.WriteString(`[{"id":0}`)
	for i, x := 1, uint32(7); b.Len() < size-1; i++ {
		x = x*1664525 + 1013904223
		fmt.Fprintf(&b, `,{"id":%d,"name":"item %x","price":%d.5,"tags":["a","b"]}`, i, x, x>>20)
	}
	return append(b.Bytes(), ']')
}

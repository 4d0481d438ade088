package persistence

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headrace/headrace/internal/natstest"
	"github.com/headrace/headrace/router"
)

func TestConformance(t *testing.T) {
	conform(t, func(t *testing.T, env *environment) {
		for _, tt := range []struct {
			name string
			f    func(t *testing.T, env *environment)
		}{
			{"W1 numbers are dense under contention", denseUnderContention},
			{"W1 many waiting appends keep their order", waitingKeepOrder},
			{"an id is stored once", idStoredOnce},
			{"the ring keeps the last N and reads are unbroken runs", ringKeepsLast},
			{"W5 clear racing with appends never loses the head", clearNeverLosesHead},
			{"W5 a key without entries is born into a new life", newLife},
			{"J2 a head is never stale", headNeverStale},
			{"J1 moved finds lost tails, new lives and clears", movedFindsAll},
			{"W4 forged server headers do not win", forgedHeaders},
			{"live copies decode to what is stored", liveCopies},
			{"large entries are read in pages, too large ones refused", largeEntries},
			{"W6 a plain publish goes into the log", plainPublish},
		} {
			t.Run(tt.name, func(t *testing.T) { tt.f(t, env) })
		}
	})
}

func denseUnderContention(t *testing.T, env *environment) {
	const writers, each = 4, 15
	stores := env.stores(t, 3)
	var mu sync.Mutex
	got := map[string][]uint64{}
	var wg sync.WaitGroup
	for i, s := range stores {
		l := logOf(t, s)
		for w := range writers {
			wg.Go(func() {
				key := fmt.Sprintf("dense.%d", w%2)
				var prev uint64
				for n := range each {
					a, err := put(l, key, router.NewEntry{Data: []byte(fmt.Sprint(i, w, n))})
					if err != nil || a.Duplicate || a.Number <= prev {
						t.Errorf("append: %+v after %d, %v", a, prev, err)
						return
					}
					prev = a.Number
					mu.Lock()
					got[key] = append(got[key], a.Number)
					mu.Unlock()
				}
			})
		}
	}
	wg.Wait()
	for key, n := range got {
		slices.Sort(n)
		if want := through(1, 3*writers/2*each); !slices.Equal(n, want) {
			t.Errorf("%s: numbers %v", key, n)
		}
	}
}

func waitingKeepOrder(t *testing.T, env *environment) {
	const n = 300
	l := logOf(t, env.stores(t, 1)[0])
	var wg sync.WaitGroup
	wg.Add(n)
	answers := make([]router.Appended, n)
	for i := range n {
		// Every 50th has an id that was stored before: its batch falls apart, the
		// others in it must not.
		id := ""
		if i%50 == 49 {
			id = "again"
		}
		l.Append("k", router.NewEntry{ID: id, Data: []byte(fmt.Sprint(i))}, func(a router.Appended, err error) {
			if err != nil {
				t.Errorf("append %d: %v", i, err)
			}
			answers[i] = a
			wg.Done()
		})
	}
	wg.Wait()
	var want uint64
	for i, a := range answers {
		if i%50 == 49 && i != 49 {
			if !a.Duplicate {
				t.Errorf("append %d with a known id: %+v", i, a)
			}
			continue
		}
		if want++; a.Number != want || a.Duplicate {
			t.Fatalf("append %d: %+v, want number %d", i, a, want)
		}
	}
	h := mustHead(t, l, "k")
	run := mustRead(t, l, "k", 0, h)
	if !slices.Equal(numbers(run), through(want-7, want)) {
		t.Errorf("numbers %v up to %d", numbers(run), want)
	}
	for i, e := range run {
		if i > 0 && e.Seq != run[i-1].Seq+1 {
			t.Errorf("sequence %d after %d", e.Seq, run[i-1].Seq)
		}
	}
}

func idStoredOnce(t *testing.T, env *environment) {
	s := env.stores(t, 2)
	a, b := logOf(t, s[0]), logOf(t, s[1])
	first, err := put(a, "k", router.NewEntry{ID: "x", Data: []byte("1")})
	if err != nil || first.Duplicate || first.Number != 1 {
		t.Fatalf("first: %+v %v", first, err)
	}
	again, err := put(b, "k", router.NewEntry{ID: "x", Data: []byte("1")})
	if err != nil || again != (router.Appended{Number: 1, Epoch: first.Epoch, Duplicate: true}) {
		t.Errorf("again: %+v %v", again, err)
	}
	for range 8 {
		mustPut(t, a, "k", "2")
	}
	again, err = put(b, "k", router.NewEntry{ID: "x", Data: []byte("1")})
	if err != nil || !again.Duplicate || again.Number != 0 {
		t.Errorf("after eviction: %+v %v", again, err)
	}
	if n := mustPut(t, b, "k", "3").Number; n != 10 {
		t.Errorf("next number %d, want 10", n)
	}
}

func ringKeepsLast(t *testing.T, env *environment) {
	l := logOf(t, env.stores(t, 1)[0])
	if h := mustHead(t, l, "k"); h.Number != 0 {
		t.Fatalf("head of an empty key: %+v", h)
	}
	for i := range uint64(20) {
		mustPut(t, l, "k", fmt.Sprint(i+1))
		h := mustHead(t, l, "k")
		if h.Number != i+1 || string(h.Data) != fmt.Sprint(i+1) || h.Time.IsZero() || h.ID == "" {
			t.Fatalf("head %+v", h)
		}
		for after := range i + 1 {
			run := mustRead(t, l, "k", after, h)
			want := through(max(after+1, min(i+1, i-min(i, 6))), i+1)
			if i < 8 {
				want = through(after+1, i+1)
			}
			if !slices.Equal(numbers(run), want) {
				t.Fatalf("head %d, after %d: %v, want %v", i+1, after, numbers(run), want)
			}
			for _, e := range run {
				if string(e.Data) != fmt.Sprint(e.Number) || e.Life != h.Life {
					t.Fatalf("entry %+v", e)
				}
			}
		}
	}
	old := mustHead(t, l, "k")
	for range 8 {
		mustPut(t, l, "k", "x")
	}
	if _, err := l.Read(t.Context(), "k", 0, old); router.CodeOf(err) != router.CodeConflict {
		t.Errorf("read up to an overwritten head: %v, want a conflict", err)
	}
	if run := mustRead(t, l, "k", 28, mustHead(t, l, "k")); len(run) != 0 {
		t.Errorf("read after the head: %v", numbers(run))
	}
}

func clearNeverLosesHead(t *testing.T, env *environment) {
	s := env.stores(t, 2)
	a, b := logOf(t, s[0]), logOf(t, s[1])
	mustPut(t, a, "k", "0")
	epoch := mustPut(t, a, "k", "0").Epoch
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var appended []uint64
	wg.Go(func() {
		for ctx.Err() == nil {
			r, err := put(a, "k", router.NewEntry{Data: []byte("1")})
			if err != nil || r.Epoch != epoch {
				t.Errorf("append: %+v %v, want epoch %s", r, err, epoch)
				return
			}
			appended = append(appended, r.Number)
		}
	})
	var markers []uint64
	for range 10 {
		m, err := b.Clear(t.Context(), "k")
		if err != nil || !m.Cleared {
			t.Fatalf("clear: %+v %v", m, err)
		}
		markers = append(markers, m.Number)
		if h := mustHead(t, b, "k"); h.Number < m.Number {
			t.Errorf("head %d after marker %d", h.Number, m.Number)
		}
	}
	stop()
	wg.Wait()
	all := append(append([]uint64{1, 2}, appended...), markers...)
	slices.Sort(all)
	if h := mustHead(t, b, "k"); !slices.Equal(all, through(1, h.Number)) {
		t.Errorf("numbers up to %d: %v", h.Number, all)
	}
	m, err := a.Clear(t.Context(), "k")
	if err != nil {
		t.Fatal(err)
	}
	mustPut(t, a, "k", "2")
	h := mustHead(t, a, "k")
	run := mustRead(t, a, "k", 0, h)
	if !slices.Equal(numbers(run), through(m.Number, m.Number+1)) || !run[0].Cleared || run[1].Cleared {
		t.Errorf("after a clear: %+v", run)
	}
	if m, err := a.Clear(t.Context(), "empty"); err != nil || m.Number != 0 {
		t.Errorf("clear of an empty key: %+v %v", m, err)
	}
}

// purge removes all traces of key, as retention does in time.
func purge(t *testing.T, s *Store, key string) {
	t.Helper()
	p := s.logs["n"].of(key)
	js, err := s.js.Stream(t.Context(), p.name)
	if err != nil {
		t.Fatal(err)
	}
	if err := js.Purge(t.Context(), jetstream.WithPurgeSubject(p.filter(key))); err != nil {
		t.Fatal(err)
	}
}

func newLife(t *testing.T, env *environment) {
	s := env.stores(t, 2)
	a, b := logOf(t, s[0]), logOf(t, s[1])
	first := mustPut(t, a, "k", "1")
	mustPut(t, a, "k", "2")
	purge(t, s[0], "k")
	second := mustPut(t, a, "k", "1") // a remembers a head that is gone
	if second.Number != 1 || second.Epoch == first.Epoch {
		t.Errorf("after the end of its life: %+v, before: %+v", second, first)
	}
	if h := mustHead(t, b, "k"); h.Number != 1 || router.LifeEpoch(b.Incarnation("k"), h.Life) != second.Epoch {
		t.Errorf("head %+v, want %+v", h, second)
	}
	if a.Incarnation("k") != b.Incarnation("k") || a.Incarnation("k") == "" {
		t.Errorf("incarnations %q and %q", a.Incarnation("k"), b.Incarnation("k"))
	}
}

func headNeverStale(t *testing.T, env *environment) {
	s := env.stores(t, 3)
	for i := range uint64(60) {
		mustPut(t, logOf(t, s[i%3]), "k", "x")
		l := logOf(t, s[(i+1)%3])
		h := mustHead(t, l, "k")
		if h.Number != i+1 {
			t.Fatalf("head %d, want %d", h.Number, i+1)
		}
		if run := mustRead(t, l, "k", h.Number-1, h); len(run) != 1 {
			t.Fatalf("read of the head: %v", numbers(run))
		}
		if l.LastSeq("k") < h.Seq {
			t.Errorf("last sequence %d is below the head's %d", l.LastSeq("k"), h.Seq)
		}
	}
}

func movedFindsAll(t *testing.T, env *environment) {
	s := env.stores(t, 2)
	a, b := logOf(t, s[0]), logOf(t, s[1])
	state, err := b.State(t.Context(), "still")
	if err != nil {
		t.Fatal(err)
	}
	marks := []router.Mark{{Key: "empty", Seq: state.LastSeq}, {Key: "born", Seq: state.LastSeq}}
	keys := []string{"still", "one", "many", "wrapped", "reborn", "cleared", "cleared-late", "gone"}
	for i, key := range keys {
		for range i + 1 {
			mustPut(t, a, key, "0")
		}
		h := mustHead(t, b, key)
		marks = append(marks, router.Mark{Key: key, Number: h.Number, Seq: h.Seq})
	}
	check := func(want ...string) {
		t.Helper()
		moved, rewound, err := b.Moved(t.Context(), marks)
		slices.Sort(moved)
		slices.Sort(want)
		if err != nil || rewound || !slices.Equal(moved, want) {
			t.Errorf("moved %v, rewound %v, %v; want %v", moved, rewound, err, want)
		}
	}
	check()
	mustPut(t, a, "born", "1")
	mustPut(t, a, "one", "1")
	for range 5 {
		mustPut(t, a, "many", "1")
		mustPut(t, a, "cleared-late", "1")
	}
	for range 21 {
		mustPut(t, a, "wrapped", "1")
	}
	purge(t, s[0], "reborn")
	mustPut(t, a, "reborn", "1")
	for _, key := range []string{"cleared", "cleared-late"} {
		if _, err := a.Clear(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	purge(t, s[0], "gone")
	check("born", "one", "many", "wrapped", "reborn", "cleared", "cleared-late")

	marks = append(marks, router.Mark{Key: "x", Number: 9, Seq: 1 << 40})
	if _, rewound, err := b.Moved(t.Context(), marks); err != nil || !rewound {
		t.Errorf("a mark above the last sequence: rewound %v, %v", rewound, err)
	}
}

func forgedHeaders(t *testing.T, env *environment) {
	s := env.stores(t, 1)[0]
	l, p := logOf(t, s), s.logs["n"].of("k")
	live, err := s.nc.SubscribeSync(l.LiveSubject("k"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	w := writer{p: p, key: "k"}
	m := w.message(&router.Entry{Number: 1, Life: "l", ID: "i", Data: []byte("{}")}, 0)
	m.Header["Nats-Sequence"] = []string{"77"}
	m.Header["Nats-Time-Stamp"] = []string{"2001-01-01T00:00:00Z"}
	m.Header["Nats-Stream"] = []string{"OTHER"}
	ack, err := w.send(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	copied, err := live.NextMsgWithContext(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	e, err := l.DecodeLive(copied)
	if err != nil || e.Seq != ack.Seq || e.Time.Year() == 2001 {
		t.Errorf("live copy: %+v %v", e, err)
	}
	run := mustRead(t, l, "k", 0, mustHead(t, l, "k"))
	if len(run) != 1 || run[0].Seq != ack.Seq || run[0].Time.Year() == 2001 {
		t.Errorf("read: %+v", run)
	}
}

func liveCopies(t *testing.T, env *environment) {
	s := env.stores(t, 2)
	l := logOf(t, s[0])
	live, err := s[1].nc.SubscribeSync(l.LiveSubject("a.b"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s[1].nc.Flush(); err != nil {
		t.Fatal(err)
	}
	meta := router.Meta{Tags: map[string]string{"naïve tag": "ü\nx"}}.Encode()
	if _, err := put(l, "a.b", router.NewEntry{ID: "id 1", Meta: meta, Data: []byte("payload")}); err != nil {
		t.Fatal(err)
	}
	var got router.Entry
	if env.cluster == nil { // in a cluster interest may arrive after the entry
		m, err := live.NextMsgWithContext(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got, err = l.DecodeLive(m); err != nil {
			t.Fatal(err)
		}
		h := mustHead(t, l, "a.b")
		if !got.Time.Equal(h.Time) || got.ID != h.ID || got.Seq != h.Seq || string(got.Meta) != string(meta) ||
			string(got.Data) != "payload" || got.Number != 1 || got.Life != h.Life {
			t.Errorf("live %+v, head %+v", got, h)
		}
	}
}

func plainPublish(t *testing.T, env *environment) {
	s := env.stores(t, 2)
	l, nc, prefix := logOf(t, s[0]), env.conn(0), s[0].cfg.Prefix
	for _, m := range []struct{ channel, data string }{
		{"news.eu", "{\"a\":\n1}"}, {"news.eu", "{bad"}, {"bad.%zz", "1"},
	} {
		if _, err := nc.Request(prefix+".in.n."+m.channel, []byte(m.data), readTimeout); err != nil {
			t.Fatal(err)
		}
	}
	live, err := s[0].js.OrderedConsumer(t.Context(), strings.ToUpper(prefix)+"_DEAD_in", jetstream.OrderedConsumerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	reasons := map[string]string{}
	for range 2 {
		m, err := live.Next()
		if err != nil {
			t.Fatal(err)
		}
		reasons[m.Headers().Get(headerOriginSubject)] = m.Headers().Get(headerReason)
	}
	if r := reasons[prefix+".in.n.news.eu"]; !strings.Contains(r, "JSON") {
		t.Errorf("reasons %v", reasons)
	}
	eventuallyHead(t, l, "news.eu", 1)
	if h := mustHead(t, l, "news.eu"); string(h.Data) != `{"a":1}` {
		t.Errorf("stored %q", h.Data)
	}
}

func largeEntries(t *testing.T, env *environment) {
	l := logOf(t, env.stores(t, 1)[0])
	const size = 900 << 10 // eight of them take two pages
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Add(1)
		l.Append("k", router.NewEntry{Data: bytes.Repeat([]byte{byte('a' + i)}, size)}, func(a router.Appended, err error) {
			defer wg.Done()
			if err != nil || a.Number != uint64(i+1) {
				t.Errorf("append: %+v %v", a, err)
			}
		})
	}
	tooLarge := make(chan error, 1)
	l.Append("k", router.NewEntry{Data: make([]byte, 1<<20+1)}, func(_ router.Appended, err error) { tooLarge <- err })
	wg.Wait()
	if err := <-tooLarge; router.CodeOf(err) != router.CodeLimit {
		t.Errorf("too large: %v", err)
	}
	run := mustRead(t, l, "k", 0, mustHead(t, l, "k"))
	if !slices.Equal(numbers(run), through(1, 8)) {
		t.Fatalf("numbers %v", numbers(run))
	}
	for i, e := range run {
		if len(e.Data) != size || e.Data[0] != byte('a'+i) {
			t.Errorf("entry %d: %d bytes", e.Number, len(e.Data))
		}
	}
}

// TestW6RedeliveryIsStoredOnce hands one message to the log twice, as happens
// when an edge dies between storing and acknowledging.
func TestW6RedeliveryIsStoredOnce(t *testing.T) {
	srv := natstest.Run(t)
	s := start(t, srv.Conn(ConnectOptions()...), Config{Namespaces: namespaces(false)})
	other := start(t, srv.Conn(ConnectOptions()...), Config{Namespaces: namespaces(false)})
	l := logOf(t, s)
	m := &redelivered{subject: "hr.in.n.k", data: []byte("1"), acked: make(chan struct{}, 2)}
	for _, edge := range []*Store{s, other} {
		edge.ingest.take(m)
		<-m.acked
	}
	if h := mustHead(t, l, "k"); h.Number != 1 {
		t.Errorf("head %d after a redelivery, want 1", h.Number)
	}
}

// redelivered is a message of the ingest consumer.
type redelivered struct {
	jetstream.Msg
	subject string
	data    []byte
	acked   chan struct{}
}

func (m *redelivered) Metadata() (*jetstream.MsgMetadata, error) {
	return &jetstream.MsgMetadata{Sequence: jetstream.SequencePair{Stream: 7}, NumDelivered: 1}, nil
}
func (m *redelivered) Subject() string { return m.subject }
func (m *redelivered) Data() []byte    { return m.data }
func (m *redelivered) Ack() error      { m.acked <- struct{}{}; return nil }

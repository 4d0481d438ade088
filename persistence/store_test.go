package persistence

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headrace/headrace/internal/natstest"
	"github.com/headrace/headrace/persistence/internal/jet"
	"github.com/headrace/headrace/router"
)

func TestLayoutIsNotChanged(t *testing.T) {
	srv := natstest.Run(t)
	cfg := Config{Namespaces: namespaces(false)}
	start(t, srv.Conn(ConnectOptions()...), cfg)
	for name, change := range map[string]func(*router.Namespace){
		"history_size": func(ns *router.Namespace) { ns.HistorySize = 9 },
		"partitions":   func(ns *router.Namespace) { ns.Partitions = 2 },
	} {
		other := Config{Namespaces: namespaces(false)}
		change(&other.Namespaces[0])
		_, err := Open(t.Context(), srv.Conn(ConnectOptions()...), other)
		var layout *jet.LayoutError
		if !errors.As(err, &layout) || !strings.Contains(err.Error(), name) {
			t.Errorf("another %s: %v", name, err)
		}
	}
}

func TestReconcile(t *testing.T) {
	stream := func(version string, age time.Duration, replicas int) jetstream.StreamConfig {
		return jetstream.StreamConfig{
			Name: "S", MaxAge: age, Replicas: replicas, Duplicates: time.Minute, Subjects: []string{"a.>"},
			Metadata: map[string]string{jet.MetaVersion: version, jet.MetaIncarnation: "i" + version},
		}
	}
	for name, tt := range map[string]struct {
		have, want jetstream.StreamConfig
		change     bool
		age        time.Duration
		replicas   int
	}{
		"the same changes nothing":       {stream("1", time.Hour, 3), stream("1", time.Hour, 3), false, time.Hour, 3},
		"limits grow":                    {stream("1", time.Hour, 1), stream("1", 2*time.Hour, 3), true, 2 * time.Hour, 3},
		"limits do not shrink":           {stream("1", 2*time.Hour, 3), stream("1", time.Hour, 1), false, 2 * time.Hour, 3},
		"a newer edge's stream is kept":  {stream("2", time.Hour, 1), stream("1", 2*time.Hour, 3), false, time.Hour, 1},
		"an older one's is brought up":   {stream("0", time.Hour, 1), stream("1", time.Hour, 1), true, time.Hour, 1},
		"for ever does not become hours": {stream("1", 0, 1), stream("1", time.Hour, 1), false, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			next, change, err := jet.Reconcile(tt.have, tt.want)
			if err != nil || change != tt.change || next.MaxAge != tt.age || next.Replicas != tt.replicas {
				t.Errorf("changes %v to %+v, %v", change, next, err)
			}
			if next.Metadata[jet.MetaIncarnation] != tt.have.Metadata[jet.MetaIncarnation] {
				t.Errorf("incarnation became %q", next.Metadata[jet.MetaIncarnation])
			}
		})
	}
}

// TestW2OutageEndsInATemporaryError runs in virtual time: the server is gone for
// longer than an append waits.
func TestW2OutageEndsInATemporaryError(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		srv := natstest.Run(t)
		s := startIn(t, srv, Config{Namespaces: namespaces(true), MaxQueuedPerKey: 3, MaxQueuedBytes: 2000})
		l := logOf(t, s)
		mustPut(t, l, "k", "1")
		if err := s.Healthy(); err != nil {
			t.Errorf("healthy: %v", err)
		}
		srv.Stop()
		begin := time.Now()
		var wg sync.WaitGroup
		codes := make(chan router.Code, 20)
		for range 10 {
			wg.Add(1)
			l.Append("k", router.NewEntry{Data: []byte("2")}, func(_ router.Appended, err error) {
				codes <- router.CodeOf(err)
				wg.Done()
			})
		}
		wg.Add(1)
		l.Append("other", router.NewEntry{Data: make([]byte, 2000)}, func(_ router.Appended, err error) {
			codes <- router.CodeOf(err)
			wg.Done()
		})
		wg.Wait()
		close(codes)
		got := map[router.Code]int{}
		for c := range codes {
			got[c]++
		}
		// One or a batch of up to three is under way, three wait, the rest is refused.
		if n := got[router.CodeUnavailable]; n < 3 || n > 6 || n+got[router.CodeLimit] != 11 {
			t.Errorf("answers %v", got)
		}
		if took, bound := time.Since(begin), 3*s.cfg.PublishTimeout; took < s.cfg.PublishTimeout || took > bound {
			t.Errorf("answered after %v, want %v to %v", took, s.cfg.PublishTimeout, bound)
		}
		if err := s.Healthy(); router.CodeOf(err) != router.CodeUnavailable {
			t.Errorf("healthy without a leader: %v", err)
		}
		if used := s.streams[0].budget.used.Load(); used != 0 {
			t.Errorf("%d bytes of the budget are still taken", used)
		}
	})
}

// TestW5RetentionEndsALife runs in virtual time.
func TestW5RetentionEndsALife(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		srv := natstest.Run(t)
		s := startIn(t, srv, Config{Namespaces: namespaces(true)})
		l := logOf(t, s)
		first := mustPut(t, l, "k", "1")
		time.Sleep(2 * time.Hour) // retention is one
		if h := mustHead(t, l, "k"); h.Number != 0 {
			t.Errorf("head after retention: %+v", h)
		}
		if a := mustPut(t, l, "k", "1"); a.Number != 1 || a.Epoch == first.Epoch {
			t.Errorf("after retention: %+v, before: %+v", a, first)
		}
	})
}

// startIn is start for a bubble: it ends the store before the bubble does.
func startIn(t *testing.T, srv *natstest.Server, cfg Config) *Store {
	t.Helper()
	nc := srv.Conn(ConnectOptions()...)
	t.Cleanup(nc.Close)
	return start(t, nc, cfg)
}

func TestClosingAnswersEveryAppend(t *testing.T) {
	srv := natstest.Run(t)
	s, err := Open(t.Context(), srv.Conn(ConnectOptions()...), Config{Namespaces: namespaces(false)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	l := logOf(t, s)
	var wg sync.WaitGroup
	for range 1000 {
		wg.Add(1)
		l.Append("k", router.NewEntry{Data: []byte("1")}, func(_ router.Appended, err error) {
			if err != nil && router.CodeOf(err) != router.CodeUnavailable {
				t.Errorf("append: %v", err)
			}
			wg.Done()
		})
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("run: %v", err)
	}
	wg.Wait()
	if _, err := put(l, "k", router.NewEntry{}); router.CodeOf(err) != router.CodeUnavailable {
		t.Errorf("append after the end: %v", err)
	}
}

func TestPartitionsActAsOneLog(t *testing.T) {
	srv := natstest.Run(t)
	cfg := Config{Namespaces: namespaces(true)}
	cfg.Namespaces[0].Partitions = 3
	s := start(t, srv.Conn(ConnectOptions()...), cfg)
	l := logOf(t, s)
	var marks []router.Mark
	var want []string
	used := map[string]bool{}
	for i := range 20 {
		key := "k." + strconv.Itoa(i)
		live, err := s.nc.SubscribeSync(l.LiveSubject(key))
		if err != nil {
			t.Fatal(err)
		}
		mustPut(t, l, key, "1")
		h := mustHead(t, l, key)
		marks = append(marks, router.Mark{Key: key, Number: h.Number, Seq: h.Seq})
		m, err := live.NextMsgWithContext(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if e, err := l.DecodeLive(m); err != nil || e.Seq != h.Seq || e.Number != 1 {
			t.Errorf("%s: live %+v, %v, head %+v", key, e, err, h)
		}
		if i%2 == 0 {
			mustPut(t, l, key, "2")
			want = append(want, key)
		}
		used[l.Incarnation(key)] = true
	}
	moved, rewound, err := l.Moved(t.Context(), marks)
	slices.Sort(moved)
	slices.Sort(want)
	if err != nil || rewound || !slices.Equal(moved, want) {
		t.Errorf("moved %v, rewound %v, %v; want %v", moved, rewound, err, want)
	}
	if len(used) != 3 {
		t.Errorf("%d of 3 partitions are used", len(used))
	}
}

func FuzzDecodeLive(f *testing.F) {
	f.Add([]byte("NATS/1.0\r\nHeadrace-Number: 7\r\nHeadrace-Life: l\r\nNats-Msg-Id: i\r\nNats-Sequence: 9\r\n" +
		"Nats-Time-Stamp: 2026-11-21T01:36:18.625245337Z\r\nNats-Stream: HR_LOG_n_0\r\nNats-Subject: hr.log.n.0.k.7\r\n\r\n"))
	f.Add([]byte("NATS/1.0\r\nHeadrace-Number: 0\r\n\r\n"))
	f.Add([]byte("NATS/1.0 404 x\r\n\r\n"))
	p := &stream{name: "HR_LOG_n_0", subjects: "hr.log.n.0."}
	p.heads = newHeads(4)
	l := &numberedLog{streams: []*stream{p}}
	f.Fuzz(func(t *testing.T, header []byte) {
		h, err := nats.DecodeHeadersMsg(header)
		if err != nil {
			return
		}
		e, err := l.DecodeLive(&nats.Msg{Header: h})
		if err != nil {
			return
		}
		if e.Number == 0 || e.Life == "" || e.Seq == 0 {
			t.Errorf("accepted %+v", e)
		}
		again, err := decodeEntry(encodeHeader(&e), nil)
		if err != nil || again.Number != e.Number || again.Life != e.Life || string(again.Meta) != string(e.Meta) || again.Cleared != e.Cleared {
			t.Errorf("%+v came back as %+v, %v", e, again, err)
		}
	})
}

// TestW6MessageOfADeadEdgeIsNotLate runs in virtual time: an edge took a plain
// publish and was never heard of again.
func TestW6MessageOfADeadEdgeIsNotLate(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		srv := natstest.Run(t)
		dead := srv.Conn()
		opening, err := Open(t.Context(), srv.Conn(ConnectOptions()...), Config{Namespaces: namespaces(true)}) // makes the streams
		if err != nil {
			t.Fatal(err)
		}
		opening.req.Close()
		js, err := jetstream.New(dead)
		if err != nil {
			t.Fatal(err)
		}
		c, err := js.CreateConsumer(t.Context(), "HR_IN", ingestConsumerConfig())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := js.Publish(t.Context(), "hr.in.n.k", []byte("1")); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Next(); err != nil {
			t.Fatal(err)
		}
		l := logOf(t, startIn(t, srv, Config{Namespaces: namespaces(true)}))
		time.Sleep(ingestAckWait + 2*time.Second)
		if h := mustHead(t, l, "k"); h.Number != 1 {
			t.Errorf("head %d, %v after it was taken", h.Number, ingestAckWait+2*time.Second)
		}
	})
}

// TestW6SlowStoreKeepsItsMessage runs in virtual time: as long as an edge works on
// a message, it says so before anybody else would get it.
func TestW6SlowStoreKeepsItsMessage(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		s := startIn(t, natstest.Run(t), Config{Namespaces: namespaces(true)})
		m := &prolonged{}
		s.ingest.hold(m)
		time.Sleep(ingestAckWait)
		s.ingest.release(m)
		if n := m.count.Load(); n < 2 || ingestProgress*2 > ingestAckWait {
			t.Errorf("prolonged %d times within %v", n, ingestAckWait)
		}
		time.Sleep(time.Minute)
		if n := m.count.Load(); n > 4 {
			t.Errorf("prolonged %d times although it was done", n)
		}
	})
}

type prolonged struct {
	jetstream.Msg
	count atomic.Int64
}

func (m *prolonged) InProgress() error { m.count.Add(1); return nil }

// TestW2DuplicateOfAVanishedEntryIsStoredAgain: NATS says that it has stored the id
// before, but does not hold the entry any more although older ones are there. It was
// acknowledged nowhere but here, so it must be stored now.
func TestW2DuplicateOfAVanishedEntryIsStoredAgain(t *testing.T) {
	for name, tt := range map[string]struct {
		after  int // appends that follow the one that is repeated
		remove bool
		want   uint64 // number of the last entry in the end
	}{
		"vanished":       {2, true, 5},
		"still there":    {2, false, 4},
		"overwritten":    {20, false, 22},
		"vanished, last": {0, true, 2},
	} {
		t.Run(name, func(t *testing.T) {
			srv := natstest.Run(t)
			s := start(t, srv.Conn(ConnectOptions()...), Config{Namespaces: namespaces(true)})
			l := logOf(t, s)
			mustPut(t, l, "k", "1")
			if _, err := put(l, "k", router.NewEntry{ID: "x", Data: []byte("2")}); err != nil {
				t.Fatal(err)
			}
			seq := mustHead(t, l, "k").Seq
			for range tt.after {
				mustPut(t, l, "k", "3")
			}
			if tt.remove {
				stream, err := s.js.Stream(t.Context(), "HR_LOG_n_0")
				if err == nil {
					err = stream.DeleteMsg(t.Context(), seq)
				}
				if err != nil {
					t.Fatal(err)
				}
				s.streams[0].heads.Remove("k")
			}
			a, err := put(l, "k", router.NewEntry{ID: "x", Data: []byte("2")})
			if err != nil || a.Duplicate == (tt.remove) {
				t.Errorf("repetition: %+v, %v", a, err)
			}
			if h := mustHead(t, l, "k"); h.Number != tt.want {
				t.Errorf("last number %d, want %d", h.Number, tt.want)
			}
		})
	}
}

// TestStartWaitsForALeader: the server is away for longer than a read waits, while a
// node starts.
func TestStartWaitsForALeader(t *testing.T) {
	srv := natstest.Run(t, natstest.Listen())
	s := start(t, srv.Conn(ConnectOptions()...), Config{Namespaces: namespaces(false), ContactBound: 200 * time.Millisecond})
	srv.Stop()
	reached := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		reached <- s.streams[0].reach(ctx)
	}()
	select {
	case err := <-reached:
		t.Fatalf("gave up: %v", err)
	case <-time.After(5 * s.cfg.ContactBound):
	}
	srv.Restart()
	if err := <-reached; err != nil {
		t.Error(err)
	}
}

// TestW2OvertakenAttemptIsNotRepeated runs in virtual time: an attempt was stored and
// got no answer, the channel has turned around its whole ring since, and NATS has
// forgotten the id.
func TestW2OvertakenAttemptIsNotRepeated(t *testing.T) {
	for name, tt := range map[string]struct {
		after int // appends that followed
		code  router.Code
		want  uint64 // number of the last entry in the end
	}{
		"within the ring": {7, "", 9},
		"around the ring": {8, router.CodeUnavailable, 10},
	} {
		t.Run(name, func(t *testing.T) {
			natstest.Bubble(t, func(t *testing.T) {
				s := startIn(t, natstest.Run(t), Config{Namespaces: namespaces(true), DuplicateWindow: time.Second})
				l := logOf(t, s)
				mustPut(t, l, "k", "1")
				if _, err := put(l, "k", router.NewEntry{ID: "x", Data: []byte("2")}); err != nil {
					t.Fatal(err)
				}
				for range tt.after {
					mustPut(t, l, "k", "3")
				}
				time.Sleep(time.Minute) // virtual: the duplicate window is over
				var got error
				w := writer{p: s.streams[0], key: "k"}
				w.storeOne(&pending{
					entry: router.Entry{ID: "x", Data: []byte("2")}, tried: []uint64{2}, deadline: time.Now().Add(5 * time.Second),
					done: func(_ router.Entry, _ bool, err error) { got = err },
				})
				if h := mustHead(t, l, "k"); h.Number != tt.want || tt.code == "" && got != nil || tt.code != "" && router.CodeOf(got) != tt.code {
					t.Errorf("last number %d, want %d; answered %v", h.Number, tt.want, got)
				}
			})
		})
	}
}

// TestJ2AMajorityMustHaveBeenHeard: what a leader's answer says of its replicas.
func TestJ2AMajorityMustHaveBeenHeard(t *testing.T) {
	for name, tt := range map[string]struct {
		answer string
		want   bool
	}{
		"no replicas":      {`{}`, true},
		"both heard":       {`{"cluster":{"replicas":[{"active":5},{"active":5}]}}`, true},
		"one heard":        {`{"cluster":{"replicas":[{"active":5},{"active":5000000000000}]}}`, true},
		"none for long":    {`{"cluster":{"replicas":[{"active":5000000000000},{"active":5000000000000}]}}`, false},
		"never, restarted": {`{"cluster":{"replicas":[{"active":0},{"active":0}]}}`, false},
		"offline":          {`{"cluster":{"replicas":[{"active":5,"offline":true},{"active":5,"offline":true}]}}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			var a infoAnswer
			if err := json.Unmarshal([]byte(tt.answer), &a); err != nil {
				t.Fatal(err)
			}
			if got := a.quorum(5 * time.Second); got != tt.want {
				t.Errorf("quorum %v", got)
			}
		})
	}
}

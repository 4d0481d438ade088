package persistence

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/headrace/headrace/internal/natstest"
	"github.com/headrace/headrace/router"
)

// deafServer makes connections that lose what the server says next, and break.
type deafServer struct {
	srv   *natstest.Server
	deaf  atomic.Bool
	after atomic.Int32 // so many reads are let through first
}

func (d *deafServer) InProcessConn() (net.Conn, error) {
	c, err := d.srv.InProcessConn()
	return &deafConn{c, d}, err
}

type deafConn struct {
	net.Conn
	d *deafServer
}

func (c *deafConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err == nil && c.d.deaf.Load() && c.d.after.Add(-1) < 0 && c.d.deaf.CompareAndSwap(true, false) {
		c.Close()
		return 0, io.EOF
	}
	return n, err
}

// TestW2LostAckIsNotAFailure loses the acknowledgement of every other append.
// Each must be stored once and answered with its number.
func TestW2LostAckIsNotAFailure(t *testing.T) {
	for _, memory := range []bool{false, true} { // one by one, and in batches
		srv := natstest.Run(t)
		d := &deafServer{srv: srv}
		nc, err := nats.Connect("", append(ConnectOptions(), nats.InProcessServer(d))...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		cfg := Config{Namespaces: namespaces(memory)}
		cfg.Namespaces[0].HistorySize = 100
		s := start(t, nc, cfg)
		l := logOf(t, s)
		var want uint64
		for range 10 {
			d.deaf.Store(true)
			var wg sync.WaitGroup
			for range 3 {
				want++
				n := want
				wg.Add(1)
				l.Append("k", router.NewEntry{Data: []byte(fmt.Sprint(n))}, func(a router.Appended, err error) {
					defer wg.Done()
					if err != nil || a.Number != n || a.Duplicate {
						t.Errorf("append: %+v %v, want number %d", a, err, n)
					}
				})
			}
			wg.Wait()
		}
		h := mustHead(t, l, "k")
		for i, e := range mustRead(t, l, "k", 0, h) {
			if e.Number != uint64(i+1) || string(e.Data) != fmt.Sprint(i+1) {
				t.Errorf("entry %d: %+v", i+1, e)
			}
		}
		if h.Number != want {
			t.Errorf("head %d, want %d", h.Number, want)
		}
		if n := count(s.metrics.attempts[attemptFoundStored]); n == 0 {
			t.Error("no lost acknowledgement was found by looking back; the test is toothless")
		}
	}
}

// writeThrough appends to keys from all stores until stop is called, which
// returns what was acknowledged: data by key and number.
func writeThrough(t *testing.T, stores []*Store) (stop func() map[string]map[uint64]string) {
	ctx, cancel := context.WithCancel(context.Background())
	var mu sync.Mutex
	acked := map[string]map[uint64]string{}
	var wg sync.WaitGroup
	for i, s := range stores {
		l := logOf(t, s)
		for w := range 4 {
			wg.Go(func() {
				key := fmt.Sprintf("k.%d", w%2)
				for n := 0; ctx.Err() == nil; n++ {
					data := fmt.Sprintf("%d-%d-%d", i, w, n)
					a, err := put(l, key, router.NewEntry{Data: []byte(data)})
					if router.CodeOf(err) == router.CodeUnavailable && err != nil {
						continue // it may have been stored
					}
					if err != nil || a.Duplicate {
						t.Errorf("append: %+v %v", a, err)
						return
					}
					mu.Lock()
					if acked[key] == nil {
						acked[key] = map[uint64]string{}
					}
					if other, taken := acked[key][a.Number]; taken {
						t.Errorf("number %d of %s was given to %q and %q", a.Number, key, other, data)
					}
					acked[key][a.Number] = data
					mu.Unlock()
				}
			})
		}
	}
	t.Cleanup(cancel) // of a test that failed: or they go on, without pause once their store is closed
	return func() map[string]map[uint64]string {
		cancel()
		wg.Wait()
		return acked
	}
}

// checkStored compares what was acknowledged with what is stored: entries still
// in the ring hold what their writer was told, and no number is missing.
func checkStored(t *testing.T, l router.Log, acked map[string]map[uint64]string) {
	t.Helper()
	for key, byNumber := range acked {
		h := mustHead(t, l, key)
		var newest uint64
		for n := range byNumber {
			newest = max(newest, n)
		}
		if h.Number < newest {
			t.Errorf("%s: head %d, but %d was acknowledged", key, h.Number, newest)
		}
		run := mustRead(t, l, key, 0, h)
		if want := min(h.Number, router.MaxHistorySize); uint64(len(run)) != want {
			t.Errorf("%s: a run of %d, want %d", key, len(run), want)
		}
		stored := map[string]uint64{}
		for _, e := range run {
			if data, ok := byNumber[e.Number]; ok && data != string(e.Data) {
				t.Errorf("%s: number %d holds %q, acknowledged was %q", key, e.Number, e.Data, data)
			}
			if n, twice := stored[string(e.Data)]; twice {
				t.Errorf("%s: %q is stored as %d and %d", key, e.Data, n, e.Number)
			}
			stored[string(e.Data)] = e.Number
		}
	}
}

// faultStores opens three stores on a ring of 1,000.
func faultStores(t *testing.T, env *environment) []*Store {
	cfg := env.fresh()
	cfg.Namespaces[0].HistorySize = router.MaxHistorySize
	var stores []*Store
	for i := range 3 {
		stores = append(stores, start(t, env.conn(i), cfg))
	}
	return stores
}

// progress waits until some append after the call was stored.
func progress(t *testing.T, s *Store) {
	t.Helper()
	stored := s.metrics.attempts[attemptStored]
	before := count(stored)
	natstest.Eventually(t, 40*time.Second, "progress", func() bool { return count(stored) >= before+20 })
}

func TestW2LeaderChangesLoseNothing(t *testing.T) {
	env := replicated(t)
	stores := faultStores(t, env)
	name := stores[0].streams[0].name
	stop := writeThrough(t, stores)
	rounds := 4
	if testing.Short() {
		rounds = 1
	}
	for range rounds {
		progress(t, stores[0])
		leader := env.cluster.StreamLeader(name)
		if err := env.cluster.Server(leader).JetStreamStepdownStream(server.DEFAULT_GLOBAL_ACCOUNT, name); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range stores {
		progress(t, s)
	}
	checkStored(t, logOf(t, stores[1]), stop())
}

func TestW2LeaderKillLosesNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("elections take 4 to 9 s")
	}
	env := replicated(t)
	stores := faultStores(t, env)
	stop := writeThrough(t, stores)
	progress(t, stores[0])
	leader := env.cluster.StreamLeader(stores[0].streams[0].name)
	env.cluster.Kill(leader)
	for _, s := range stores { // the one on the killed node moves to another
		progress(t, s)
	}
	env.cluster.Start(leader)
	env.cluster.WaitReady()
	progress(t, stores[0])
	checkStored(t, logOf(t, stores[1]), stop())
}

// TestJ2CutOffReplicaIsNotTrusted cuts a node with an edge off. It still answers
// direct gets; the edge must not take that for the truth.
func TestJ2CutOffReplicaIsNotTrusted(t *testing.T) {
	env := replicated(t)
	cfg := env.fresh()
	cfg.ContactBound = 2 * time.Second
	there := start(t, env.cluster.Conn(0, ConnectOptions()...), cfg)
	leader := env.cluster.StreamLeader(there.streams[0].name)
	cut := (leader + 1) % 3
	here := start(t, env.cluster.Conn(cut, ConnectOptions()...), cfg)
	if cut == 0 {
		there = start(t, env.cluster.Conn(leader, ConnectOptions()...), cfg)
	}
	far, near := logOf(t, there), logOf(t, here)
	mustPut(t, far, "k", "1")
	mustPut(t, far, "cleared", "1")
	h, hc := mustHead(t, near, "k"), mustHead(t, near, "cleared")
	marks := []router.Mark{
		{Key: "k", Number: 1, Seq: h.Seq}, {Key: "cleared", Number: 1, Seq: hc.Seq}, {Key: "born", Seq: hc.Seq},
	}
	mustRead(t, near, "k", 0, h)

	env.cluster.Cut(cut)
	mustPut(t, far, "k", "2")
	mustPut(t, far, "born", "1")
	if _, err := far.Clear(t.Context(), "cleared"); err != nil {
		t.Fatal(err)
	}
	newest := mustHead(t, far, "k")
	if _, err := near.Head(t.Context(), "k"); router.CodeOf(err) != router.CodeUnavailable {
		t.Errorf("head without a leader: %v", err)
	}
	if moved, _, err := near.Moved(t.Context(), marks); router.CodeOf(err) != router.CodeUnavailable {
		t.Errorf("moved without a leader: %v %v", moved, err)
	}
	if run, err := near.Read(t.Context(), "k", 0, newest); router.CodeOf(err) != router.CodeUnavailable {
		t.Errorf("read of an entry that the replica lacks: %v %v", numbers(run), err)
	}
	natstest.Eventually(t, 10*time.Second, "report of the lost contact", func() bool { return here.Healthy() != nil })
	if err := there.Healthy(); err != nil {
		t.Errorf("the other side: %v", err)
	}

	env.cluster.Heal(cut)
	natstest.Eventually(t, 30*time.Second, "contact", func() bool { return here.Healthy() == nil })
	var moved []string
	var rewound bool
	var err error
	natstest.Eventually(t, 30*time.Second, "answer after healing", func() bool { // its return may cause an election
		moved, rewound, err = near.Moved(t.Context(), marks)
		return err == nil
	})
	slices.Sort(moved)
	if err != nil || rewound || !slices.Equal(moved, []string{"born", "cleared", "k"}) {
		t.Errorf("after healing: moved %v, rewound %v, %v", moved, rewound, err)
	}
	natstest.Eventually(t, 30*time.Second, "read after healing", func() bool {
		_, err = near.Read(t.Context(), "k", 0, newest)
		return err == nil
	})
	if run := mustRead(t, near, "k", 0, newest); len(run) != 2 {
		t.Errorf("after healing: %v", numbers(run))
	}
}

// TestJ2CutOffLeaderIsNotTrusted cuts a leader off with an edge on its node. It
// believes in itself for longer than the contact bound.
func TestJ2CutOffLeaderIsNotTrusted(t *testing.T) {
	if testing.Short() {
		t.Skip("elections take 4 to 9 s")
	}
	env := replicated(t)
	cfg := env.fresh()
	cfg.ContactBound = 2 * time.Second
	first := start(t, env.cluster.Conn(0, ConnectOptions()...), cfg)
	leader := env.cluster.StreamLeader(first.streams[0].name)
	here := start(t, env.cluster.Conn(leader, ConnectOptions()...), cfg)
	there := start(t, env.cluster.Conn((leader+1)%3, ConnectOptions()...), cfg)
	mustPut(t, logOf(t, here), "k", "1")

	env.cluster.Cut(leader)
	begin := time.Now()
	natstest.Eventually(t, 20*time.Second, "report of the lost majority", func() bool { return here.Healthy() != nil })
	if took := time.Since(begin); took > natstest.Patience(cfg.ContactBound) {
		t.Errorf("reported after %v, the bound is %v", took, cfg.ContactBound)
	}
	if h, err := logOf(t, here).Head(t.Context(), "k"); router.CodeOf(err) != router.CodeUnavailable || err == nil {
		t.Errorf("head from a leader without a majority: %+v %v", h, err)
	}
	mustPut(t, logOf(t, there), "k", "2") // waits for the election
	if h, err := logOf(t, here).Head(t.Context(), "k"); err == nil {
		t.Errorf("head from the old leader: %+v", h)
	}
	env.cluster.Heal(leader)
	eventuallyHead(t, logOf(t, here), "k", 2)
}

// TestJ2StaleReplicaCannotHideEntries answers direct gets as a replica that
// stands still would.
func TestJ2StaleReplicaCannotHideEntries(t *testing.T) {
	for name, reply := range map[string]nats.Header{
		"has nothing": {"Status": {"404"}, "Description": {"No Results"}},
		"is behind": {
			"Status": {"204"}, "Description": {"EOB"}, "Nats-Num-Pending": {"0"},
			"Nats-Last-Sequence": {"0"}, "Nats-UpTo-Sequence": {"1"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			srv := natstest.Run(t)
			cfg := Config{Namespaces: namespaces(false), ContactBound: 200 * time.Millisecond}
			s := start(t, srv.Conn(ConnectOptions()...), cfg)
			l := logOf(t, s)
			mustPut(t, l, "a", "1")
			a := mustHead(t, l, "a")
			mustPut(t, l, "a", "2")
			mustPut(t, l, "b", "1")
			_, err := s.nc.Subscribe("stale", func(m *nats.Msg) {
				_ = m.RespondMsg(&nats.Msg{Header: reply})
			})
			if err != nil {
				t.Fatal(err)
			}
			s.streams[0].subjectDirect = "stale"
			moved, _, err := l.Moved(t.Context(), []router.Mark{
				{Key: "a", Number: 1, Seq: a.Seq}, {Key: "b", Seq: a.Seq}, {Key: "c", Seq: a.Seq},
			})
			slices.Sort(moved)
			if err != nil || !slices.Equal(moved, []string{"a", "b"}) {
				t.Errorf("moved %v, %v", moved, err)
			}
			run, err := l.Read(t.Context(), "a", 0, mustHead(t, l, "a"))
			if router.CodeOf(err) != router.CodeUnavailable {
				t.Errorf("read: %v, %v", numbers(run), err)
			}
		})
	}
}

// TestJ2AnswerWithAHoleIsAskedForAgain: messages of a replica's answer get lost on
// their way, as when a route breaks and comes back. The rest must not pass for all
// there is.
func TestJ2AnswerWithAHoleIsAskedForAgain(t *testing.T) {
	for lost := range 4 {
		t.Run(fmt.Sprintf("message %d", lost), func(t *testing.T) {
			srv := natstest.Run(t)
			s := start(t, srv.Conn(ConnectOptions()...), Config{Namespaces: namespaces(false)})
			l := logOf(t, s)
			for range 4 {
				mustPut(t, l, "k", "1")
			}
			direct, relay, asked := s.streams[0].subjectDirect, srv.Conn(), 0
			_, err := relay.Subscribe("lossy", func(m *nats.Msg) {
				asked++
				sub, err := relay.SubscribeSync(relay.NewInbox())
				if err == nil {
					err = relay.PublishRequest(direct, sub.Subject, m.Data)
				}
				for i := 0; err == nil; i++ {
					var answer *nats.Msg
					if answer, err = sub.NextMsg(5 * time.Second); err != nil {
						break
					}
					if i != lost || asked > 1 {
						err = relay.PublishMsg(&nats.Msg{Subject: m.Reply, Header: answer.Header, Data: answer.Data})
					}
					if isStatus(answer) {
						return
					}
				}
				t.Error(err)
			})
			if err == nil {
				err = relay.Flush()
			}
			if err != nil {
				t.Fatal(err)
			}
			s.streams[0].subjectDirect = "lossy"
			run := mustRead(t, l, "k", 0, mustHead(t, l, "k"))
			if !slices.Equal(numbers(run), through(1, 4)) || asked != 2 {
				t.Errorf("read %v, asked %d times", numbers(run), asked)
			}
		})
	}
}

func TestRestartOfOneServerContinues(t *testing.T) {
	srv := natstest.Run(t, natstest.Listen())
	s := start(t, srv.Conn(ConnectOptions()...), Config{Namespaces: namespaces(false)})
	l := logOf(t, s)
	first := mustPut(t, l, "k", "1")
	srv.Restart()
	again := mustPut(t, l, "k", "2")
	if again.Number != 2 || again.Epoch != first.Epoch {
		t.Errorf("after the restart: %+v, before: %+v", again, first)
	}
	if run := mustRead(t, l, "k", 0, mustHead(t, l, "k")); !slices.Equal(numbers(run), through(1, 2)) {
		t.Errorf("stored %v", numbers(run))
	}
}

// TestMovedOverManyMarks covers several requests with more subjects than one
// answer may hold.
func TestMovedOverManyMarks(t *testing.T) {
	srv := natstest.Run(t)
	s := start(t, srv.Conn(ConnectOptions()...), Config{Namespaces: namespaces(true), PublishTimeout: time.Minute, ContactBound: time.Minute})
	l := logOf(t, s)
	const keys = 1000
	var wg sync.WaitGroup
	wg.Add(9 * keys)
	for i := range 9 * keys {
		l.Append("k."+strconv.Itoa(i%keys), router.NewEntry{Data: []byte("1")}, func(_ router.Appended, err error) {
			if err != nil {
				t.Errorf("append: %v", err)
			}
			wg.Done()
		})
	}
	wg.Wait()
	marks := make([]router.Mark, keys)
	for i := range marks {
		h := mustHead(t, l, "k."+strconv.Itoa(i))
		marks[i] = router.Mark{Key: "k." + strconv.Itoa(i), Number: h.Number, Seq: h.Seq}
	}
	mustPut(t, l, "k.7", "2")
	mustPut(t, l, "k.993", "2")
	moved, _, err := l.Moved(t.Context(), marks)
	slices.Sort(moved)
	if err != nil || !slices.Equal(moved, []string{"k.7", "k.993"}) {
		t.Errorf("moved %v, %v", moved, err)
	}
	if n := count(s.metrics.movedAtLeader); n != 0 {
		t.Errorf("%v chunks were asked of the leader key by key", n)
	}
}

package persistence

import (
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/headrace/headrace/internal/natstest"
	"github.com/headrace/headrace/router"
)

// inboxStands is what matters of an InboxState.
type inboxStands struct {
	cursor, head uint64
	unread       int
	isNew, gone  bool
}

// What retention takes is told to who has not read it, and to nobody else; and a
// device that shows up now and then is not forgotten.
func TestI1RetentionIsTold(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		srv := natstest.Run(t)
		env := &environment{replicas: 1, memory: true, conn: func(int) *nats.Conn { return srv.Conn(ConnectOptions()...) }}
		cfg := Config{Namespaces: []router.Namespace{router.InboxNamespace("in", 5, time.Hour, 1, true)}}
		cfg.Cursors = CursorsConfig{Enabled: true, TTL: 3 * time.Hour, MemoryStorage: true}
		in := openInbox(t, env, 0, cfg)
		send := func(count int) {
			for range count {
				if _, err := in.Send(router.Message{To: "u", Data: []byte("1")})(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		}
		expect := func(when, device string, want inboxStands) {
			t.Helper()
			st, err := in.Open(t.Context(), "u", device)
			if got := (inboxStands{st.Cursor, st.Head.Offset, st.Unread, st.New, st.Gone}); err != nil || got != want {
				t.Errorf("%s, %s: %+v %v, want %+v", when, device, got, err, want)
			}
		}
		ack := func(device string, n uint64) {
			t.Helper()
			if a, err := in.Ack(t.Context(), "u", device, router.Position{Offset: n}); err != nil || a.Cursor != n {
				t.Fatalf("ack %d: %+v %v", n, a, err)
			}
		}
		expect("an empty inbox", "slow", inboxStands{isNew: true})
		expect("and again", "slow", inboxStands{})
		send(2)
		expect("two came", "quick", inboxStands{head: 2, unread: 2, isNew: true})
		expect("two came", "slow", inboxStands{head: 2, unread: 2})
		ack("quick", 2)
		time.Sleep(61 * time.Minute) // virtual time, as below
		expect("they are too old", "slow", inboxStands{head: 2, gone: true})
		expect("they are too old", "quick", inboxStands{cursor: 2, head: 2})
		send(1)
		expect("another came", "slow", inboxStands{head: 3, unread: 1, gone: true})
		expect("another came", "quick", inboxStands{cursor: 2, head: 3, unread: 1})
		ack("slow", 3)
		expect("it was read", "slow", inboxStands{cursor: 3, head: 3})
		send(6)
		expect("more than it keeps", "quick", inboxStands{cursor: 2, head: 9, unread: 5, gone: true})
		expect("more than it keeps", "slow", inboxStands{cursor: 3, head: 9, unread: 5, gone: true})
		ack("quick", 9)
		ack("slow", 9)
		// The stream keeps messages for twice the time; then the inbox begins anew.
		for range 3 {
			time.Sleep(50 * time.Minute)
			expect("nothing happens", "quick", inboxStands{cursor: 9, head: 9, gone: false}.orNew(t, in))
		}
		time.Sleep(time.Hour)
		expect("forgotten by NATS", "slow", inboxStands{isNew: true})
	})
}

// orNew is s while the inbox goes on, and that of a new life afterwards: then
// nobody can tell what was missed.
func (s inboxStands) orNew(t *testing.T, in *router.Inbox) inboxStands {
	t.Helper()
	page, err := in.List(t.Context(), "u", router.ListRequest{Limit: 1, MaxBytes: 1})
	if err != nil {
		t.Fatal(err)
	}
	if page.Head.Offset == 0 {
		return inboxStands{gone: true}
	}
	return s
}

// Acks of one device on one node wait for each other and go together.
func TestI1AcksTakeTurns(t *testing.T) {
	srv := natstest.Run(t)
	env := &environment{replicas: 1, conn: func(int) *nats.Conn { return srv.Conn(ConnectOptions()...) }}
	cfg := withCursors(Config{Namespaces: []router.Namespace{router.InboxNamespace("in", 100, time.Hour, 1, false)}})
	in := openInbox(t, env, 0, cfg)
	const count = 100
	for range count {
		if _, err := in.Send(router.Message{To: "u", Data: []byte("1")})(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	for n := range count {
		wg.Go(func() {
			a, err := in.Ack(t.Context(), "u", "d", router.Position{Offset: uint64(n + 1)})
			if err != nil || a.Cursor < uint64(n+1) {
				t.Errorf("ack %d: %+v %v", n+1, a, err)
			}
		})
	}
	// Two that cannot be: they get their own answer.
	for _, n := range []uint64{count + 1, count + 2} {
		wg.Go(func() {
			if _, err := in.Ack(t.Context(), "u", "d", router.Position{Offset: n}); router.CodeOf(err) != router.CodeInvalid {
				t.Errorf("ack %d: %v", n, err)
			}
		})
	}
	wg.Wait()
	js := start(t, srv.Conn(ConnectOptions()...), cfg).js
	stream, err := js.Stream(t.Context(), "HR_CURSORS")
	if err != nil {
		t.Fatal(err)
	}
	if n := stream.CachedInfo().State.LastSeq; n > count/2 {
		t.Errorf("%d acks took %d writes", count, n)
	}
}

package persistence

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/natstest"
	"github.com/headrace/headrace/router"
)

func withCursors(cfg Config) Config {
	cfg.Cursors = CursorsConfig{Enabled: true, TTL: time.Hour}
	return cfg
}

// A cursor is written by compare-and-set: of writers who saw the same, one wins.
func TestI1CursorsAreComparedAndSet(t *testing.T) {
	conform(t, func(t *testing.T, env *environment) {
		cfg := withCursors(env.fresh())
		cfg.Cursors.MemoryStorage = env.memory
		var edges []router.CursorStore
		for i := range 3 {
			edges = append(edges, start(t, env.conn(i), cfg).Cursors())
		}
		ctx := t.Context()
		if c, err := edges[0].Get(ctx, "u", "d"); err != nil || c != (router.StoredCursor{}) {
			t.Fatalf("nothing there: %+v %v", c, err)
		}
		for round := range uint64(5) {
			seen, err := edges[0].Get(ctx, "u", "d")
			if err != nil || seen.Number != round {
				t.Fatalf("round %d: %+v %v", round, seen, err)
			}
			var wg sync.WaitGroup
			var mu sync.Mutex
			won := 0
			for i := range 12 {
				wg.Go(func() {
					err := edges[i%3].Put(ctx, "u", "d", router.Cursor{Number: round + 1, Epoch: "e"}, seen.Seq)
					mu.Lock()
					defer mu.Unlock()
					if err == nil {
						won++
					} else if router.CodeOf(err) != router.CodeConflict {
						t.Errorf("put: %v", err)
					}
				})
			}
			wg.Wait()
			if won != 1 {
				t.Fatalf("round %d: %d of 12 writers won", round, won)
			}
		}
		checkDevices(t, edges[1])
	})
}

// checkDevices lists and forgets devices with names that NATS would read as syntax.
func checkDevices(t *testing.T, c router.CursorStore) {
	t.Helper()
	ctx := t.Context()
	names := []string{"a.b", "a", "*", ">", "ä ö", "%", "a%2Eb", "d"}
	for i, device := range names {
		if err := c.Put(ctx, "v.w", device, router.Cursor{Number: uint64(i)}, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Put(ctx, "v", "w.d", router.Cursor{Number: 99}, 0); err != nil { // another user's
		t.Fatal(err)
	}
	all := listed(t, c, "v.w", len(names))
	for i, device := range names {
		if all[device].Number != uint64(i) || all[device].Seq == 0 {
			t.Errorf("device %q is listed as %+v", device, all[device])
		}
	}
	stale := all["d"]
	if err := c.Put(ctx, "v.w", "d", router.Cursor{Number: 50}, stale.Seq); err != nil {
		t.Fatal(err)
	}
	for _, device := range []string{"d", "*"} { // d was written meanwhile and stays; * is no wildcard
		if err := c.Forget(ctx, "v.w", device, all[device].Seq); err != nil {
			t.Fatal(err)
		}
	}
	all = listed(t, c, "v.w", len(names)-1)
	if _, there := all["*"]; there || all["d"].Number != 50 {
		t.Errorf("after forgetting: %+v", all)
	}
}

func listed(t *testing.T, c router.CursorStore, user string, count int) map[string]router.StoredCursor {
	t.Helper()
	byName := make(map[string]router.StoredCursor)
	natstest.Eventually(t, 10*time.Second, fmt.Sprintf("list of %d devices", count), func() bool { // a replica may lag
		list, err := c.List(t.Context(), user)
		if err != nil {
			t.Fatal(err)
		}
		clear(byName)
		for _, d := range list {
			byName[d.Device] = d.StoredCursor
		}
		return len(list) == count
	})
	return byName
}

// A device that does not show up is forgotten, one that is written stays.
func TestI1CursorsOfForgottenDevicesGo(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		srv := natstest.Run(t)
		// In memory: files are aged by a clock outside of the bubble (nats-server filestore.go, expireMsgs).
		cfg := withCursors(Config{Namespaces: namespaces(true)})
		cfg.Cursors.MemoryStorage = true
		c := start(t, srv.Conn(ConnectOptions()...), cfg).Cursors()
		for _, device := range []string{"kept", "lost"} {
			if err := c.Put(t.Context(), "u", device, router.Cursor{Number: 7}, 0); err != nil {
				t.Fatal(err)
			}
		}
		for range 3 {
			time.Sleep(40 * time.Minute) // virtual time; the cursors live an hour
			at, err := c.Get(t.Context(), "u", "kept")
			if err == nil {
				err = c.Put(t.Context(), "u", "kept", at.Cursor, at.Seq)
			}
			if err != nil || at.Number != 7 {
				t.Fatalf("kept: %+v %v", at, err)
			}
		}
		if at, err := c.Get(t.Context(), "u", "lost"); err != nil || at.Seq != 0 {
			t.Errorf("lost: %+v %v", at, err)
		}
	})
}

// Acks through several nodes, of any numbers in any order, never move a cursor
// back, and the furthest one holds. Whatever one ack says is the cursor is never
// above a later ack's answer.
func TestI1CursorNeverGoesBack(t *testing.T) {
	conform(t, func(t *testing.T, env *environment) {
		cfg := withCursors(env.fresh())
		cfg.Namespaces = []router.Namespace{router.InboxNamespace("in", 50, time.Hour, 1, env.memory)}
		var inboxes []*router.Inbox
		for i := range 3 {
			inboxes = append(inboxes, openInbox(t, env, i, cfg))
		}
		for n := range 40 {
			if _, err := inboxes[n%3].Send(router.Message{To: "u", Data: []byte("1")})(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		var wg sync.WaitGroup
		for i := range 9 {
			wg.Go(func() {
				last := uint64(0)
				for range 30 {
					n := rand.Uint64N(41)
					a, err := inboxes[i%3].Ack(t.Context(), "u", "d", router.Position{Offset: n})
					if err != nil {
						t.Errorf("ack %d: %v", n, err)
						return
					}
					if a.Cursor < n || a.Cursor < last {
						t.Errorf("ack %d after %d: the cursor is %d", n, last, a.Cursor)
					}
					last = a.Cursor
				}
			})
		}
		wg.Wait()
		if a, err := inboxes[0].Ack(t.Context(), "u", "d", router.Position{Offset: 40}); err != nil || a.Cursor != 40 {
			t.Errorf("the last ack: %+v %v", a, err)
		}
		if a, err := inboxes[1].Ack(t.Context(), "u", "d", router.Position{Offset: 3}); err != nil || a.Cursor != 40 || a.Moved {
			t.Errorf("an old ack: %+v %v", a, err)
		}
	})
}

// openInbox runs a node with inboxes on a store of its own.
func openInbox(t *testing.T, env *environment, i int, cfg Config) *router.Inbox {
	t.Helper()
	s := start(t, env.conn(i), cfg)
	node, err := router.New(router.Config{
		NodeID: fmt.Sprintf("n%d", i), Prefix: cfg.Prefix, Namespaces: cfg.Namespaces, Core: env.conn(i), Store: s,
		Inbox: &router.InboxConfig{Namespace: cfg.Namespaces[0].Name, MaxMessageBytes: 100, MaxDevices: 3, DeviceTTL: cfg.Cursors.TTL, Cursors: s.Cursors()},
	})
	if err != nil {
		t.Fatal(err)
	}
	runNode(t, node)
	return node.Inbox()
}

// The subject of a cursor has four tokens whatever user and device are called, and
// no two cursors share one.
func FuzzCursorSubject(f *testing.F) {
	for _, seed := range []string{"", "42", "a.b", "%", "%2E", "*.>", "ä\x00\xff", strings.Repeat("x", 100)} {
		f.Add(seed, "42", "42", seed)
	}
	c := &cursors{p: &stream{subjects: "hr.cur."}}
	f.Fuzz(func(t *testing.T, user, device, user2, device2 string) {
		subject := c.subject(user, device)
		tokens := strings.Split(subject, ".")
		if len(tokens) != 4 || strings.ContainsAny(subject, " *>\t\r\n\x00") || tokens[2] == "" || tokens[3] == "" {
			t.Fatalf("%q %q have the subject %q", user, device, subject)
		}
		if back, err := router.DecodeToken(tokens[3]); err != nil || back != device {
			t.Errorf("device %q becomes %q and that %q (%v)", device, tokens[3], back, err)
		}
		if (user != user2 || device != device2) && subject == c.subject(user2, device2) {
			t.Errorf("%q %q and %q %q share %q", user, device, user2, device2, subject)
		}
	})
}

func FuzzDecodeInboxCursor(f *testing.F) {
	for _, seed := range []string{`{"number":5,"epoch":"a.b"}`, `{}`, ``, `null`, `{"number":-1}`, `{"number":18446744073709551616}`, `[1]`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := decodeInboxCursor(data)
		if err != nil && c != (router.Cursor{}) {
			t.Errorf("%q: %+v with %v", data, c, err)
		}
	})
}

package test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headrace/headrace/internal/natsperm"
	"github.com/headrace/headrace/internal/natstest"
	"github.com/headrace/headrace/persistence"
	"github.com/headrace/headrace/router"
)

// permissionNamespaces use everything that needs a right of its own.
func permissionNamespaces() []router.Namespace {
	return []router.Namespace{
		{Name: "h", HistorySize: 10, Retention: time.Hour, Partitions: 2, Payload: router.PayloadJSON, Presence: true, Recover: true, JoinLeave: true, ForceJoinLeave: true},
		{Name: "eph", Payload: router.PayloadJSON, Presence: true},
	}
}

// A rule that nobody needs is a right that somebody may misuse: every rule is
// used by an edge that does all it can do, and no other rule would do instead.
func TestA5NothingIsDeniedAndNothingIsSpare(t *testing.T) {
	srv := natstest.Run(t, natstest.Listen(), withUsers(permissionNamespaces()))
	connect := func(user string, rec *natstest.Recorder) *nats.Conn {
		options := append(persistence.ConnectOptions(), rec.Option())
		return srv.Conn(append(options, loginOptions(user, user, func(err error) { t.Errorf("%s: %v", user, err) })...)...)
	}
	used := map[string]*natstest.Recorder{edgeUser: natstest.NewRecorder(), provisionUser: natstest.NewRecorder()}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	provisionTwice(ctx, t, srv, connect(provisionUser, used[provisionUser]))
	doEverything(ctx, t, srv, connect(edgeUser, used[edgeUser]))

	for user, rec := range used {
		set := permissionsOf(user, permissionNamespaces())
		for d, subjects := range map[natsperm.Direction][]string{natsperm.Publish: rec.Published(), natsperm.Subscribe: rec.Subscribed()} {
			for _, subject := range subjects {
				if answer := strings.HasPrefix(subject, "_INBOX.") && set.Responses != nil; !answer && !set.Allows(d, subject) {
					t.Errorf("%s: %s %s is used and not in the list", user, d, subject)
				}
			}
		}
		for i, rule := range set.Rules {
			subject, ok := neededBy(&set, i, rec)
			if !ok {
				t.Errorf("%s: %s %s (%s) is spare", user, rule.Direction, rule.Subject, rule.Need)
				continue
			}
			without := set
			without.Rules = slices.Delete(slices.Clone(set.Rules), i, i+1)
			expectDenial(t, &without, rule.Direction, subject)
		}
	}
}

// neededBy returns a subject that was used and that only rule i of set allows.
func neededBy(set *natsperm.Set, i int, rec *natstest.Recorder) (string, bool) {
	rule := set.Rules[i]
	subjects := rec.Published()
	if rule.Direction == natsperm.Subscribe {
		subjects = rec.Subscribed()
	}
	others := natsperm.Set{Rules: slices.Delete(slices.Clone(set.Rules), i, i+1)}
	for _, subject := range subjects {
		if natsperm.Covers(rule.Subject, subject) && !others.Allows(rule.Direction, subject) {
			return subject, true
		}
	}
	return "", false
}

// expectDenial checks with a real server that a user with set cannot do d.
func expectDenial(t *testing.T, set *natsperm.Set, d natsperm.Direction, subject string) {
	t.Helper()
	srv := natstest.Run(t, natstest.With(func(o *server.Options) {
		o.JetStream = false
		o.Users = []*server.User{{Username: edgeUser, Password: edgeUser, Permissions: serverPermissions(set)}}
	}))
	defer srv.Stop()
	nc := srv.Conn(loginOptions(edgeUser, edgeUser, func(error) {})...)
	defer nc.Close()
	var err error
	if d == natsperm.Publish {
		err = nc.Publish(subject, nil)
	} else {
		_, err = nc.SubscribeSync(subject)
	}
	if err == nil {
		err = nc.Flush()
	}
	if err != nil {
		t.Fatalf("%s %s: %v", d, subject, err)
	}
	if !errors.Is(nc.LastError(), nats.ErrPermissionViolation) {
		t.Errorf("%s %s is not denied without its rule: %v", d, subject, nc.LastError())
	}
}

// provisionTwice makes the streams, and again as if an older version had made them.
func provisionTwice(ctx context.Context, t *testing.T, srv *natstest.Server, nc *nats.Conn) {
	t.Helper()
	cfg := storeConfig(permissionNamespaces())
	limit := &persistence.UserLimitConfig{Messages: 100, Window: time.Minute}
	if err := persistence.Provision(ctx, nc, cfg, limit); err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(srv.Conn())
	if err != nil {
		t.Fatal(err)
	}
	streams := js.ListStreams(ctx)
	for info := range streams.Info() {
		older := info.Config
		older.Metadata["headrace-config"] = "0"
		if _, err := js.UpdateStream(ctx, older); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(streams.Err(), persistence.Provision(ctx, nc, cfg, limit)); err != nil {
		t.Fatal(err)
	}
}

// deliveries is a subscriber of the router.
type deliveries chan string

func (d deliveries) Deliver(_ *router.Subscription, b *router.Batch) {
	for _, p := range b.Pushes {
		if p.Pub != nil {
			d <- string(p.Pub.Data)
		}
	}
}

func (d deliveries) Dropped(*router.Subscription, router.UnsubscribeReason) {}

// doEverything is a short life of an edge in which it does all that edges do.
func doEverything(ctx context.Context, t *testing.T, srv *natstest.Server, nc *nats.Conn) {
	t.Helper()
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	store, err := persistence.Open(ctx, nc, storeConfig(permissionNamespaces()))
	must("open", err)
	limit, err := store.UserLimit(ctx, persistence.UserLimitConfig{Messages: 100, Window: time.Minute})
	must("user limit", err)
	node, err := router.New(router.Config{NodeID: "n1", Namespaces: permissionNamespaces(), Core: nc, Store: store})
	must("router", err)
	node.ServeAPI(router.API{Methods: []string{"info"}, MaxInflight: 1, Call: func(context.Context, string, router.APICall) router.APIAnswer {
		return router.APIAnswer{Body: []byte("{}")}
	}})
	runParts(t, nc, store.Run, node.Run)
	natstest.Eventually(t, 20*time.Second, "readiness", func() bool { return node.Ready() == nil })

	got := make(deliveries, 100)
	must("count", limit.Take(ctx, "42"))
	useCursors(ctx, t, store.Cursors())
	for i, channel := range []string{"h:a", "h:b", "h:c", "h:d", "eph:a"} { // both partitions
		done := make(chan error, 1)
		sub := &router.Subscription{Channel: channel, Subscriber: got, Info: &router.ClientInfo{Client: fmt.Sprint("c", i), User: "42"}}
		node.Subscribe(sub, router.SubscribeRequest{}, func(_ router.SubscribeResult, err error) { done <- err })
		must("subscribe "+channel, <-done)
		_, err := publish(node, channel, "", []byte(`"x"`))
		must("publish "+channel, err)
		expectDelivery(t, got, `"x"`)
		_, err = node.Presence(ctx, channel)
		must("presence "+channel, err)
		if !strings.HasPrefix(channel, "h:") {
			continue
		}
		_, err = node.History(ctx, channel, router.HistoryRequest{Limit: -1})
		must("history "+channel, err)
		must("clear "+channel, node.HistoryRemove(ctx, channel))
	}
	outside := srv.Conn()
	serveAndCall(ctx, t, node, outside)
	must("plain publish", outside.Publish("hr.in.h.a", []byte(`"plain"`)))
	if err := node.Post(ctx, "gone", "session", []byte("{}")); router.CodeOf(err) != router.CodeNotOnline {
		t.Fatalf("post to a node that is gone: %v", err)
	}
	must("bad plain publish", outside.Publish("hr.in.h.a", []byte(`{`)))
	expectDelivery(t, got, `"plain"`)
	js, err := jetstream.New(outside)
	must("jetstream", err)
	natstest.Eventually(t, 20*time.Second, "a dead letter, and nothing left to move", func() bool {
		dead, err1 := js.Stream(ctx, "HR_DEAD_in")
		in, err2 := js.Stream(ctx, "HR_IN")
		return err1 == nil && err2 == nil && dead.CachedInfo().State.Msgs == 1 && in.CachedInfo().State.Msgs == 0
	})
}

// useCursors does what inboxes do with cursors.
func useCursors(ctx context.Context, t *testing.T, c router.CursorStore) {
	t.Helper()
	if err := c.Put(ctx, "42", "phone", router.Cursor{Number: 1, Epoch: "e"}, 0); err != nil {
		t.Fatalf("put a cursor: %v", err)
	}
	at, err := c.Get(ctx, "42", "phone")
	if err != nil || at.Number != 1 {
		t.Fatalf("get a cursor: %+v %v", at, err)
	}
	if all, err := c.List(ctx, "42"); err != nil || len(all) != 1 || all[0].Device != "phone" {
		t.Fatalf("list cursors: %+v %v", all, err)
	}
	if err := c.Forget(ctx, "42", "phone", at.Seq); err != nil {
		t.Fatalf("forget a cursor: %v", err)
	}
}

// serveAndCall answers API calls and calls a back end.
func serveAndCall(ctx context.Context, t *testing.T, node *router.Node, outside *nats.Conn) {
	t.Helper()
	_, err := outside.Subscribe("hr.rpc.echo", func(m *nats.Msg) { m.Respond(m.Data) }) //nolint:errcheck // the caller tells
	if err := errors.Join(err, outside.Flush()); err != nil {
		t.Fatal(err)
	}
	if answer, err := node.RPC(ctx, router.RPCRequest{Method: "echo", Data: []byte("1")}); err != nil || string(answer) != "1" {
		t.Fatalf("rpc: %q %v", answer, err)
	}
	for _, subject := range []string{"hr.api.info", "$SRV.PING.headrace"} {
		if _, err := outside.RequestWithContext(ctx, subject, nil); err != nil {
			t.Fatalf("%s: %v", subject, err)
		}
	}
}

func expectDelivery(t *testing.T, got deliveries, want string) {
	t.Helper()
	select {
	case data := <-got:
		if data != want {
			t.Fatalf("delivered %s, want %s", data, want)
		}
	case <-time.After(natstest.Patience(20 * time.Second)):
		t.Fatalf("%s was not delivered", want)
	}
}

// runParts runs parts until the test ends, last first.
func runParts(t *testing.T, nc *nats.Conn, parts ...func(context.Context) error) {
	t.Helper()
	for _, run := range parts {
		ctx, stop := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- run(ctx) }()
		t.Cleanup(func() {
			stop()
			if err := <-done; err != nil {
				t.Error(err)
			}
			nc.Flush() //nolint:errcheck // what was denied is told by then
		})
	}
}

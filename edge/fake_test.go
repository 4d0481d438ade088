package edge

import (
	"context"
	"encoding/json"
	"errors"
	"sync"

	"github.com/headrace/headrace/router"
)

// fakeRouter answers at once, or when the test says so. It keeps what a router
// must keep for the session to be tested: who is subscribed, and the order of
// what it was asked.
type fakeRouter struct {
	fakeState

	mu     sync.Mutex // guards the fields below
	log    []string   // what was asked, in order
	subs   map[string]map[*router.Subscription]bool
	result router.SubscribeResult // of every subscribe
	fail   error                  // of every subscribe and publish
	gate   chan struct{}          // when set, subscribes are answered after it closes
	gated  string                 // when set, gate is for this channel only
	offset uint64
	ns     router.Namespace
	ready  error
	api    router.API
	rpc    func(router.RPCRequest) ([]byte, error)    // nil: no rpc is configured
	rules  func(op router.Op, who router.Access) bool // nil: all but the channel "secret" is allowed
}

func newFakeRouter() *fakeRouter {
	return &fakeRouter{
		subs: make(map[string]map[*router.Subscription]bool),
		ns:   router.Namespace{Name: router.DefaultNamespace, Payload: router.PayloadJSON},
	}
}

func (f *fakeRouter) note(s string) { f.log = append(f.log, s) }

func (f *fakeRouter) asked() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.log...)
}

func (f *fakeRouter) Ready() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ready
}

func (f *fakeRouter) Allow(op router.Op, channel string, who router.Access) error {
	if f.rules != nil && !who.Insecure && !f.rules(op, who) {
		return router.Errorf(router.CodeDenied, "permission denied")
	}
	if who.Insecure || channel != "secret" || who.Invited.Has(op) {
		return nil
	}
	return router.Errorf(router.CodeDenied, "permission denied")
}

func (f *fakeRouter) Namespace(channel string) (*router.Namespace, error) {
	if _, err := router.ParseChannel(channel); err != nil {
		return nil, err
	}
	ns := f.ns
	if isFakeMap(channel) && ns.Map == nil {
		ns.Map = &router.MapOptions{Mode: router.MapPersistent}
	}
	return &ns, nil
}

func (f *fakeRouter) Subscribe(s *router.Subscription, req router.SubscribeRequest, done func(router.SubscribeResult, error)) {
	f.mu.Lock()
	f.note("subscribe " + s.Channel)
	gate, res, err := f.gate, f.result, f.fail
	if f.gated != "" && f.gated != s.Channel {
		gate = nil
	}
	if req.Recover {
		res.WasRecovering = true
	}
	f.mu.Unlock()
	answer := func() {
		if err == nil {
			f.mu.Lock()
			if f.subs[s.Channel] == nil {
				f.subs[s.Channel] = make(map[*router.Subscription]bool)
			}
			f.subs[s.Channel][s] = true
			f.mu.Unlock()
		}
		done(res, err)
	}
	if gate == nil {
		answer()
		return
	}
	go func() { <-gate; answer() }()
}

func (f *fakeRouter) Unsubscribe(s *router.Subscription, done func()) {
	f.mu.Lock()
	f.note("unsubscribe " + s.Channel)
	delete(f.subs[s.Channel], s)
	f.mu.Unlock()
	if done != nil {
		done()
	}
}

func (f *fakeRouter) Publish(req router.PublishRequest, done func(router.Position, error)) {
	f.mu.Lock()
	f.note("publish " + req.Channel)
	err := f.fail
	if err == nil && !json.Valid(req.Data) {
		err = router.Errorf(router.CodeInvalid, "data is not valid JSON")
	}
	f.offset++
	pub := &router.Publication{Offset: f.offset, Data: req.Data, Info: req.Info, Tags: req.Tags}
	f.mu.Unlock()
	if err == nil {
		f.deliver(req.Channel, pub)
	}
	done(router.Position{Offset: pub.Offset, Epoch: "e"}, err)
}

// deliver pushes pub to the channel's subscribers.
func (f *fakeRouter) deliver(channel string, pubs ...*router.Publication) {
	b := &router.Batch{Channel: channel}
	for _, p := range pubs {
		b.Pushes = append(b.Pushes, router.Push{Pub: p})
	}
	f.deliverBatch(b)
}

func (f *fakeRouter) deliverBatch(b *router.Batch) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for s := range f.subs[b.Channel] {
		s.Subscriber.Deliver(s, b)
	}
}

func (f *fakeRouter) drop(channel string, reason router.UnsubscribeReason) {
	f.mu.Lock()
	subs := f.subs[channel]
	delete(f.subs, channel)
	f.mu.Unlock()
	for s := range subs {
		s.Subscriber.Dropped(s, reason)
	}
}

func (f *fakeRouter) History(_ context.Context, _ string, req router.HistoryRequest) (router.HistoryResult, error) {
	if req.Since != nil && req.Since.Epoch != "e" {
		return router.HistoryResult{}, router.Errorf(router.CodeUnrecoverable, "unrecoverable position")
	}
	return router.HistoryResult{Position: router.Position{Offset: 2, Epoch: "e"}, Publications: []*router.Publication{{Offset: 2, Data: []byte(`"two"`)}}}, nil
}

func (f *fakeRouter) HistoryRemove(context.Context, string) error { return nil }

func (f *fakeRouter) Presence(context.Context, string) (map[string]*router.ClientInfo, error) {
	return map[string]*router.ClientInfo{"c1": {Client: "c1", User: "42", ConnInfo: []byte(`{"a":1}`)}}, nil
}

func (f *fakeRouter) PresenceInOrder(ctx context.Context, channel string, tell func(map[string]*router.ClientInfo)) error {
	members, err := f.Presence(ctx, channel)
	if err == nil {
		tell(members)
	}
	return err
}

func (f *fakeRouter) Members(_ *router.Subscription, tell func([]*router.ClientInfo, error)) {
	tell(nil, nil)
}

func (f *fakeRouter) PresenceStats(_ context.Context, channel string) (router.PresenceStats, error) {
	if channel == "broken" {
		return router.PresenceStats{}, router.Unavailable("the cluster", errors.New("secret detail"))
	}
	return router.PresenceStats{Clients: 2, Users: 1}, nil
}

func (f *fakeRouter) Channels(context.Context, string) (map[string]int, error) {
	return map[string]int{"a": 2}, nil
}

func (f *fakeRouter) Info(context.Context) ([]router.NodeInfo, error) {
	return []router.NodeInfo{{ID: "n1"}}, nil
}

func (f *fakeRouter) Send(context.Context, router.Target, []byte) (int, error) {
	return 0, router.Errorf(router.CodeNotOnline, "target is not online")
}

func (f *fakeRouter) SendDirect(context.Context, router.Message) (int, error) {
	return 0, router.Errorf(router.CodeNotOnline, "target is not online")
}

func (f *fakeRouter) Control(context.Context, router.Control) (router.Controlled, error) {
	return router.Controlled{Sessions: 1}, nil
}

func (f *fakeRouter) AllowRPC(method string, who router.Access) error {
	switch {
	case f.rpc == nil:
		return router.Errorf(router.CodeNotAvailable, "no rpc is configured")
	case method == "secret":
		return router.Errorf(router.CodeDenied, "permission denied")
	}
	return nil
}

func (f *fakeRouter) RPC(_ context.Context, req router.RPCRequest) ([]byte, error) {
	if f.rpc == nil {
		return nil, router.Errorf(router.CodeNoMethod, "method not found")
	}
	return f.rpc(req)
}

func (f *fakeRouter) Tell(req router.RPCRequest) error {
	_, err := f.RPC(context.Background(), req)
	return err
}

func (f *fakeRouter) Post(context.Context, string, string, []byte) error {
	return router.Errorf(router.CodeNotOnline, "no such node")
}

func (f *fakeRouter) ServeAPI(a router.API) { f.api = a }

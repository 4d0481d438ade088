package edge

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/headrace/headrace/router"
)

// fakeMembers has the namespace who, which shows the members of other channels.
type fakeMembers struct {
	*fakeRouter
	who     router.Namespace
	members func() ([]*router.ClientInfo, error)
	after   func() // what happens once they were told
}

func newFakeMembers() *fakeMembers {
	f := &fakeMembers{fakeRouter: newFakeRouter(), who: router.Namespace{Name: "who", Members: router.MembersClients, Payload: router.PayloadJSON}}
	f.ns.Presence, f.ns.JoinLeave = true, true
	f.members = func() ([]*router.ClientInfo, error) {
		return []*router.ClientInfo{{Client: "x", User: "1"}, {Client: "a"}}, nil
	}
	f.after = func() {}
	return f
}

func (f *fakeMembers) Namespace(channel string) (*router.Namespace, error) {
	if strings.HasPrefix(channel, "who:") {
		return &f.who, nil
	}
	return f.fakeRouter.Namespace(channel)
}

func (f *fakeMembers) Members(_ *router.Subscription, tell func([]*router.ClientInfo, error)) {
	tell(f.members())
	f.after()
}

// moves delivers joins and leaves of the clients named, with + and - in front, of users
// of the same name. With ! behind, it is the user's first or last one; with ? it is
// hidden from presence.
func (f *fakeMembers) moves(channel string, names ...string) {
	b := &router.Batch{Channel: channel, Pushes: []router.Push{{Pub: &router.Publication{Data: []byte("1")}}}}
	for _, name := range names {
		id := strings.TrimRight(name[1:], "!?")
		p := router.Push{User: strings.HasSuffix(name, "!"), Hidden: strings.HasSuffix(name, "?")}
		info := &router.ClientInfo{Client: id}
		if p.User {
			info.User = id
		}
		if p.Join = info; name[0] == '-' {
			p.Join, p.Leave = nil, info
		}
		b.Pushes = append(b.Pushes, p)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for s := range f.subs[channel] {
		s.Subscriber.Deliver(s, b)
	}
}

func TestMembersAreAMap(t *testing.T) {
	f := newFakeMembers()
	present := f.members
	f.members = func() ([]*router.ClientInfo, error) {
		f.moves("room", "+a", "-early") // before the answer: they are in it
		return present()
	}
	f.after = func() { f.moves("room", "+late", "-x", "+secret?") } // while it is on its way
	s := newTestServer(t, f, nil)
	sess, tr := newTestSession(s, jsonWS)
	ask(s, sess, tr, `{"id":1,"connect":{}}`)
	got := ask(s, sess, tr, `{"id":2,"subscribe":{"channel":"who:room","type":2,"phase":2}}`)
	want := `{"id":2,"subscribe":{"type":2,"state":[{"info":{"user":"","client":"a"},"key":"a"},{"info":{"user":"1","client":"x"},"key":"x"}]}}
{"push":{"channel":"who:room","pub":{"info":{"user":"","client":"late"},"key":"late"}}}
{"push":{"channel":"who:room","pub":{"info":{"user":"","client":"x"},"key":"x","removed":true}}}`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	f.moves("room", "-late")
	if got, want := tr.take(), []string{`{"push":{"channel":"who:room","pub":{"info":{"user":"","client":"late"},"key":"late","removed":true}}}`}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	f.moves("room")
	if got := tr.take(); len(got) != 0 {
		t.Errorf("a publication is shown: %q", got)
	}
	if got := ask(s, sess, tr, `{"id":3,"unsubscribe":{"channel":"who:room"}}`); got != `{"id":3,"unsubscribe":{}}` || len(f.subs["room"]) != 0 {
		t.Errorf("unsubscribe: %s, %d subscriptions left", got, len(f.subs["room"]))
	}
}

// One entry per user, however many clients: the router says which is the first and which
// the last. Users without an id have none.
func TestUsersAreAMap(t *testing.T) {
	f := newFakeMembers()
	f.who.Members = router.MembersUsers
	f.members = func() ([]*router.ClientInfo, error) {
		return []*router.ClientInfo{{Client: "c1", User: "2"}, {Client: "c2", User: "1"}, {Client: "c3", User: "2"}, {Client: "c4"}}, nil
	}
	s := newTestServer(t, f, nil)
	sess, tr := newTestSession(s, jsonWS)
	ask(s, sess, tr, `{"id":1,"connect":{}}`)
	got := ask(s, sess, tr, `{"id":2,"subscribe":{"channel":"who:room","type":3,"phase":2}}`)
	if want := `{"id":2,"subscribe":{"type":3,"state":[{"key":"1"},{"key":"2"}]}}`; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	f.moves("room", "+3!", "+4", "-2!")
	want := []string{`{"push":{"channel":"who:room","pub":{"key":"3"}}}` + "\n" + `{"push":{"channel":"who:room","pub":{"key":"2","removed":true}}}`}
	if got := tr.take(); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestMembersRefusals(t *testing.T) {
	const watch = `"subscribe":{"channel":"who:room","type":2,"phase":2}`
	for name, tt := range map[string]struct {
		setup   func(*fakeMembers)
		command string
		want    string
	}{
		"without presence":          {func(f *fakeMembers) { f.ns.Presence = false }, watch, `"code":108`},
		"without joins":             {func(f *fakeMembers) { f.ns.JoinLeave = false }, watch, `"code":108`},
		"of a channel not for them": {nil, `"subscribe":{"channel":"who:secret","type":2,"phase":2}`, `"code":103`},
		"as a map":                  {nil, `"subscribe":{"channel":"who:room","type":1,"phase":2}`, `"code":108`},
		"as users":                  {nil, `"subscribe":{"channel":"who:room","type":3,"phase":2}`, `"code":108`},
		"as a stream":               {nil, `"subscribe":{"channel":"who:room"}`, `"code":108`},
		"of what shows no members":  {nil, `"subscribe":{"channel":"room","type":2,"phase":2}`, `"code":108`},
		"recovered":                 {nil, `"subscribe":{"channel":"who:room","type":2,"phase":1,"recover":true}`, `"code":112`},
		"with a filter":             {func(f *fakeMembers) { f.who.TagsFilter = true }, `"subscribe":{"channel":"who:room","type":2,"tf":{"key":"a","cmp":"ex"}}`, `"code":108`},
		"while nobody knows": {func(f *fakeMembers) {
			f.members = func() ([]*router.ClientInfo, error) {
				return nil, router.Unavailable("presence", errors.New("x"))
			}
		}, watch, `"code":100`},
		"that the router ends meanwhile": {func(f *fakeMembers) {
			f.members = func() ([]*router.ClientInfo, error) {
				f.drop("room", router.UnsubscribedInsufficientState)
				return nil, nil
			}
		}, watch, `"code":100`},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeMembers()
			if tt.setup != nil {
				tt.setup(f)
			}
			s := newTestServer(t, f, nil)
			sess, tr := newTestSession(s, jsonWS)
			ask(s, sess, tr, `{"id":1,"connect":{}}`)
			if got := ask(s, sess, tr, `{"id":2,`+tt.command+`}`); !strings.Contains(got, tt.want) {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			if len(sess.channels) != 0 || len(f.subs["room"]) != 0 {
				t.Error("the refused command left something behind")
			}
		})
	}
}

package edge

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headrace/headrace/edge/token"
	"github.com/headrace/headrace/router"
)

// mapSession returns a connected session on f. What it asks is answered by ask.
func mapSession(t *testing.T, f *fakeMaps, change func(*Config)) (*Server, *session, *fakeTransport) {
	t.Helper()
	s := newTestServer(t, f, change)
	sess, tr := newTestSession(s, jsonWS)
	sess.onFrame([]byte(`{"id":1,"connect":{}}`))
	tr.take()
	return s, sess, tr
}

// ask sends commands and returns what came back, joined by newlines.
func ask(s *Server, sess *session, tr *fakeTransport, commands ...string) string {
	sess.onFrame([]byte(strings.Join(commands, "\n")))
	settle(s, sess)
	return volatile.ReplaceAllString(strings.Join(tr.take(), "\n"), `"$1":0`)
}

// The beginnings of subscribe commands in the phases of a map.
const (
	stateFrame  = `{"id":2,"subscribe":{"channel":"m","type":1,"phase":2`
	streamFrame = `{"id":2,"subscribe":{"channel":"m","type":1,"phase":1`
)

var mapPhases = map[string]struct {
	mode  router.MapMode
	keys  int
	setup func(*fakeMaps)
	ask   []string // one after the other
	want  []string
}{
	"an empty map is live at once": {
		ask:  []string{stateFrame + `}}`},
		want: []string{`{"id":2,"subscribe":{"recoverable":true,"epoch":"e","positioned":true,"type":1}}`},
	},
	"an ephemeral map is not recoverable": {
		mode: router.MapEphemeral, keys: 1,
		ask:  []string{stateFrame + `}}`},
		want: []string{`{"id":2,"subscribe":{"epoch":"e","offset":1,"type":1,"state":[{"data":0,"offset":1,"time":0,"key":"k00","version":1}]}}`},
	},
	"pages, the last of which goes live": {
		keys: 3,
		ask:  []string{stateFrame + `,"limit":2}}`, stateFrame + `,"limit":2,"cursor":"k01","offset":3,"epoch":"e"}}`},
		want: []string{
			`{"id":2,"subscribe":{"epoch":"e","offset":3,"type":1,"phase":2,"cursor":"k01","state":[{"data":0,"offset":1,"time":0,"key":"k00","version":1},{"data":1,"offset":2,"time":0,"key":"k01","version":1}]}}`,
			`{"id":2,"subscribe":{"recoverable":true,"epoch":"e","offset":3,"positioned":true,"type":1,"state":[{"data":2,"offset":3,"time":0,"key":"k02","version":1}]}}`,
		},
	},
	"what changed since the first page comes with the last": {
		keys: 3,
		ask:  []string{stateFrame + `,"limit":2,"cursor":"k01","offset":1,"epoch":"e"}}`},
		// k02 is in this page already, k01 may have been in one before.
		want: []string{`{"id":2,"subscribe":{"recoverable":true,"epoch":"e","publications":[{"data":1,"offset":2,"key":"k01","version":1}],"offset":3,"positioned":true,"type":1,"state":[{"data":2,"offset":3,"time":0,"key":"k02","version":1}]}}`},
	},
	"a change while a page is read is not lost, and not told twice": {
		keys:  1,
		setup: func(f *fakeMaps) { f.paging = func() { f.paging = nil; f.set("k00", "7", nil) } },
		ask:   []string{stateFrame + `}}`},
		want:  []string{`{"id":2,"subscribe":{"recoverable":true,"epoch":"e","offset":2,"positioned":true,"type":1,"state":[{"data":7,"offset":2,"time":0,"key":"k00","version":2}]}}`},
	},
	"another life of the channel makes the client start again": {
		keys: 3,
		ask:  []string{stateFrame + `,"limit":2,"cursor":"k01","offset":1,"epoch":"before"}}`},
		want: []string{`{"id":2,"subscribe":{"epoch":"e","offset":3,"type":1,"phase":2}}`},
	},
	"a removal": {
		keys:  1,
		setup: func(f *fakeMaps) { f.set("k00", "", nil) },
		ask:   []string{streamFrame + `,"offset":1,"epoch":"e","recover":true}}`},
		want:  []string{`{"id":2,"subscribe":{"recoverable":true,"epoch":"e","publications":[{"offset":2,"key":"k00","removed":true,"version":2}],"recovered":true,"offset":2,"positioned":true,"was_recovering":true,"type":1}}`},
	},
	"a position that is gone": {
		keys: 3, setup: func(f *fakeMaps) { f.evicted = 2 },
		ask:  []string{streamFrame + `,"offset":1,"epoch":"e","recover":true}}`},
		want: []string{`{"id":2,"error":{"code":112,"message":"unrecoverable position"}}`},
	},
	"a position of an ephemeral map": {
		mode: router.MapEphemeral, keys: 3,
		ask:  []string{streamFrame + `,"offset":1,"epoch":"e","recover":true}}`},
		want: []string{`{"id":2,"error":{"code":112,"message":"unrecoverable position: read the state again"}}`},
	},
	"a position of an empty channel that is not empty any more": {
		keys: 2,
		ask:  []string{streamFrame + `,"epoch":"empty","recover":true}}`},
		want: []string{`{"id":2,"subscribe":{"recoverable":true,"epoch":"empty","publications":[{"data":0,"offset":1,"key":"k00","version":1}],"recovered":true,"offset":1,"positioned":true,"was_recovering":true,"type":1}}` + "\n" +
			`{"push":{"channel":"m","pub":{"data":1,"offset":2,"key":"k01","epoch":"e","version":1}}}`},
	},
}

func TestMapPhases(t *testing.T) {
	for name, tt := range mapPhases {
		t.Run(name, func(t *testing.T) {
			if tt.mode == "" {
				tt.mode = router.MapPersistent
			}
			f := newFakeMaps(router.MapOptions{Mode: tt.mode})
			f.fill(tt.keys)
			if tt.setup != nil {
				tt.setup(f)
			}
			s, sess, tr := mapSession(t, f, nil)
			for i, command := range tt.ask {
				got := unsetTime.ReplaceAllString(ask(s, sess, tr, command), `"time":0`)
				if got != tt.want[i] {
					t.Errorf("%s\n got %s\nwant %s", command, got, tt.want[i])
				}
			}
		})
	}
}

// What is not live yet leaves nothing behind in the session.
func TestMapWalkCostsNoMemory(t *testing.T) {
	f := newFakeMaps(router.MapOptions{Mode: router.MapPersistent})
	f.fill(3)
	s, sess, tr := mapSession(t, f, nil)
	ask(s, sess, tr, `{"id":2,"subscribe":{"channel":"m","type":1,"phase":2,"limit":1}}`)
	if len(sess.channels) != 0 {
		t.Errorf("the session keeps %d channels in mid-walk", len(sess.channels))
	}
	if f.set("k00", "1", nil); len(tr.take()) != 0 {
		t.Error("a change was pushed before the client is live")
	}
}

func TestMapStreamPages(t *testing.T) {
	f := newFakeMaps(router.MapOptions{Mode: router.MapPersistent})
	s, sess, tr := mapSession(t, f, nil)
	for i := range 3 * minStreamPage {
		f.set("k", fmt.Sprint(i), nil)
	}
	got := ask(s, sess, tr, `{"id":2,"subscribe":{"channel":"m","type":1,"phase":2,"limit":1,"epoch":"e"}}`)
	if !strings.Contains(got, `"key":"k"`) {
		t.Errorf("no state in %s", got)
	}
	// The state's position is that of its page, so start from zero by hand.
	ask(s, sess, tr, `{"id":3,"unsubscribe":{"channel":"m"}}`)
	offset, phases := uint64(0), ""
	for range 3 {
		got = ask(s, sess, tr, fmt.Sprintf(`{"id":2,"subscribe":{"channel":"m","type":1,"phase":1,"limit":1,"epoch":"e","offset":%d}}`, offset))
		if n := strings.Count(got, `"key"`); n != minStreamPage {
			t.Fatalf("%d changes in an answer, want %d: %s", n, minStreamPage, got)
		}
		offset += minStreamPage
		phases += map[bool]string{true: "stream ", false: "live "}[strings.Contains(got, `"phase":1`)]
		if !strings.Contains(got, fmt.Sprintf(`"offset":%d,`, offset)) {
			t.Errorf("no offset %d in %s", offset, got)
		}
	}
	if phases != "stream stream live " {
		t.Errorf("answers were %s", phases)
	}
}

// A last page behind which more was missed than fits sends the client to the feed.
func TestMapStateThenFeed(t *testing.T) {
	f := newFakeMaps(router.MapOptions{Mode: router.MapPersistent})
	f.fill(2)
	for i := range 2 * minStreamPage {
		f.set("k00", fmt.Sprint(i), nil)
	}
	s, sess, tr := mapSession(t, f, nil)
	got := ask(s, sess, tr, `{"id":2,"subscribe":{"channel":"m","type":1,"phase":2,"limit":1,"cursor":"k00","offset":2,"epoch":"e"}}`)
	got = unsetTime.ReplaceAllString(got, `"time":0`)
	if want := `{"id":2,"subscribe":{"epoch":"e","offset":2,"type":1,"phase":2,"state":[{"data":1,"offset":2,"time":0,"key":"k01","version":1}]}}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// Values as large as allowed do not make an answer that is larger than what may wait
// for a client.
func TestMapPagesFitTheQueue(t *testing.T) {
	f := newFakeMaps(router.MapOptions{Mode: router.MapPersistent})
	large := `"` + strings.Repeat("x", 10_000) + `"`
	for i := range 100 {
		f.set(fmt.Sprintf("k%02d", i), large, nil)
	}
	s, sess, tr := mapSession(t, f, func(c *Config) { c.QueueBytes = 100_000 })
	keys, cursor := 0, ""
	for live := false; !live; {
		got := ask(s, sess, tr, `{"id":2,"subscribe":{"channel":"m","type":1,"phase":2,"epoch":"e","offset":100`+cursor+`}}`)
		if len(got) > 100_000 {
			t.Fatalf("an answer has %d bytes", len(got))
		}
		keys += strings.Count(got, `"key"`)
		if _, rest, more := strings.Cut(got, `"cursor":"`); more {
			next, _, _ := strings.Cut(rest, `"`)
			cursor = `,"cursor":"` + next + `"`
		} else {
			live = true
		}
	}
	if keys != 100 {
		t.Errorf("%d keys, want 100", keys)
	}
	ask(s, sess, tr, `{"id":3,"unsubscribe":{"channel":"m"}}`)
	got := ask(s, sess, tr, `{"id":2,"subscribe":{"channel":"m","type":1,"phase":1,"epoch":"e"}}`)
	if n := strings.Count(got, `"key"`); n != 4 || !strings.Contains(got, `"phase":1`) {
		t.Errorf("%d changes in an answer of %d bytes", n, len(got))
	}
}

func TestMapRefusals(t *testing.T) {
	for name, tt := range map[string]struct {
		setup   func(*fakeMaps)
		command string
		want    string // part of the reply
	}{
		"a map subscribed as a stream":     {nil, `"subscribe":{"channel":"m"}`, `"code":108,"message":"the channels of namespace \"default\" are maps: subscribe with type 1"`},
		"a stream subscribed as a map":     {func(f *fakeMaps) { f.ns.Map = nil }, `"subscribe":{"channel":"m","type":1,"phase":2}`, `"code":108,"message":"the channels of namespace \"default\" are no maps"`},
		"a type that there is not":         {nil, `"subscribe":{"channel":"m","type":9}`, `"code":108`},
		"a phase that there is not":        {nil, `"subscribe":{"channel":"m","type":1,"phase":3}`, `"code":107`},
		"a negative limit":                 {nil, `"subscribe":{"channel":"m","type":1,"phase":2,"limit":-1}`, `"code":107`},
		"a cursor without a position":      {nil, `"subscribe":{"channel":"m","type":1,"phase":2,"cursor":"x"}`, `"code":107`},
		"a cursor that the store refuses":  {nil, `"subscribe":{"channel":"m","type":1,"phase":2,"cursor":"bad","epoch":"e"}`, `"code":107`},
		"a feed page without a position":   {nil, `"subscribe":{"channel":"m","type":1,"phase":1}`, `"code":107`},
		"a page of a closed channel":       {nil, `"subscribe":{"channel":"secret","type":1,"phase":2}`, `"code":103`},
		"a feed page of a closed channel":  {nil, `"subscribe":{"channel":"secret","type":1,"phase":1,"epoch":"e"}`, `"code":103`},
		"a filter where there is none":     {func(f *fakeMaps) { f.ns.TagsFilter = false }, `"subscribe":{"channel":"m","type":1,"phase":2,"tf":{"key":"a","cmp":"ex"}}`, `"code":108`},
		"a filter that is none":            {nil, `"subscribe":{"channel":"m","type":1,"phase":2,"tf":{"key":"a","cmp":"like"}}`, `"code":107`},
		"a publication to a closed map":    {nil, `"publish":{"channel":"secret","type":1,"key":"k","data":1}`, `"code":103`},
		"a publication without key":        {nil, `"publish":{"channel":"m","type":1,"data":1}`, `"code":107,"message":"key is empty"`},
		"a publication without data":       {nil, `"publish":{"channel":"m","type":1,"key":"k"}`, `"code":107,"message":"data is empty"`},
		"a removal with data":              {nil, `"publish":{"channel":"m","type":1,"key":"k","removed":true,"data":1}`, `"code":107`},
		"a publication to what is no map":  {func(f *fakeMaps) { f.ns.Map = nil }, `"publish":{"channel":"m","type":1,"key":"k","data":1}`, `"code":108`},
		"a publication of another type":    {nil, `"publish":{"channel":"m","type":2,"key":"k","data":1}`, `"code":107`},
		"a value that is too large":        {func(f *fakeMaps) { f.failing = []error{router.Errorf(router.CodeLimit, "too large")} }, `"publish":{"channel":"m","type":1,"key":"k","data":1}`, `"code":106,"message":"too large"`},
		"a change that a back end refuses": {func(f *fakeMaps) { f.reason = router.ReasonRejected }, `"publish":{"channel":"m","type":1,"key":"k","data":1}`, `"code":103,"message":"rejected"`},
		"a key of nobody":                  {func(f *fakeMaps) { f.ns.Map.ClientKey = router.ClientKeyUser }, `"publish":{"channel":"m","type":1,"key":"k","data":1}`, `"code":107`},
		"a key that lasts as long as a subscription that there is not": {func(f *fakeMaps) { f.ns.Map.RemoveOnUnsubscribe = true },
			`"publish":{"channel":"m","type":1,"key":"k","data":1}`, `"code":103`},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeMaps(router.MapOptions{Mode: router.MapPersistent})
			if tt.setup != nil {
				tt.setup(f)
			}
			s, sess, tr := mapSession(t, f, nil)
			if got := ask(s, sess, tr, `{"id":2,`+tt.command+`}`); !strings.Contains(got, tt.want) {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			if len(sess.channels) != 0 {
				t.Error("the refused command left something behind")
			}
		})
	}
}

// A token that ends in mid-walk ends the walk.
func TestMapTokenCountsInEveryPhase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeMaps(router.MapOptions{Mode: router.MapPersistent})
		f.fill(3)
		s, sess, tr := mapSession(t, f, nil)
		text := mustMintSub(token.Subscription{Channel: "m", ExpireAt: time.Now().Add(time.Minute).Unix()})
		page := `{"id":2,"subscribe":{"channel":"m","type":1,"phase":2,"limit":1,"epoch":"e","offset":3,"token":"` + text + `"}}`
		if got := ask(s, sess, tr, page); !strings.Contains(got, `"cursor"`) {
			t.Fatalf("the first page is %s", got)
		}
		time.Sleep(2 * time.Minute) // virtual
		if got := ask(s, sess, tr, page); !strings.Contains(got, `"code":109`) {
			t.Errorf("a page with an expired token is %s", got)
		}
	})
}

func TestMapPublish(t *testing.T) {
	set := func(key, data string) string {
		return `{"id":2,"publish":{"channel":"m","type":1,"key":"` + key + `","data":` + data + `}}`
	}
	for name, tt := range map[string]struct {
		options router.MapOptions
		setup   func(*fakeMaps)
		ask     string
		changes string
	}{
		"a key is set":                    {ask: set("a", "1"), changes: "[m a 1]"},
		"a key is removed":                {ask: `{"id":2,"publish":{"channel":"m","type":1,"key":"a","removed":true}}`, changes: "[m a removed]"},
		"one's own key, by client":        {options: router.MapOptions{ClientKey: router.ClientKeyClient}, ask: set("a", "1"), changes: "[m c1 1]"},
		"what is not there to be removed": {setup: func(f *fakeMaps) { f.reason = router.ReasonMissing }, ask: `{"id":2,"publish":{"channel":"m","type":1,"key":"a","removed":true}}`, changes: "[m a removed]"},
		"changes keep their order":        {ask: set("a", "1") + "\n" + set("a", "2") + "\n" + set("b", "3") + "\n" + set("a", "4"), changes: "[m a 1 m a 2 m b 3 m a 4]"},
	} {
		t.Run(name, func(t *testing.T) {
			tt.options.Mode = router.MapPersistent
			f := newFakeMaps(tt.options)
			if tt.setup != nil {
				tt.setup(f)
			}
			s, sess, tr := mapSession(t, f, nil)
			for _, reply := range strings.Split(ask(s, sess, tr, tt.ask), "\n") {
				if reply != `{"id":2,"publish":{}}` {
					t.Errorf("got %s", reply)
				}
			}
			if got := f.changed(); got != tt.changes {
				t.Errorf("changes %s, want %s", got, tt.changes)
			}
		})
	}
}

func TestOwnKeyGoesWithTheSubscription(t *testing.T) {
	const join = `{"id":2,"subscribe":{"channel":"m","type":1,"phase":2}}`
	const set = `{"id":3,"publish":{"channel":"m","type":1,"data":1}}`
	for name, tt := range map[string]struct {
		end  func(s *Server, sess *session, tr *fakeTransport, f *fakeMaps)
		want string
	}{
		"unsubscribed": {func(s *Server, sess *session, tr *fakeTransport, _ *fakeMaps) {
			ask(s, sess, tr, `{"id":4,"unsubscribe":{"channel":"m"}}`)
		}, "[m c1 removed]"},
		"unsubscribed and back at once": {func(s *Server, sess *session, tr *fakeTransport, _ *fakeMaps) {
			ask(s, sess, tr, `{"id":4,"unsubscribe":{"channel":"m"}}`, join, set)
		}, "[m c1 removed m c1 1]"},
		"disconnected": {func(s *Server, sess *session, _ *fakeTransport, _ *fakeMaps) {
			sess.ended(disconnectClosed)
		}, "[m c1 removed]"},
		"unsubscribed by the server": {func(s *Server, sess *session, _ *fakeTransport, _ *fakeMaps) {
			sess.control(&router.Control{Op: router.ControlUnsubscribe, Channel: "m"}, func(outcome) {})
		}, "[m c1 removed]"},
		"dropped by the router: it will be back": {func(_ *Server, _ *session, _ *fakeTransport, f *fakeMaps) {
			f.drop("m", router.UnsubscribedInsufficientState)
		}, "[]"},
		"dropped by the router, and never back": {func(_ *Server, sess *session, _ *fakeTransport, f *fakeMaps) {
			f.drop("m", router.UnsubscribedInsufficientState)
			sess.ended(disconnectClosed)
		}, "[m c1 removed]"},
		"while the store is not to be had": {func(_ *Server, sess *session, _ *fakeTransport, f *fakeMaps) {
			f.failing = []error{router.Unavailable("state", errors.New("x")), router.Unavailable("state", errors.New("x"))}
			sess.ended(disconnectClosed)
		}, "[m c1 removed m c1 removed m c1 removed]"},
		"while the key is being set": {func(s *Server, sess *session, _ *fakeTransport, f *fakeMaps) {
			f.hold = make(chan struct{})
			sess.onFrame([]byte(set))
			sess.ended(disconnectClosed)
			close(f.hold)
		}, "[m c1 1 m c1 removed]"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeMaps(router.MapOptions{Mode: router.MapEphemeral, ClientKey: router.ClientKeyClient, KeyTTL: time.Minute, RemoveOnUnsubscribe: true})
			s, sess, tr := mapSession(t, f, nil)
			ask(s, sess, tr, join, set)
			if got := f.changed(); got != "[m c1 1]" {
				t.Fatalf("changes %s", got)
			}
			tt.end(s, sess, tr, f)
			settle(s, sess)
			if got := f.changed(); got != tt.want && !(name == "while the key is being set" && strings.HasSuffix(got, "m c1 removed]")) {
				t.Errorf("changes %s, want %s", got, tt.want)
			}
		})
	}
}

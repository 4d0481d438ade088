package edge

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	tokens "github.com/headrace/headrace/edge/token"
	"github.com/headrace/headrace/router"
)

// What comes for a session while its server-side subscriptions are being made
// follows the connect reply, and the commands that follow wait for it.
func TestConnectReplyComesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeRouter()
		f.gate, f.gated = make(chan struct{}), "b"
		s := newTestServer(t, f, nil)
		sess, tr := newTestSession(s, jsonWS)
		go sess.onFrame([]byte(connectAs(tokens.Connection{User: "42", Channels: []string{"a", "b"}}) + "\n" + `{"id":2,"publish":{"channel":"a","data":3}}`))
		synctest.Wait()
		for i := range 2 {
			f.deliver("a", &router.Publication{Offset: uint64(i + 1), Data: fmt.Append(nil, i+1)})
		}
		f.offset = 2
		time.Sleep(15 * time.Second) // virtual: no connect timeout while it works
		sess.tick(time.Now())
		if got := tr.take(); len(got) != 0 || tr.closed() != 0 {
			t.Fatalf("before the reply: %q, closed %d", got, tr.closed())
		}
		close(f.gate)
		synctest.Wait()
		got := tr.take()
		for i := range got {
			got[i] = volatile.ReplaceAllString(got[i], `"$1":0`)
			got[i] = strings.Replace(got[i], `{"b":{},"a":{}}`, `{"a":{},"b":{}}`, 1) // a map's order
		}
		want := []string{
			`{"id":1,"connect":{"client":"c1","version":"test","subs":{"a":{},"b":{}},"ping":25,"pong":true,"time":0}}`,
			`{"push":{"channel":"a","pub":{"data":1,"offset":1}}}`,
			`{"push":{"channel":"a","pub":{"data":2,"offset":2}}}`,
			`{"push":{"channel":"a","pub":{"data":3,"info":{"user":"42","client":"c1"},"offset":3}}}`,
			`{"id":2,"publish":{}}`,
		}
		if !slices.Equal(got, want) {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	})
}

// A connect that fails for want of a channel leaves nothing behind, and may be
// tried again on the same connection.
func TestFailedConnectLeavesNothing(t *testing.T) {
	f := newFakeRouter()
	f.fail = router.Unavailable("channel", nil)
	s, sess, tr := play(t, f, nil, serverSideA)
	if got := strings.Join(tr.take(), "\n"); got != `{"id":1,"error":{"code":100,"message":"channel is temporarily unavailable","temporary":true}}` {
		t.Errorf("got %s", got)
	}
	f.fail = nil
	if len(f.subs["a"]) != 0 || len(s.sessions.byUser) != 0 {
		t.Errorf("left behind: %v, %v", f.subs, s.sessions.byUser)
	}
	sess.onFrame([]byte(serverSideA))
	settle(s, sess)
	if got := strings.Join(tr.take(), "\n"); !strings.Contains(got, `"subs":{"a":{}}`) || len(f.subs["a"]) != 1 {
		t.Errorf("second try: %s", got)
	}
}

func TestSessionThatEndsWhileConnecting(t *testing.T) {
	f := newFakeRouter()
	f.gate = make(chan struct{})
	s := newTestServer(t, f, nil)
	sess, _ := newTestSession(s, jsonWS)
	sess.onFrame([]byte(serverSideA))
	sess.ended(disconnectClosed)
	close(f.gate)
	settle(s, sess)
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.subs["a"]) != 0 || len(s.sessions.byUser)+len(s.sessions.byID)+len(s.sessions.joining) != 0 {
		t.Errorf("left behind: %v, %+v", f.subs, s.sessions)
	}
}

func TestPersonalChannel(t *testing.T) {
	for name, tt := range map[string]struct{ namespace, user, want string }{
		"in a namespace":     {"personal", "42", `"subs":{"personal:#42":{}}`},
		"in the default one": {"default", "42", `"subs":{"#42":{}}`},
		"without a user id":  {"personal", "", `"version":"test","ping"`},
		"not configured":     {"", "42", `"version":"test","ping"`},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, tr := play(t, newFakeRouter(), func(c *Config) { c.PersonalNamespace = tt.namespace }, connectAs(tokens.Connection{User: tt.user}))
			if got := strings.Join(tr.take(), "\n"); !strings.Contains(got, tt.want) {
				t.Errorf("got %s, want %s in it", got, tt.want)
			}
		})
	}
}

// What the server does to a session waits for the client's command to the same
// channel, and is answered when the session ends meanwhile.
func TestControlKeepsTheOrderOfAChannel(t *testing.T) {
	for name, end := range map[string]bool{"the command goes on": false, "the session ends": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFakeRouter()
				f.gate = make(chan struct{})
				s := newTestServer(t, f, nil)
				sess, tr := newTestSession(s, jsonWS)
				sess.onFrame([]byte(connectAs(tokens.Connection{User: "42"}) + "\n" + subscribeA))
				answer := make(chan router.Controlled, 1)
				go func() {
					answer <- s.sessions.Control(t.Context(), router.Control{Op: router.ControlUnsubscribe, User: "42", Channel: "a", Code: 2000, Reason: "bye"})
				}()
				synctest.Wait()
				want := router.Controlled{Sessions: 1}
				if end {
					sess.ended(disconnectClosed)
					want.Sessions = 0
				}
				close(f.gate)
				if got := <-answer; got != want {
					t.Errorf("answered %+v, want %+v", got, want)
				}
				frames := tr.take()
				if last := frames[len(frames)-1]; !end && last != `{"push":{"channel":"a","unsubscribe":{"code":2000,"reason":"bye"}}}` {
					t.Errorf("frames %q", frames)
				}
				settle(s, sess)
				if len(f.subs["a"]) != 0 {
					t.Error("still subscribed")
				}
			})
		})
	}
}

// What the client is told with a subscription is one line of JSON, base64 if need be.
func TestDataOfAServerSideSubscription(t *testing.T) {
	for name, tt := range map[string]struct {
		data string
		want router.Controlled
		push string
	}{
		"of several lines": {"{\n  \"a\": 1\n}", router.Controlled{Sessions: 1}, `{"push":{"channel":"a","subscribe":{"data":{"a":1}}}}`},
		"none":             {"", router.Controlled{Sessions: 1}, `{"push":{"channel":"a","subscribe":{}}}`},
		"not JSON":         {"\xff", router.Controlled{Sessions: 1}, `{"push":{"channel":"a","subscribe":{"data":"/w=="}}}`},
	} {
		t.Run(name, func(t *testing.T) {
			s, _, tr := play(t, newFakeRouter(), nil, connectAs(tokens.Connection{User: "42"}))
			tr.take()
			got := s.sessions.Control(t.Context(), router.Control{Op: router.ControlSubscribe, User: "42", Channel: "a", Data: []byte(tt.data)})
			if push := strings.Join(tr.take(), "\n"); got != tt.want || push != tt.push {
				t.Errorf("%+v, %s; want %+v, %s", got, push, tt.want, tt.push)
			}
		})
	}
}

// The claim subs says more of a subscription than channels: what others and the
// client are told, and what the client may do.
func TestSubsClaim(t *testing.T) {
	f := newFakeRouter()
	s, sess, tr := play(t, f, nil, connectAs(tokens.Connection{User: "42", Channels: []string{"a"}, Subs: map[string]tokens.SubscribeOptions{
		"a": {Info: []byte(`{"role":"guest"}`), Data: []byte("{\n\"n\":1}"), Allow: router.OpsOf(router.OpPublish)},
	}}))
	if got := strings.Join(tr.take(), "\n"); !strings.Contains(got, `"subs":{"a":{"data":{"n":1}}}`) {
		t.Errorf("connect reply: %s", got)
	}
	for sub := range f.subs["a"] {
		if string(sub.Info.ChanInfo) != `{"role":"guest"}` || sub.Info.User != "42" {
			t.Errorf("info %+v", sub.Info)
		}
	}
	if c := sess.find("a"); c == nil || !c.serverSide || c.allow != router.OpsOf(router.OpPublish) {
		t.Errorf("state %+v", c)
	}
	s.sessions.Control(t.Context(), router.Control{Op: router.ControlUnsubscribe, User: "42", Channel: "a", Code: 2000})
	if len(f.subs["a"]) != 0 {
		t.Error("still subscribed")
	}
}

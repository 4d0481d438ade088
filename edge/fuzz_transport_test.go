package edge

import (
	"maps"
	"net/http"
	"net/url"
	"slices"
	"testing"

	"github.com/centrifugal/protocol"

	"github.com/headrace/headrace/router"
)

// FuzzEmulation posts any body: it is refused, or is what it says.
func FuzzEmulation(f *testing.F) {
	f.Add([]byte(`{"session":"c.s","node":"n","data":"{\"id\":2}"}`), false)
	b, _ := (&protocol.EmulationRequest{Session: "c.s", Node: "n", Data: []byte("x")}).MarshalVT()
	f.Add(b, true)
	f.Add([]byte(`{"session":1}`), false)
	f.Fuzz(func(t *testing.T, body []byte, binary bool) {
		req, err := decodeEmulation(body, binary)
		if err != nil {
			return
		}
		if err := NewSessions().Post(req.Session, req.Data); router.CodeOf(err) != router.CodeNotOnline {
			t.Errorf("an empty node took it: %v", err)
		}
	})
}

// FuzzPostbox posts any commands to a session: whatever comes, its postbox stays
// within bounds, and a command is never taken twice.
func FuzzPostbox(f *testing.F) {
	f.Add([]byte(`{"id":2,"rpc":{"method":"m"}}`+"\n"+`{"id":3,"rpc":{"method":"m"}}`), []byte(`{"id":2,"rpc":{"method":"m"}}`))
	f.Add([]byte(`{"id":4294967295,"rpc":{"method":"m"}}`), []byte(`{"id":1,"rpc":{"method":"m"}}`))
	f.Add([]byte(`{}`), []byte(`{"id":0,"send":{}}`))
	f.Fuzz(func(t *testing.T, one, two []byte) {
		s := newTestServer(t, newFakeRouter(), nil)
		sess, _ := newTestSession(s, jsonStream)
		sess.connected = true
		p := newPostbox(sess)
		for _, data := range [][]byte{one, two, one} {
			p.post(data) //nolint:errcheck // refused, or not
			p.mu.Lock()
			if p.size > s.cfg.QueueBytes || p.size < 0 {
				t.Errorf("%d bytes wait", p.size)
			}
			p.mu.Unlock()
		}
		p.stop()
		for id := range uint32(200) {
			if p.mark(id) && p.mark(id) {
				t.Errorf("id %d is taken twice", id)
			}
		}
		sess.ended(disconnectClosed)
		settle(s, sess)
	})
}

// FuzzPositions reads positions and writes them: the same come back.
func FuzzPositions(f *testing.F) {
	f.Add("h:a@12:inc.life,b~26@0:inc~7E1z")
	f.Add("a@1")
	f.Add("@:")
	f.Fuzz(func(t *testing.T, text string) {
		at, err := parsePositions(text)
		if err != nil {
			return
		}
		var ps positions
		for _, name := range slices.Sorted(maps.Keys(at)) {
			ps = append(ps, position{name, at[name]})
		}
		again, err := parsePositions(ps.String())
		if err != nil || !maps.Equal(at, again) {
			t.Errorf("%q came back as %q: %v", text, ps.String(), err)
		}
	})
}

// FuzzOneWayQuery takes any URL and Last-Event-ID: it is refused, or each channel
// that is wanted has a name.
func FuzzOneWayQuery(f *testing.F) {
	f.Add("channel=a&sub_token=x&join_leave=true", "a@1:e")
	f.Add(`cf_connect={"subs":{"a":null}}&channel=b`, "junk")
	f.Fuzz(func(t *testing.T, query, since string) {
		cmd, err := oneWayQuery(&http.Request{URL: &url.URL{RawQuery: query}}, since)
		if err != nil {
			return
		}
		for name, sub := range cmd.Connect.Subs {
			if sub == nil || sub.Channel != "" && sub.Channel != name {
				t.Errorf("%q: %v", name, sub)
			}
		}
	})
}

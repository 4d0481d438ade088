package test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/edge"
	"github.com/headrace/headrace/internal/natstest"
	"github.com/headrace/headrace/router"
	"github.com/headrace/headrace/test/rawclient"
)

type inboxSent struct {
	Status  string `json:"status"`
	Number  uint64 `json:"number"`
	Devices int    `json:"devices"`
}

type inboxStands struct {
	Channel string
	Cursor  uint64
	Head    uint64
	Unread  int
	New     bool
	Gone    bool
}

func (c *inboxClient) must(t *testing.T, method string, in, out any) {
	t.Helper()
	if err := c.rpc(method, in, out); err != nil {
		t.Fatalf("%s %v: %v", method, in, err)
	}
}

func (c *inboxClient) send(t *testing.T, user string, n int) inboxSent {
	t.Helper()
	var sent inboxSent
	c.must(t, "inbox.send", map[string]any{"user": user, "data": map[string]int{"n": n}, "type": "note"}, &sent)
	return sent
}

// enter subscribes a device that knows nothing but its name.
func (c *inboxClient) enter(t *testing.T, user, device string) inboxSubscribed {
	t.Helper()
	s, err := c.subscribe(map[string]any{"channel": "inbox:#" + user, "data": map[string]string{"device": device}})
	if err != nil {
		t.Fatalf("subscribe %s of %s: %v", device, user, err)
	}
	return s
}

func offsets(pubs []inboxPub) string {
	var b strings.Builder
	for _, p := range pubs {
		fmt.Fprintf(&b, "%d:%d ", p.Offset, p.Data.N)
	}
	return strings.TrimSpace(b.String())
}

// Alice writes to Bob, who is offline, then online with two devices on two edges.
func TestI1MessagesReachAllDevices(t *testing.T) {
	h := newHarness(t, 1, 2)
	edges := h.list()
	alice := inboxUser(t, edges[0].url, "alice")
	for n := 1; n <= 3; n++ {
		if got := alice.send(t, "bob", n); got != (inboxSent{"stored", uint64(n), 0}) {
			t.Fatalf("sent to nobody: %+v", got)
		}
	}
	phone, laptop := inboxUser(t, edges[0].url, "bob"), inboxUser(t, edges[1].url, "bob")
	at := phone.enter(t, "bob", "phone")
	if !at.Data.New || !at.Recovered || at.Data.Gone || offsets(at.Publications) != "1:1 2:2 3:3" {
		t.Errorf("the new phone got %+v", at)
	}
	if p := at.Publications[0]; p.Info.User != "alice" || p.Tags["type"] != "note" {
		t.Errorf("the message says %+v", p)
	}
	var acked struct {
		Cursor uint64
		Moved  bool
	}
	phone.must(t, "inbox.ack", map[string]any{"device": "phone", "number": 2}, &acked)
	if acked.Cursor != 2 || !acked.Moved {
		t.Errorf("acked %+v", acked)
	}
	laptop.enter(t, "bob", "laptop")
	if got := alice.send(t, "bob", 4); got != (inboxSent{"delivered", 4, 2}) {
		t.Errorf("sent to two devices: %+v", got)
	}
	for name, c := range map[string]*inboxClient{"phone": phone, "laptop": laptop} {
		if err := c.waitFor(4, 10*time.Second); err != nil || offsets(c.received()) != "1:1 2:2 3:3 4:4" {
			t.Errorf("%s got %s (%v)", name, offsets(c.received()), err)
		}
	}
	var st inboxStands
	laptop.must(t, "inbox.unread", map[string]any{"device": "phone"}, &st)
	if st.Unread != 2 || st.Cursor != 2 || st.Head != 4 {
		t.Errorf("the phone has not read %+v", st)
	}
	// A fresh page of the phone, on the other edge, gets what it has not acked.
	phone.Close()
	again := inboxUser(t, edges[1].url, "bob")
	if at := again.enter(t, "bob", "phone"); at.Data.New || at.Data.Cursor != 2 || !at.Recovered || offsets(at.Publications) != "3:3 4:4" {
		t.Errorf("the phone came back to %+v", at)
	}
	natstest.Eventually(t, 10*time.Second, "end of the first page", func() bool { return alice.send(t, "bob", 5).Devices == 2 })
}

// Commands of one client are stored in their order, with a limit per user too.
func TestI1OrderOfASender(t *testing.T) {
	for name, tune := range map[string]func(*edge.Config){
		"without a limit": func(*edge.Config) {},
		"with a limit":    func(c *edge.Config) { c.UserLimit = slowLimit{} },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t, 1, 1, tune)
			alice := inboxUser(t, h.any().url, "alice")
			const count = 50
			for n := 1; n <= count; n++ {
				_, err := alice.Send("rpc", map[string]any{"method": "inbox.send", "data": map[string]any{"user": "bob", "data": map[string]int{"n": n}}})
				if err != nil {
					t.Fatal(err)
				}
			}
			bob := inboxUser(t, h.any().url, "bob")
			bob.enter(t, "bob", "phone")
			if err := bob.waitFor(count, 20*time.Second); err != nil {
				t.Fatal(err)
			}
			for i, p := range bob.received() {
				if p.Offset != uint64(i+1) || p.Data.N != i+1 {
					t.Fatalf("message %d is number %d with %d", i+1, p.Offset, p.Data.N)
				}
			}
		})
	}
}

// refusedWith returns the protocol's error code of err.
func refusedWith(err error) uint32 {
	var r *rawclient.ReplyError
	if errors.As(err, &r) {
		return r.Code
	}
	return 0
}

func TestI1WhoMayDoWhat(t *testing.T) {
	h := newHarness(t, 1, 1, func(c *edge.Config) { c.Insecure, c.AllowAnonymous = false, true })
	closed := newHarness(t, 1, 1, func(c *edge.Config) { c.Insecure, c.Inbox.AllowSend = false, false })
	none := newHarness(t, 1, 1, func(c *edge.Config) { c.Inbox = edge.InboxConfig{} })
	url := h.any().url
	alice, mallory, nobody := inboxUser(t, url, "alice"), inboxUser(t, url, "mallory"), inboxUser(t, url, "")
	sender := inboxUser(t, url, "bob")
	for n := 1; n <= 3; n++ {
		sender.send(t, "alice", n)
	}
	alice.must(t, "inbox.ack", map[string]any{"device": "phone", "number": 2}, nil)
	own := map[string]string{"device": "phone"}
	for name, tt := range map[string]struct {
		err  error
		want uint32
	}{
		"subscribe to another's inbox":         {subscribeError(mallory, "inbox:#alice", nil), 103},
		"with her device's name":               {subscribeError(mallory, "inbox:#alice", own), 103},
		"an inbox of two":                      {subscribeError(mallory, "inbox:#alice,mallory", nil), 107},
		"a name before the user":               {subscribeError(mallory, "inbox:x#mallory", nil), 107},
		"publish into another's":               {commandError(mallory, "publish", map[string]any{"channel": "inbox:#alice", "data": 1}), 103},
		"publish into one's own":               {commandError(mallory, "publish", map[string]any{"channel": "inbox:#mallory", "data": 1}), 103},
		"history of another's":                 {commandError(mallory, "history", map[string]any{"channel": "inbox:#alice", "limit": 10}), 103},
		"subscription data that is no device":  {subscribeError(alice, "inbox:#alice", map[string]int{"device": 1}), 107},
		"ack without a device":                 {mallory.rpc("inbox.ack", map[string]any{"number": 0}, nil), 107},
		"ack with a user in it":                {mallory.rpc("inbox.ack", map[string]any{"user": "alice", "device": "phone", "number": 3}, nil), 107},
		"a device name that is too long":       {mallory.rpc("inbox.open", map[string]any{"device": strings.Repeat("d", 65)}, nil), 107},
		"anonymous opens":                      {nobody.rpc("inbox.open", own, nil), 103},
		"anonymous sends":                      {nobody.rpc("inbox.send", map[string]any{"user": "alice", "data": 1}, nil), 103},
		"anonymous sends without storing":      {nobody.rpc("inbox.send", map[string]any{"user": "alice", "data": 1, "store": false}, nil), 103},
		"anonymous subscribes":                 {subscribeError(nobody, "inbox:#", nil), 107},
		"too large":                            {mallory.rpc("inbox.send", map[string]any{"user": "alice", "data": strings.Repeat("x", 5000)}, nil), 106},
		"to a user with a separator":           {mallory.rpc("inbox.send", map[string]any{"user": "alice,bob", "data": 1}, nil), 107},
		"from another user":                    {mallory.rpc("inbox.send", map[string]any{"user": "alice", "data": 1, "from": "bob"}, nil), 107},
		"a method that is none":                {mallory.rpc("inbox.clear", map[string]any{}, nil), 104},
		"direct, to nobody":                    {mallory.rpc("inbox.send", map[string]any{"user": "carol", "data": 1, "store": false}, nil), 108},
		"clients may not send":                 {inboxUser(t, closed.any().url, "eve").rpc("inbox.send", map[string]any{"user": "alice", "data": 1}, nil), 103},
		"clients may not send without storing": {inboxUser(t, closed.any().url, "eve").rpc("inbox.send", map[string]any{"user": "alice", "data": 1, "store": false}, nil), 103},
		"no inboxes":                           {inboxUser(t, none.any().url, "eve").rpc("inbox.open", own, nil), 108},
	} {
		if got := refusedWith(tt.err); got != tt.want {
			t.Errorf("%s: %v, want %d", name, tt.err, tt.want)
		}
	}
	// Mallory's device of the same name is another one.
	mallory.must(t, "inbox.open", own, nil)
	var st inboxStands
	alice.must(t, "inbox.unread", own, &st)
	if st.Unread != 1 || st.Cursor != 2 || st.Head != 3 {
		t.Errorf("alice's phone stands at %+v", st)
	}
}

func subscribeError(c *inboxClient, channel string, data any) error {
	body := map[string]any{"channel": channel}
	if data != nil {
		body["data"] = data
	}
	return commandError(c, "subscribe", body)
}

func commandError(c *inboxClient, command string, body any) error {
	_, err := c.do(command, body)
	return err
}

// What is no longer stored is told: by eviction, clearing, and a new life.
func TestI1GoneIsTold(t *testing.T) {
	h := newHarness(t, 1, 2)
	sender := inboxUser(t, h.any().url, "alice")
	reader := inboxUser(t, h.any().url, "bob")
	for n := 1; n <= 60; n++ { // the inbox keeps 50
		sender.send(t, "bob", n)
		if n == 1 {
			reader.must(t, "inbox.ack", map[string]any{"device": "old", "number": 1}, nil)
		}
		if n == 30 {
			reader.must(t, "inbox.ack", map[string]any{"device": "newer", "number": 30}, nil)
		}
	}
	var st inboxStands
	reader.must(t, "inbox.unread", map[string]any{"device": "old"}, &st)
	if !st.Gone || st.Unread != 50 || st.Cursor != 1 {
		t.Errorf("the old device stands at %+v", st)
	}
	st = inboxStands{}
	reader.must(t, "inbox.unread", map[string]any{"device": "newer"}, &st)
	if st.Gone || st.Unread != 30 || st.Cursor != 30 {
		t.Errorf("the newer device stands at %+v", st)
	}
	at := inboxUser(t, h.any().url, "bob").enter(t, "bob", "old")
	if at.Recovered || !at.Data.Gone || len(at.Publications) != 50 || at.Publications[0].Offset != 11 {
		t.Errorf("the old device got %d messages, recovered %t, %+v", len(at.Publications), at.Recovered, at.Data)
	}
	at = inboxUser(t, h.any().url, "bob").enter(t, "bob", "newer")
	if !at.Recovered || at.Data.Gone || len(at.Publications) != 30 {
		t.Errorf("the newer device got %d messages, recovered %t, %+v", len(at.Publications), at.Recovered, at.Data)
	}
	// A page that is too old for its own position gets the rest, and is told.
	s, err := inboxUser(t, h.any().url, "bob").subscribe(map[string]any{
		"channel": "inbox:#bob", "recover": true, "offset": 5, "epoch": at.Epoch, "data": map[string]string{"device": "newer"}})
	if err != nil || s.Recovered || !s.Data.Gone || len(s.Publications) != 50 || s.Offset != 10 {
		t.Errorf("an old page got %d messages after %d, recovered %t, %v", len(s.Publications), s.Offset, s.Recovered, err)
	}
	// Another life of the inbox: the cursor's numbers mean nothing in it.
	js := jetStream(t, h.connect())
	for _, name := range []string{"HR_LOG_inbox_0", "HR_LOG_inbox_1"} {
		stream, err := js.Stream(t.Context(), name)
		if err == nil {
			err = stream.Purge(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	h.replace(0)
	h.replace(1)
	sender = inboxUser(t, h.any().url, "alice")
	sender.send(t, "bob", 61)
	at = inboxUser(t, h.any().url, "bob").enter(t, "bob", "newer")
	if at.Recovered || !at.Data.Gone || offsets(at.Publications) != "1:61" {
		t.Errorf("after a new life the device got %s, recovered %t, %+v", offsets(at.Publications), at.Recovered, at.Data)
	}
}

// The device whose cursor was written longest ago makes room for a new one.
func TestI1DevicesAreBounded(t *testing.T) {
	h := newHarness(t, 1, 1) // max_devices is 4
	inbox := h.any().node.Inbox()
	sender := inboxUser(t, h.any().url, "alice")
	sender.send(t, "bob", 1)
	for _, device := range []string{"a", "b", "c", "d"} {
		if _, err := inbox.Ack(t.Context(), "bob", device, router.Position{Offset: 1}); err != nil {
			t.Fatal(err)
		}
	}
	sender.send(t, "bob", 2)
	if _, err := inbox.Ack(t.Context(), "bob", "a", router.Position{Offset: 2}); err != nil { // now b is the oldest
		t.Fatal(err)
	}
	if st, err := inbox.Open(t.Context(), "bob", "e"); err != nil || !st.New || st.Unread != 2 {
		t.Fatalf("open: %+v %v", st, err)
	}
	for device, known := range map[string]bool{"a": true, "b": false, "c": true, "d": true, "e": true} {
		st, err := inbox.Unread(t.Context(), "bob", device)
		if err != nil || st.New == known {
			t.Errorf("device %s: new %t, %v", device, st.New, err)
		}
	}
}

package test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headrace/headrace/router"
)

// crowd is many users whose devices come and go while others write to them.
type crowd struct {
	h        *harness
	messages int // to each user
	users    []*crowdUser
	visits   atomic.Int64
	doubts   atomic.Int64 // acks whose outcome was not known
	gaveUp   atomic.Int64 // visits that an edge's end cut short
}

// crowdUser has two devices: a page that is fresh each time and knows nothing but
// its name, and an app that keeps its position.
type crowdUser struct {
	name  string
	token string
	page  crowdDevice
	app   crowdDevice
}

// crowdDevice is what a device remembers, and what the test knows of it. Visits of
// one device follow each other.
type crowdDevice struct {
	device string // "" keeps its position instead
	offset uint64
	epoch  string

	seen  map[uint64]int // times each number was delivered
	value map[uint64]int
	acked uint64 // confirmed
	tried uint64 // may be acked: no answer came
}

// crowdSize is the number of users: as in the environment, else what the test
// takes some seconds for.
func crowdSize(t *testing.T, size int) int {
	t.Helper()
	if text := os.Getenv("HEADRACE_TEST_INBOX_USERS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if raceEnabled {
		size /= 5
	}
	return size
}

// Nothing lost, nothing twice per device, whatever edges the devices and the
// senders are on, also when an edge is killed in the middle.
func TestI1ManyInboxes(t *testing.T) {
	for name, tt := range map[string]struct{ replicas, users int }{
		"R1": {1, 2000},
		"R3": {3, 500},
	} {
		t.Run(name, func(t *testing.T) {
			c := &crowd{h: newHarness(t, tt.replicas, 3), messages: 3}
			for i := range crowdSize(t, tt.users) {
				u := &crowdUser{name: fmt.Sprintf("user.%d", i)}
				var err error
				if u.token, err = mintFor(u.name); err != nil {
					t.Fatal(err)
				}
				u.page.device = "page"
				c.users = append(c.users, u)
			}
			start := time.Now()
			c.live(t)
			lived := time.Since(start)
			c.judge(t)
			t.Logf("%d users, %d messages, %d visits, %d cut short, %d acks in doubt: %v, then %v to look at the end",
				len(c.users), len(c.users)*c.messages, c.visits.Load(), c.gaveUp.Load(), c.doubts.Load(), lived, time.Since(start)-lived)
		})
	}
}

// live sends all messages while devices come and go, and kills an edge.
func (c *crowd) live(t *testing.T) {
	var senders, visitors sync.WaitGroup
	var sent atomic.Int64
	half := make(chan struct{})
	for i := range 32 {
		senders.Go(func() {
			for n := 1; n <= c.messages; n++ {
				for j := i; j < len(c.users); j += 32 {
					c.send(t, c.users[j].name, n) // or give up, and fail
					if sent.Add(1) == int64(len(c.users)*c.messages/2) {
						close(half)
					}
				}
			}
		})
	}
	for i := range 32 {
		visitors.Go(func() {
			for sent.Load() < int64(len(c.users)*c.messages) && c.visits.Load() < int64(len(c.users)) {
				u := c.users[rand.IntN(len(c.users)-i)/32*32+i] // of this visitor's, so that visits of a device do not overlap
				if u.app.offset == 0 || rand.IntN(2) == 0 {
					c.visit(t, u, &u.app, 0)
				} else {
					c.visit(t, u, &u.page, 0)
				}
			}
		})
	}
	<-half
	c.h.replace(rand.IntN(3))
	senders.Wait()
	visitors.Wait()
	// Everybody comes once more and gets the rest.
	for i := range 32 {
		visitors.Go(func() {
			for j := i; j < len(c.users); j += 32 {
				u := c.users[j]
				for _, d := range []*crowdDevice{&u.page, &u.app} {
					c.visit(t, u, d, uint64(c.messages))
				}
			}
		})
	}
	visitors.Wait()
}

// send stores message n for user through a random edge, again with the same key
// until it is known to be stored.
func (c *crowd) send(t *testing.T, user string, n int) {
	for attempt := 0; ; attempt++ {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		_, err := c.h.any().node.Inbox().Send(router.Message{
			To: user, Data: fmt.Appendf(nil, `{"n":%d}`, n), IdempotencyKey: strconv.Itoa(n), Info: &router.ClientInfo{User: "sender"},
		})(ctx)
		cancel()
		switch {
		case err == nil:
			return
		case attempt == 100:
			t.Errorf("send %d to %s: %v", n, user, err)
			return
		}
		time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond) // the edge may be a dead one
	}
}

// visit connects d to a random edge until it has seen number last, or, when that
// is 0, for a moment.
func (c *crowd) visit(t *testing.T, u *crowdUser, d *crowdDevice, last uint64) {
	for attempt := range 50 {
		err := c.visitOnce(t, u, d, last)
		c.visits.Add(1)
		if err == nil {
			return
		}
		c.gaveUp.Add(1)
		if attempt == 49 {
			t.Errorf("%s %q: %v", u.name, d.device, err)
		}
		time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond) // the edge may be a dead one
	}
}

func (c *crowd) visitOnce(t *testing.T, u *crowdUser, d *crowdDevice, last uint64) error {
	client, err := connectInbox(context.Background(), c.h.any().url, u.token)
	if err != nil {
		return err
	}
	// What arrived is the device's, whatever ends the visit.
	defer func() { client.Close(); d.note(client.received()) }()
	body := map[string]any{"channel": "inbox:#" + u.name}
	if d.device != "" {
		body["data"] = map[string]string{"device": d.device}
	} else {
		body["recover"], body["offset"], body["epoch"] = true, d.offset, d.epoch
	}
	s, err := client.subscribe(body)
	if err != nil {
		return err
	}
	if !s.Recovered || s.Data.Gone {
		t.Errorf("%s %q: recovered %t from %d, gone %t", u.name, d.device, s.Recovered, d.offset, s.Data.Gone)
	}
	if c := s.Data.Cursor; c < d.acked || c > d.tried {
		t.Errorf("%s: cursor %d, acked %d to %d", u.name, c, d.acked, d.tried)
	}
	if d.device != "" {
		d.began(s.Data.Cursor)
	} else {
		d.epoch = s.Epoch
	}
	if last > d.position(client.received()) {
		err = client.waitFor(last, 20*time.Second)
	} else if last == 0 {
		client.waitFor(uint64(c.messages), time.Duration(rand.IntN(50))*time.Millisecond) //nolint:errcheck // whatever comes
	}
	if err == nil && d.device != "" {
		err = c.ack(t, u, d, client)
	}
	return err
}

// position is the last number that the device has, with what came in this visit.
func (d *crowdDevice) position(got []inboxPub) uint64 {
	if len(got) > 0 {
		return got[len(got)-1].Offset
	}
	return max(d.offset, d.acked)
}

// began forgets what a page may get again: what was not acked, or not surely.
func (d *crowdDevice) began(cursor uint64) {
	for n := range d.seen {
		if n > cursor {
			delete(d.seen, n)
		}
	}
	d.acked, d.tried = cursor, max(d.tried, cursor)
}

// note adds what came in a visit.
func (d *crowdDevice) note(got []inboxPub) {
	if d.seen == nil {
		d.seen, d.value = make(map[uint64]int), make(map[uint64]int)
	}
	for _, p := range got {
		d.seen[p.Offset]++
		d.value[p.Offset] = p.Data.N
		d.offset = max(d.offset, p.Offset)
	}
}

// ack acks what came. The page forgets everything then: what it was told is
// acked must never come again.
func (c *crowd) ack(t *testing.T, u *crowdUser, d *crowdDevice, client *inboxClient) error {
	got := client.received()
	if len(got) == 0 {
		return nil
	}
	number := got[len(got)-1].Offset
	d.tried = max(d.tried, number)
	var acked struct{ Cursor uint64 }
	err := client.rpc("inbox.ack", map[string]any{"device": d.device, "number": number}, &acked)
	if err != nil {
		c.doubts.Add(1)
		return err
	}
	if acked.Cursor < number || acked.Cursor < d.acked {
		t.Errorf("%s: acked %d after %d, the cursor is %d", u.name, number, d.acked, acked.Cursor)
	}
	d.acked = acked.Cursor
	return nil
}

// judge looks at what every device got, and at the cursors.
func (c *crowd) judge(t *testing.T) {
	t.Helper()
	problems := 0
	for _, u := range c.users {
		for _, d := range []*crowdDevice{&u.page, &u.app} {
			if err := d.judge(c.messages); err != nil {
				if problems++; problems < 20 {
					t.Errorf("%s %q: %v", u.name, d.device, err)
				}
			}
		}
	}
	inbox := c.h.any().node.Inbox()
	for i := 0; i < len(c.users); i += max(1, len(c.users)/200) {
		name := c.users[i].name
		for device, want := range map[string]int{"page": 0, "another": c.messages} {
			st, err := inbox.Unread(t.Context(), name, device)
			if err != nil || st.Unread != want || st.Gone || st.Head.Offset != uint64(c.messages) {
				t.Errorf("%s %s: %+v %v, want %d unread", name, device, st, err, want)
			}
		}
	}
}

func (d *crowdDevice) judge(messages int) error {
	var errs []error
	values := make(map[int]bool)
	for n := uint64(1); n <= uint64(messages); n++ {
		if d.seen[n] != 1 {
			errs = append(errs, fmt.Errorf("number %d came %d times", n, d.seen[n]))
		}
		if values[d.value[n]] {
			errs = append(errs, fmt.Errorf("message %d was stored twice", d.value[n]))
		}
		values[d.value[n]] = true
	}
	if len(d.seen) != messages {
		errs = append(errs, fmt.Errorf("%d numbers", len(d.seen)))
	}
	return errors.Join(errs...)
}

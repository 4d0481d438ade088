package test

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headrace/headrace/edge/token"
	"github.com/headrace/headrace/test/rawclient"
)

// inboxClient is one connection of a user's device.
type inboxClient struct {
	*rawclient.Client

	mu      sync.Mutex // guards the fields below
	replies map[uint32]chan *rawclient.Reply
	got     []inboxPub // pushed or recovered, in order
	arrived chan struct{}
}

// inboxPub is a message as a subscription delivers it.
type inboxPub struct {
	Offset uint64 `json:"offset"`
	Data   struct {
		N int `json:"n"`
	} `json:"data"`
	Info struct {
		User string `json:"user"`
	} `json:"info"`
	Tags map[string]string `json:"tags"`
}

// inboxSubscribed is a reply to subscribe as a device sees it.
type inboxSubscribed struct {
	Offset       uint64     `json:"offset"`
	Epoch        string     `json:"epoch"`
	Recovered    bool       `json:"recovered"`
	Publications []inboxPub `json:"publications"`
	Data         struct {
		Device string `json:"device"`
		Cursor uint64 `json:"cursor"`
		New    bool   `json:"new"`
		Gone   bool   `json:"gone"`
	} `json:"data"`
}

// mintFor makes a connection token, which is slow enough to be worth keeping.
func mintFor(user string) (string, error) {
	if user == "" {
		return "", nil
	}
	return token.MintConnection(tokenSecret, token.Connection{User: user})
}

func connectInbox(ctx context.Context, url, text string) (*inboxClient, error) {
	c := &inboxClient{replies: make(map[uint32]chan *rawclient.Reply), arrived: make(chan struct{}, 1)}
	body := map[string]string{}
	if text != "" {
		body["token"] = text
	}
	var err error
	c.Client, _, err = rawclient.DialWith(ctx, url, body, c.on)
	return c, err
}

func (c *inboxClient) waiter(id uint32) chan *rawclient.Reply {
	if c.replies[id] == nil {
		c.replies[id] = make(chan *rawclient.Reply, 1)
	}
	return c.replies[id]
}

func (c *inboxClient) on(e rawclient.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.Reply != nil {
		if e.Reply.Subscribe != nil { // what was recovered comes before what is pushed
			var r struct{ Subscribe inboxSubscribed }
			json.Unmarshal([]byte(e.Raw), &r) //nolint:errcheck // rawclient has decoded it
			c.take(r.Subscribe.Publications...)
		}
		e.Reply.Raw = e.Raw
		c.waiter(e.Reply.ID) <- e.Reply
		return
	}
	var push struct{ Push struct{ Pub *inboxPub } }
	if json.Unmarshal([]byte(e.Raw), &push) == nil && push.Push.Pub != nil {
		c.take(*push.Push.Pub)
	}
}

func (c *inboxClient) take(pubs ...inboxPub) {
	c.got = append(c.got, pubs...)
	select {
	case c.arrived <- struct{}{}:
	default:
	}
}

func (c *inboxClient) received() []inboxPub {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]inboxPub(nil), c.got...)
}

var errInboxClosed = errors.New("connection closed")

// do sends a command and returns its reply; an error of the protocol is a
// *rawclient.ReplyError.
func (c *inboxClient) do(command string, body any) (*rawclient.Reply, error) {
	id, err := c.Send(command, body)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	ch := c.waiter(id)
	c.mu.Unlock()
	var r *rawclient.Reply
	select {
	case r = <-ch:
	case <-c.Done():
		return nil, errInboxClosed
	case <-time.After(30 * time.Second):
		return nil, errors.New("no reply within 30s")
	}
	c.mu.Lock()
	delete(c.replies, id)
	c.mu.Unlock()
	if r.Error != nil {
		return r, r.Error
	}
	return r, nil
}

// rpc calls a method and decodes the answer into out.
func (c *inboxClient) rpc(method string, in, out any) error {
	data, err := json.Marshal(in)
	if err != nil {
		return err
	}
	r, err := c.do("rpc", map[string]any{"method": method, "data": json.RawMessage(data)})
	if err != nil || out == nil {
		return err
	}
	return json.Unmarshal(r.RPC.Data, out)
}

func (c *inboxClient) subscribe(body map[string]any) (inboxSubscribed, error) {
	var out struct{ Subscribe inboxSubscribed }
	r, err := c.do("subscribe", body)
	if err == nil {
		err = json.Unmarshal([]byte(r.Raw), &out)
	}
	return out.Subscribe, err
}

// waitFor waits until message number has come.
func (c *inboxClient) waitFor(number uint64, bound time.Duration) error {
	deadline := time.After(bound)
	for {
		if got := c.received(); len(got) > 0 && got[len(got)-1].Offset >= number {
			return nil
		}
		select {
		case <-c.arrived:
		case <-c.Done():
			return errInboxClosed
		case <-deadline:
			return errors.New("the message did not come")
		}
	}
}

func inboxUser(t testing.TB, url, user string) *inboxClient {
	t.Helper()
	text, err := mintFor(user)
	if err != nil {
		t.Fatal(err)
	}
	c, err := connectInbox(context.Background(), url, text)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// slowLimit allows everything, after a random while.
type slowLimit struct{}

func (slowLimit) Take(context.Context, string) error {
	time.Sleep(rand.N(3 * time.Millisecond)) // it stands for a store that answers when it likes
	return nil
}

func jetStream(t testing.TB, nc *nats.Conn) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/headrace/headrace/test/check"
	"github.com/headrace/headrace/test/rawclient"
)

// common is in all payloads, so that there is something to leave out of deltas.
const common = " and what they all have in common"

// publish runs one publisher of ch until stop is closed.
func (r *run) publish(ch channel, number int, kind publisherKind, stop <-chan struct{}) {
	// Payloads name their channel; idempotency keys do not. The channels log:same.*
	// are published to with the same keys at the same time, which must not matter.
	name := fmt.Sprintf("%s %s%d", ch.name, kind, number)
	socket := socketPublisher{r: r}
	defer socket.close()
	for n := 0; ; n++ {
		from := name
		if kind == bySocket {
			// Another connection is another publisher: order holds along one way only.
			from = fmt.Sprintf("%s %d", name, socket.connect())
		}
		payload := fmt.Sprintf("%q", fmt.Sprintf("%s-%d%s", from, n, common))
		e := check.Event{Kind: check.Send, Who: name, At: socket.edge, Channel: ch.name, Payload: payload}
		r.history.Add(e)
		var at check.Position
		var err error
		switch kind {
		case byAPI:
			at, err = r.publishAPI(ch.name, fmt.Sprintf("key-%d", n), payload)
		case bySocket:
			err = socket.publish(ch.name, payload)
		case byNATS:
			err = r.publishNATS(ch.name, payload)
		}
		e.Kind, e.Offset, e.Epoch = check.Ack, at.Offset, at.Epoch
		if err != nil {
			e.Kind = check.Refuse
		}
		r.history.Add(e)
		r.progress(err)
		select {
		case <-stop:
			return
		case <-time.After(ch.every/2 + rand.N(ch.every)):
		}
	}
}

// giveUp bounds how long a publication is repeated: well below the duplicate
// window of two minutes.
const giveUp = 45 * time.Second

// publishAPI repeats one publication on any edge until it is acknowledged.
func (r *run) publishAPI(channel, key, payload string) (check.Position, error) {
	body, _ := json.Marshal(map[string]any{"channel": channel, "data": json.RawMessage(payload), "idempotency_key": key})
	var err error
	for deadline := time.Now().Add(giveUp); time.Now().Before(deadline); {
		var result struct {
			Offset uint64 `json:"offset"`
			Epoch  string `json:"epoch"`
		}
		if err = r.call(rand.IntN(size), "publish", body, &result); err == nil {
			return check.Position{Epoch: result.Epoch, Offset: result.Offset}, nil
		}
		time.Sleep(50*time.Millisecond + rand.N(100*time.Millisecond)) // the retry pause of an application
	}
	return check.Position{}, err
}

// call calls a method of edge i's HTTP API.
func (r *run) call(i int, method string, body []byte, result any) error {
	resp, err := r.c.web.Post(r.c.url(i)+"/api/"+method, "application/json", bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer := struct {
		Result any
		Error  *struct {
			Code    int
			Message string
		}
	}{Result: result}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return fmt.Errorf("%s: %w", resp.Status, err)
	}
	switch {
	case answer.Error != nil:
		return fmt.Errorf("%d: %s", answer.Error.Code, answer.Error.Message)
	case resp.StatusCode != http.StatusOK:
		return errors.New(resp.Status)
	}
	return nil
}

// publishNATS publishes as anything with a NATS client can. The same id makes
// repeats harmless.
func (r *run) publishNATS(channel, payload string) error {
	m := nats.NewMsg("hr.in." + subjectOf(channel))
	m.Data = []byte(payload)
	m.Header.Set(nats.MsgIdHdr, payload)
	var err error
	for deadline := time.Now().Add(giveUp); time.Now().Before(deadline); {
		var reply *nats.Msg
		if reply, err = r.c.nc.RequestMsg(m, 3*time.Second); err == nil {
			var ack struct {
				Seq   uint64
				Error *struct{ Description string }
			}
			if err = json.Unmarshal(reply.Data, &ack); err == nil && ack.Error == nil && ack.Seq > 0 {
				return nil
			}
			if ack.Error != nil {
				err = errors.New(ack.Error.Description)
			}
		}
		time.Sleep(100 * time.Millisecond) // the retry pause of an application
	}
	return err
}

// subjectOf returns the tokens of channel below hr.in. The channels of a run need
// no escaping.
func subjectOf(channel string) string {
	b := []byte(channel)
	if i := bytes.IndexByte(b, ':'); i >= 0 {
		b[i] = '.'
	}
	return string(b)
}

// socketPublisher publishes over the client protocol, on one connection as long
// as it lasts.
type socketPublisher struct {
	r      *run
	c      *rawclient.Client // nil when there is no connection
	number int               // of connections made
	edge   string            // where it is connected

	mu      sync.Mutex // guards waiting
	waiting map[uint32]chan *rawclient.Reply
}

var errLost = errors.New("connection lost")

// connect makes a connection unless there is one, and returns its number.
func (p *socketPublisher) connect() int {
	if p.c == nil {
		p.waiting = make(map[uint32]chan *rawclient.Reply)
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		i := rand.IntN(size)
		c, err := rawclient.DialIdle(ctx, p.r.c.url(i), clientIdle, p.take)
		if err == nil {
			p.c, p.edge = c, p.r.c.edges[i].name
			p.number++
		}
	}
	return p.number
}

func (p *socketPublisher) publish(channel, payload string) error {
	if p.c == nil {
		return errLost
	}
	answer := make(chan *rawclient.Reply, 1)
	p.mu.Lock() // the reply may come before Send returns
	id, err := p.c.Send("publish", map[string]any{"channel": channel, "data": json.RawMessage(payload)})
	p.waiting[id] = answer
	p.mu.Unlock()
	if err == nil {
		select {
		case reply := <-answer:
			if reply.Error == nil {
				return nil
			}
			return reply.Error
		case <-p.c.Done():
			err = errLost
		case <-time.After(15 * time.Second):
			err = errors.New("no reply within 15s")
		}
	}
	p.close()
	return err
}

func (p *socketPublisher) take(e rawclient.Event) {
	if e.Reply == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if answer := p.waiting[e.Reply.ID]; answer != nil {
		delete(p.waiting, e.Reply.ID)
		answer <- e.Reply
	}
}

func (p *socketPublisher) close() {
	if p.c != nil {
		p.c.Close()
		p.c = nil
	}
}

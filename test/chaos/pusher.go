package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/headrace/headrace/test/check"
)

// pusher pushes jobs, each repeated under one key until it is acknowledged.
type pusher struct {
	r    *run
	name string
	kind publisherKind
	wire *wire // of a socket pusher, while it has one
	// spare makes nine of ten killers harmless: among so many jobs workers would do
	// little else than die, and take the attempts of all they hold with them.
	spare bool
	n     int
}

// pushUntil pushes with a pause of about every between two jobs until stop is
// closed, or count is used up by all who share it.
func (p *pusher) pushUntil(stop <-chan struct{}, queue string, every time.Duration) {
	defer p.leave()
	for p.r.toPush.Add(-1) >= 0 {
		j := drawJob(queue, p.next())
		if p.kind == byNATS {
			j.delay = 0 // not on this way
		}
		if p.spare && deedOf([]byte(j.payload)) == doKiller && rand.IntN(10) > 0 {
			j.payload = fmt.Sprintf("%q", doOK+" "+j.name)
		}
		p.push(j)
		select {
		case <-stop:
			return
		case <-time.After(every/2 + rand.N(every)):
		}
	}
}

func (p *pusher) next() string {
	p.n++
	return fmt.Sprintf("%s-%d", p.name, p.n)
}

func (p *pusher) push(j newJob) {
	p.r.history.Add(j.event(check.Push, p.name))
	var err error
	for deadline := time.Now().Add(giveUp); ; {
		if err = p.once(&j); err == nil || time.Now().After(deadline) {
			break
		}
		time.Sleep(50*time.Millisecond + rand.N(100*time.Millisecond)) // the retry pause of an application
	}
	e := j.event(check.Pushed, p.name)
	if err != nil {
		e = j.event(check.NotPushed, p.name)
		e.Job.Error = err.Error()
		p.r.jobsRefused.Add(1)
	} else {
		p.r.jobsAcked.Add(1)
	}
	p.r.history.Add(e)
}

func (p *pusher) once(j *newJob) error {
	if p.kind == byNATS {
		return p.r.pushNATS(j)
	}
	body := map[string]any{"queue": j.queue, "data": json.RawMessage(j.payload), "priority": j.priority, "idempotency_key": j.name}
	if j.headers != nil {
		body["headers"] = j.headers
	}
	if j.delay > 0 {
		body["delay"] = j.delay.String()
	}
	if j.max > 0 {
		body["max_attempts"] = j.max
	}
	if p.kind == byAPI {
		b, _ := json.Marshal(body) //nolint:errcheck // strings and numbers
		return p.r.call(rand.IntN(size), "queue_push", b, nil)
	}
	if p.wire == nil {
		w, err := p.r.connect(p.name, nil)
		if err != nil {
			return err
		}
		p.wire = w
	}
	_, err := p.wire.rpc("queue.push", body)
	if errors.Is(err, errLost) {
		p.leave()
	}
	return err
}

func (p *pusher) leave() {
	if p.wire != nil {
		p.wire.c.Close()
		p.wire = nil
	}
}

// pushNATS pushes as anything with a NATS client can.
func (r *run) pushNATS(j *newJob) error {
	m := nats.NewMsg("hr.job." + j.queue + "." + j.priority)
	m.Data = []byte(j.payload)
	m.Header.Set(nats.MsgIdHdr, j.name)
	if j.max > 0 {
		m.Header.Set("Headrace-Max-Attempts", fmt.Sprint(j.max))
	}
	for k, v := range j.headers {
		m.Header.Set(k, v)
	}
	reply, err := r.c.nc.RequestMsg(m, 3*time.Second)
	if err != nil {
		return err
	}
	var ack struct {
		Seq   uint64
		Error *struct{ Description string }
	}
	switch err := json.Unmarshal(reply.Data, &ack); {
	case err != nil:
		return err
	case ack.Error != nil:
		return errors.New(ack.Error.Description)
	case ack.Seq == 0:
		return errors.New("no sequence in the acknowledgement")
	}
	return nil
}

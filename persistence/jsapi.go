package persistence

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/headrace/headrace/persistence/internal/jet"
	"github.com/headrace/headrace/router"
)

// api sends a JetStream API request that the leader answers and decodes the
// answer into out.
func (p *stream) api(ctx context.Context, op string, in, out any) error {
	var data []byte
	if in != nil {
		var err error
		if data, err = json.Marshal(in); err != nil {
			return fmt.Errorf("encode %s request: %w", op, err)
		}
	}
	m, err := p.req.Do(ctx, &nats.Msg{Subject: "$JS.API.STREAM." + op + "." + p.name, Data: data})
	if err != nil {
		return err
	}
	var refusal struct {
		Error *jet.APIError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &refusal); err != nil {
		return fmt.Errorf("decode %s answer: %w", op, err)
	}
	if refusal.Error != nil {
		return refusal.Error
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(m.Data, out)
}

type getRequest struct {
	Seq  uint64 `json:"seq,omitempty"`
	Last string `json:"last_by_subj,omitempty"`
}

type getAnswer struct {
	Error   *jet.APIError `json:"error"`
	Message *struct {
		Subject string    `json:"subject"`
		Seq     uint64    `json:"seq"`
		Header  []byte    `json:"hdrs"`
		Data    []byte    `json:"data"`
		Time    time.Time `json:"time"`
	} `json:"message"`
}

// get asks the leader for one message. Nothing there is the zero Entry.
func (p *stream) get(ctx context.Context, in getRequest) (e router.Entry, subject string, err error) {
	e, subject, _, err = p.getMessage(ctx, in)
	return e, subject, err
}

// getWithHeader is get with the headers instead of the subject.
func (p *stream) getWithHeader(ctx context.Context, in getRequest) (e router.Entry, h nats.Header, err error) {
	e, _, h, err = p.getMessage(ctx, in)
	return e, h, err
}

func (p *stream) getMessage(ctx context.Context, in getRequest) (e router.Entry, subject string, h nats.Header, err error) {
	m, err := p.getRaw(ctx, in)
	if err != nil || m == nil {
		return e, "", nil, err
	}
	if h, err = nats.DecodeHeadersMsg(m.header); err != nil {
		return e, "", nil, fmt.Errorf("decode get: %w", err)
	}
	if e, err = decodeEntry(h, m.data); err != nil {
		return e, m.subject, h, err
	}
	e.Seq, e.Time = m.seq, m.time
	p.sawSeq(e.Seq)
	return e, m.subject, h, nil
}

// storedMessage is a message of a stream as its leader tells it.
type storedMessage struct {
	subject string
	seq     uint64
	header  []byte // as on the wire
	data    []byte
	time    time.Time
}

// getRaw asks the leader for one message that need not be an entry. Nothing there
// is nil.
func (p *stream) getRaw(ctx context.Context, in getRequest) (*storedMessage, error) {
	data, err := json.Marshal(in)
	if err != nil {
		return nil, fmt.Errorf("encode get: %w", err)
	}
	m, err := p.req.Do(ctx, &nats.Msg{Subject: p.subjectMsgGet, Data: data})
	if err != nil {
		return nil, err
	}
	var a getAnswer
	if err := json.Unmarshal(m.Data, &a); err != nil {
		return nil, fmt.Errorf("decode get: %w", err)
	}
	if a.Error != nil && a.Error.ErrCode != jet.CodeMessageNotFound {
		return nil, a.Error
	}
	if !p.replicated {
		p.contact()
	}
	if a.Error != nil || a.Message == nil {
		return nil, nil
	}
	return &storedMessage{a.Message.Subject, a.Message.Seq, a.Message.Header, a.Message.Data, a.Message.Time}, nil
}

type infoAnswer struct {
	State struct {
		Messages uint64 `json:"messages"`
		FirstSeq uint64 `json:"first_seq"`
		LastSeq  uint64 `json:"last_seq"`
	} `json:"state"`
	Cluster *struct {
		Replicas []struct {
			Offline bool          `json:"offline"`
			Active  time.Duration `json:"active"` // since the leader last heard of it
		} `json:"replicas"`
	} `json:"cluster"`
}

// quorum reports whether whoever answered heard of a majority within bound. A
// leader that is cut off goes on answering for about 10 s, until it notices
// (nats-server raft.go, lostQuorumInterval).
func (a *infoAnswer) quorum(bound time.Duration) bool {
	if a.Cluster == nil || len(a.Cluster.Replicas) == 0 {
		return true
	}
	heard := 1 // the leader itself
	for _, r := range a.Cluster.Replicas {
		// A replica never heard of has 0 there, after all servers were restarted (nats-server
		// jetstream_cluster.go, clusterInfo).
		if !r.Offline && r.Active > 0 && r.Active < bound {
			heard++
		}
	}
	return 2*heard > len(a.Cluster.Replicas)+1
}

var errNoQuorum = errors.New("the leader has no majority")

// info asks the leader for the stream's state.
func (p *stream) info(ctx context.Context) (infoAnswer, error) {
	var a infoAnswer
	if err := p.api(ctx, "INFO", nil, &a); err != nil {
		return a, err
	}
	if !a.quorum(p.cfg.ContactBound) {
		return a, errNoQuorum
	}
	p.contact()
	p.sawSeq(a.State.LastSeq)
	return a, nil
}

package edge

import (
	"crypto/rand"
	"crypto/subtle"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/centrifugal/protocol"

	"github.com/headrace/headrace/router"
)

// commandCost is what a decoded command counts beside its bytes.
const commandCost = 200

// postbox puts the commands that a client posts in requests of their own into
// order, and hands them to its session one by one. The order is that of their
// ids, which SDKs count up by one. What has no id (pongs, messages that are not
// answered) is taken as it comes. A goroutine lives as long as there is work.
type postbox struct {
	sess *session // set by newPostbox, read-only afterwards

	mu      sync.Mutex // guards the fields below
	ready   []post     // to be taken, in this order
	early   []post     // by first id: something before them is missing
	size    int        // of all posts that were not taken yet, at most cfg.QueueBytes
	next    uint32     // the id that should come; 0 before the first
	seen    uint64     // bit i: command next-1-i was accepted
	gap     *time.Timer
	running bool
	closed  bool
	idle    sync.Cond // signalled when running ends
}

// post is the commands of one request.
type post struct {
	first, last uint32 // ids; first is 0 when no command has one
	commands    []*protocol.Command
	size        int
}

func newPostbox(s *session) *postbox {
	p := &postbox{sess: s}
	p.idle.L = &p.mu
	return p
}

// newSecret returns what makes the name of a session unguessable: 130 random bits.
func newSecret() string { return rand.Text() }

var (
	errNoSession  = router.Errorf(router.CodeNotOnline, "no such session on this node")
	errRepeated   = router.Errorf(router.CodeConflict, "these commands were taken already; ids must grow")
	errBadPost    = router.Errorf(router.CodeInvalid, "malformed commands")
	errPostsQueue = router.Errorf(router.CodeTooMany, "more commands wait than may")
)

// post takes the commands in data, which must not change afterwards. It does not
// block. When it fails with CodeInvalid or CodeTooMany the session is ended, since
// the client would wait for answers in vain.
func (p *postbox) post(data []byte) error {
	s := p.sess
	q := post{size: len(data)}
	err := s.kind.decodeCommands(data, func(cmd *protocol.Command) bool {
		q.commands = append(q.commands, cmd)
		q.size += commandCost
		if cmd.Id > 0 && (q.first == 0 || cmd.Id < q.first) {
			q.first = cmd.Id
		}
		q.last = max(q.last, cmd.Id)
		return q.size <= s.srv.cfg.QueueBytes
	})
	if err != nil {
		s.close(disconnectBadRequest)
		return errBadPost
	}
	s.srv.metrics.bytesIn.Add(int64(len(data)))
	p.mu.Lock()
	switch {
	case p.closed:
		err = errNoSession
	case p.size+q.size > s.srv.cfg.QueueBytes:
		err = errPostsQueue
	default:
		err = p.place(q)
		if len(p.ready) > 0 && !p.running {
			p.running = true
			go p.run()
		}
	}
	p.mu.Unlock()
	if err == errPostsQueue {
		s.close(disconnectTooMany)
	}
	return err
}

// place puts q where it belongs.
func (p *postbox) place(q post) error {
	if q.first != 0 && p.next != 0 && q.first > p.next {
		at, _ := slices.BinarySearchFunc(p.early, q.first, func(e post, id uint32) int { return int(int64(e.first) - int64(id)) })
		p.early = slices.Insert(p.early, at, q)
		p.size += q.size
		if len(p.early) == 1 {
			p.watch()
		}
		return nil
	}
	if !p.accept(&q) {
		return errRepeated
	}
	p.size += q.size
	p.fill()
	return nil
}

// accept makes q ready, without what was accepted before: browsers and proxies
// repeat a request whose connection broke. It returns false when nothing is left.
func (p *postbox) accept(q *post) bool {
	q.commands = slices.DeleteFunc(q.commands, func(cmd *protocol.Command) bool { return cmd.Id > 0 && !p.mark(cmd.Id) })
	if len(q.commands) == 0 {
		return false
	}
	p.ready = append(p.ready, *q)
	return true
}

// mark remembers that id was accepted. It returns false when it was before, or may
// have been.
func (p *postbox) mark(id uint32) bool {
	if id >= p.next {
		p.seen = p.seen<<(id-p.next+1) | 1
		p.next = id + 1
		return true
	}
	behind := p.next - 1 - id
	if behind >= 64 || p.seen&(1<<behind) != 0 {
		return false
	}
	p.seen |= 1 << behind
	return true
}

// fill makes ready what has become so.
func (p *postbox) fill() {
	filled := false
	for len(p.early) > 0 && p.early[0].first <= p.next {
		q := p.early[0]
		p.early = p.early[1:]
		filled = true
		if !p.accept(&q) {
			p.size -= q.size
		}
	}
	if filled {
		p.watch()
	}
}

// watch begins the wait for what is missing before p.early.
func (p *postbox) watch() {
	wait := p.sess.srv.cfg.Transports.EmulationOrderWait
	switch {
	case p.gap != nil && len(p.early) == 0:
		p.gap.Stop()
	case p.gap != nil:
		p.gap.Reset(wait)
	case len(p.early) > 0:
		p.gap = time.AfterFunc(wait, p.skip)
	}
}

// skip goes on without what is missing.
func (p *postbox) skip() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.early) == 0 {
		return
	}
	p.sess.srv.metrics.emulated["gap"].Inc()
	p.seen <<= p.early[0].first - p.next // what is missing may still come, and is taken then
	p.next = p.early[0].first
	p.fill()
	if len(p.ready) > 0 && !p.running {
		p.running = true
		go p.run()
	}
}

// run hands what is ready to the session.
func (p *postbox) run() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.ready) > 0 && !p.closed {
		q := p.ready[0]
		p.ready = p.ready[1:]
		p.mu.Unlock()
		for _, cmd := range q.commands {
			if !p.sess.take(cmd) {
				break
			}
		}
		p.mu.Lock()
		p.size -= q.size
	}
	if len(p.ready) == 0 {
		p.ready = nil // an idle connection holds no buffer
	}
	p.running = false
	p.idle.Broadcast()
}

// stop waits until the session is handed nothing any more. A nil postbox has
// nothing to wait for.
func (p *postbox) stop() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed, p.ready, p.early = true, nil, nil
	if p.gap != nil {
		p.gap.Stop()
	}
	for p.running {
		p.idle.Wait()
	}
}

// sessionName is what a client calls its session in requests: client id and secret.
func (c *streamConn) sessionName(client string) string { return client + "." + c.secret }

// Post implements router.Sessions. The secret is compared in constant time.
func (ss *Sessions) Post(name string, data []byte) error {
	client, secret, _ := strings.Cut(name, ".")
	ss.mu.Lock()
	s := ss.byID[client]
	ss.mu.Unlock()
	if s == nil {
		return errNoSession
	}
	c, ok := s.t.(*streamConn)
	if !ok || c.box == nil || subtle.ConstantTimeCompare([]byte(secret), []byte(c.secret)) != 1 {
		return errNoSession
	}
	return c.box.post(data)
}

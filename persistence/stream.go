package persistence

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/headrace/headrace/internal/planted"
	"github.com/headrace/headrace/persistence/internal/jet"
	"github.com/headrace/headrace/router"
)

// head is what an append must know of a key's newest entry. The zero head stands
// for a key without entries.
type head struct {
	number uint64
	seq    uint64
	life   string
}

// stream is one partition of a namespace's log: a JetStream stream.
type stream struct {
	// Set when opened, read-only afterwards.
	cfg           *Config
	log           *slog.Logger
	req           *jet.Requester
	metrics       *metrics
	budget        *budget // shared by the streams of a namespace
	name          string
	subjects      string // "hr.log.<ns>.<p>."; keys and slots follow
	live          string // "hr.live.<ns>.<p>."
	subjectMsgGet string
	subjectDirect string
	slots         uint64 // N
	replicated    bool
	batches       bool // atomic batches are cheap: replicated or in memory
	incarnation   string

	// heads may be stale: the compare-and-set notices.
	heads *lru.Cache[string, head]

	lastSeq     atomic.Uint64
	lastContact atomic.Int64 // Unix nanoseconds

	mu      sync.Mutex
	queues  map[string]*keyQueue
	closed  bool
	writers sync.WaitGroup
}

func newHeads(size int) *lru.Cache[string, head] {
	c, err := lru.New[string, head](size)
	if err != nil {
		panic(err) // size is positive: Config.validate
	}
	return c
}

// contact notes that a leader with a majority behind it answered: it took an
// append, or said so (infoAnswer.quorum). Without replicas any answer will do.
func (p *stream) contact() { p.lastContact.Store(time.Now().UnixNano()) }

// silence returns the time since the last contact.
func (p *stream) silence() time.Duration {
	if planted.Bug(planted.TrustReplica) {
		return 0
	}
	return time.Since(time.Unix(0, p.lastContact.Load()))
}

// sawSeq notes that the stream reached seq.
func (p *stream) sawSeq(seq uint64) {
	for {
		old := p.lastSeq.Load()
		if seq <= old || p.lastSeq.CompareAndSwap(old, seq) {
			return
		}
	}
}

// The last token of an entry's subject is its slot, a number below N. A marker
// left by clear has a place of its own: it may carry any number, and a reader
// who knows only the number it has seen must find it by one literal subject.
const markerSlot = "c"

// subject returns where the entry of key with number n lies.
func (p *stream) subject(key string, n uint64) string {
	return p.subjects + key + "." + strconv.FormatUint(n%p.slots, 10)
}

func (p *stream) markerSubject(key string) string { return p.subjects + key + "." + markerSlot }

// filter matches all entries of key and nothing else.
func (p *stream) filter(key string) string { return p.subjects + key + ".*" }

// keyOf is the inverse of subject and markerSubject.
func (p *stream) keyOf(subject string) (string, bool) {
	rest, ok := strings.CutPrefix(subject, p.subjects)
	i := strings.LastIndexByte(rest, '.')
	if !ok || i <= 0 {
		return "", false
	}
	return rest[:i], true
}

// head asks the leader for the newest entry of key. The answer of a leader that
// is cut off is refused as soon as that is known, within the contact bound.
func (p *stream) head(ctx context.Context, key string) (router.Entry, error) {
	e, _, err := p.get(ctx, getRequest{Last: p.filter(key)})
	if planted.Bug(planted.TrustReplica) {
		e, err = p.headAnywhere(ctx, key)
	}
	if err != nil {
		return e, jet.Unavailable("history", err)
	}
	if p.replicated && p.silence() > p.cfg.ContactBound {
		return router.Entry{}, jet.Unavailable("history", errNoQuorum)
	}
	p.heads.Add(key, head{e.Number, e.Seq, e.Life})
	return e, nil
}

// retrying calls f until it succeeds, ctx ends or its error is not one that time
// heals. An election keeps a leader away for seconds; a read waits as long as
// its context lets it, but not longer than the contact bound.
func (p *stream) retrying(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.ContactBound)
	defer cancel()
	for attempt := 0; ; attempt++ {
		try, cancelTry := context.WithTimeout(ctx, readTimeout)
		err := f(try)
		cancelTry()
		if err == nil || !temporary(err) || ctx.Err() != nil {
			return err
		}
		if !jet.Pause(ctx, attempt) {
			return err
		}
	}
}

// readTimeout bounds one attempt to read. The leader answers in under a
// millisecond; when it died, its answer never comes.
const readTimeout = 2 * time.Second

// temporary reports whether a repetition may help.
func temporary(err error) bool {
	var refusal *jet.APIError
	if errors.As(err, &refusal) {
		return refusal.Code >= 500 || refusal.Code == 429
	}
	var e *router.Error
	if errors.As(err, &e) {
		return e.Code == router.CodeUnavailable
	}
	return true
}

package edge

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/centrifugal/protocol"

	"github.com/headrace/headrace/edge/token"
	"github.com/headrace/headrace/router"
)

// poll is one request to /poll: a subscription that ends with the first news. Where
// the client stands is in the request and in the answer, so that the next poll may
// go to any node. Interest in the channels outlives it (router.Config.Linger), so
// that the next poll here costs no read of the store.
type poll struct {
	s *Server

	mu          sync.Mutex // guards the fields below
	at          positions  // after what is in news
	news        []*protocol.Publication
	bytes       int             // of news; above Config.QueueBytes the rest waits for the next poll
	full        map[string]bool // channels of which something was left out
	lost        []string        // channels whose position is gone
	err         error
	left        int // subscriptions that are being made
	subs        []*router.Subscription
	over        bool
	made, woken chan struct{} // closed when left is 0, and when there is something to tell
}

// servePoll answers with what followed since in the channels, and waits for
// something when there is nothing, up to timeout. Without since the answer says
// where the client stands.
func (s *Server) servePoll(w http.ResponseWriter, r *http.Request) {
	place, ok := s.admit(w, r)
	if !ok {
		return
	}
	defer place.release()
	p := &poll{s: s, full: make(map[string]bool), made: make(chan struct{}), woken: make(chan struct{})}
	result, err := p.serve(r)
	s.metrics.polls[result].Inc()
	http.NewResponseController(w).SetWriteDeadline(time.Now().Add(s.cfg.WriteTimeout)) //nolint:errcheck // then there is none
	if err != nil {
		writePollError(w, err)
		return
	}
	p.answer(w)
}

// serve does the poll and returns how it ended, for metrics.
func (p *poll) serve(r *http.Request) (result string, err error) {
	since := r.URL.Query().Get("since")
	cmd, err := oneWayQuery(r, since)
	if err != nil {
		return "refused", router.Errorf(router.CodeInvalid, "%s", err.Error())
	}
	timeout, err := pollTimeout(r, p.s.cfg.Transports.PollMaxTimeout)
	if err != nil {
		return "refused", err
	}
	ctx, cancel := context.WithTimeout(r.Context(), callTimeout)
	defer cancel()
	sess, channels, err := p.s.admitPoll(ctx, r, cmd)
	if err != nil {
		return "refused", err
	}
	defer p.end()
	if err := p.subscribe(ctx, sess, channels, cmd.Connect.Subs); err != nil {
		return "failed", err
	}
	if since != "" && timeout > 0 {
		if err := p.wait(r.Context(), timeout); err != nil {
			return "refused", err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = true
	switch {
	case len(p.lost) > 0:
		return "unrecovered", nil
	case len(p.news) > 0:
		return "news", nil
	}
	return "timeout", nil
}

// pollTimeout reads the parameter timeout, in seconds, at most limit, which is also
// what it is when missing.
func pollTimeout(r *http.Request, limit time.Duration) (time.Duration, error) {
	text := r.URL.Query().Get("timeout")
	if text == "" {
		return limit, nil
	}
	seconds, err := strconv.ParseFloat(text, 64)
	if err != nil || !(seconds >= 0) {
		return 0, router.Errorf(router.CodeInvalid, "timeout is not a number of seconds")
	}
	return time.Duration(min(seconds, limit.Seconds()) * float64(time.Second)), nil
}

// admitPoll checks who polls, and which channels. The session it returns is there
// for the checks only: nobody else knows of it.
func (s *Server) admitPoll(ctx context.Context, r *http.Request, cmd *protocol.Command) (*session, []serverChannel, error) {
	sess := newSession(s, jsonStream, nil, time.Now())
	sess.carry(s.requestToken(r))
	text := sess.connectToken(cmd)
	if err := fetchKey(ctx, s.verifier, text); err != nil {
		return nil, nil, err
	}
	t, err := sess.identify(text)
	if err != nil {
		return nil, nil, err
	}
	for _, sub := range cmd.Connect.Subs {
		if err := fetchKey(ctx, s.subVerifier, sub.Token); err != nil {
			return nil, nil, err
		}
	}
	channels, err := sess.wanted(cmd.Connect.Subs, &t, nil)
	if err == nil && len(channels) == 0 {
		err = router.Errorf(router.CodeInvalid, "channel is missing")
	}
	for i := 0; err == nil && i < len(channels); i++ {
		err = sess.checkPollable(channels[i].name)
	}
	return sess, channels, err
}

// checkPollable refuses channels of which polls cannot bring everything.
func (s *session) checkPollable(channel string) error {
	ns, err := s.srv.node.Namespace(channel)
	if err == nil {
		err = s.checkPayload(ns)
	}
	if err == nil && ns.HistorySize == 0 {
		err = router.Errorf(router.CodeNotAvailable, "namespace %q keeps no history, and polls would miss what comes between them", ns.Name)
	}
	return err
}

// fetchKey gets the key that text is signed with, if it is not at hand.
func fetchKey(ctx context.Context, v *token.Verifier, text string) error {
	if missing := v.Missing(text); missing != nil {
		if err := missing.Fetch(ctx); errors.Is(err, token.ErrUnavailable) {
			return router.Unavailable("token verification", err)
		}
	}
	return nil
}

// subscribe subscribes p to channels and returns when that is done.
func (p *poll) subscribe(ctx context.Context, sess *session, channels []serverChannel, asked map[string]*protocol.SubscribeRequest) error {
	p.left = len(channels)
	for _, c := range channels {
		v := &pollSub{p: p}
		sub := &router.Subscription{Channel: c.name, Subscriber: v, Info: &sess.info, NoPresence: true, NoJoinLeave: true}
		req := router.SubscribeRequest{Recoverable: true}
		if a := asked[c.name]; a.Recover {
			req.Recover, req.Position = true, router.Position{Offset: a.Offset, Epoch: a.Epoch}
		}
		p.s.node.Subscribe(sub, req, func(res router.SubscribeResult, err error) { v.subscribed(sub, &req, &res, err) })
	}
	select {
	case <-p.made:
	case <-ctx.Done():
		return router.Unavailable("the cluster", ctx.Err())
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// wait waits until there is something to tell, for timeout at most.
func (p *poll) wait(ctx context.Context, timeout time.Duration) error {
	select {
	case <-p.woken:
		return nil
	default:
	}
	select {
	case p.s.pollSlots <- struct{}{}:
		defer func() { <-p.s.pollSlots }()
	default:
		return router.Unavailable("waiting", errors.New("too many polls wait"))
	}
	p.s.metrics.polling.Add(1)
	defer p.s.metrics.polling.Add(-1)
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	parting := p.s.parting
	for {
		select {
		case <-parting: // polls leave spread over the drain window, too
			parting = nil
			timer.Reset(min(timeout, time.Duration(rand.Int64N(int64(p.s.cfg.DrainWindow)+1))))
		case <-p.woken:
			return nil
		case <-timer.C:
			return nil
		case <-p.s.ctx.Done():
			return nil
		case <-ctx.Done():
			return nil // nobody reads the answer
		}
	}
}

// end ends what subscribe began.
func (p *poll) end() {
	p.mu.Lock()
	p.over = true
	subs := p.subs
	p.subs = nil
	p.mu.Unlock()
	for _, sub := range subs {
		p.s.node.Unsubscribe(sub, nil)
	}
}

// wake tells wait that there is something. mu is held.
func (p *poll) wake() {
	select {
	case <-p.woken:
	default:
		close(p.woken)
	}
}

// add adds pub to the news, if it has room and nothing before it was left out. mu
// is held.
func (p *poll) add(channel string, pub *router.Publication, epoch string) {
	if p.over || p.full[channel] {
		return
	}
	size := len(pub.Data) + commandCost
	if len(p.news) > 0 && p.bytes+size > p.s.cfg.QueueBytes {
		p.full[channel] = true
		return
	}
	p.bytes += size
	w := jsonStream.wirePublication(pub)
	w.Channel, w.Epoch = channel, ""
	p.news = append(p.news, w)
	if pos := p.at.of(channel); pos != nil {
		pos.Offset, pos.Epoch = pub.Offset, epoch
	}
	p.wake()
}

// pollSub is the subscriber of one channel of a poll.
type pollSub struct {
	p     *poll
	epoch string // owned by the channel's shard
}

func (v *pollSub) subscribed(sub *router.Subscription, req *router.SubscribeRequest, res *router.SubscribeResult, err error) {
	p := v.p
	late := false
	p.mu.Lock()
	if err == nil {
		if late = p.over; !late {
			p.subs = append(p.subs, sub)
		}
		v.epoch = res.Position.Epoch
		p.begin(sub.Channel, req, res)
	} else if p.err == nil {
		p.err = err
	}
	if p.left--; p.left == 0 {
		close(p.made)
	}
	p.mu.Unlock()
	if late {
		p.s.node.Unsubscribe(sub, nil)
	}
}

// begin takes what res tells of channel. mu is held.
func (p *poll) begin(channel string, req *router.SubscribeRequest, res *router.SubscribeResult) {
	p.at = append(p.at, position{channel, res.Position})
	if req.Recover && !res.Recovered {
		p.lost = append(p.lost, channel)
		p.wake()
		return
	}
	if len(res.Publications) == 0 {
		return
	}
	p.at.of(channel).Position = req.Position // of which add goes on
	for _, pub := range res.Publications {
		p.add(channel, pub, res.Position.Epoch)
	}
	if !p.full[channel] {
		p.at.of(channel).Position = res.Position
	}
}

// Deliver implements router.Subscriber.
func (v *pollSub) Deliver(_ *router.Subscription, b *router.Batch) {
	v.p.mu.Lock()
	defer v.p.mu.Unlock()
	for i := range b.Pushes {
		if pub := b.Pushes[i].Pub; pub != nil {
			if pub.Epoch != "" {
				v.epoch = pub.Epoch
			}
			v.p.add(b.Channel, pub, v.epoch)
		}
	}
}

// Dropped implements router.Subscriber. The next poll is told what it means.
func (v *pollSub) Dropped(*router.Subscription, router.UnsubscribeReason) {
	v.p.mu.Lock()
	defer v.p.mu.Unlock()
	v.p.wake()
}

// pollAnswer is what a poll answers. Since is for the next one.
type pollAnswer struct {
	Publications []*protocol.Publication `json:"publications"`
	Since        string                  `json:"since"`
	Unrecovered  []string                `json:"unrecovered,omitempty"`
}

func (p *poll) answer(w http.ResponseWriter) {
	p.mu.Lock()
	out := pollAnswer{Publications: p.news, Since: p.at.String(), Unrecovered: p.lost}
	p.mu.Unlock()
	if out.Publications == nil {
		out.Publications = []*protocol.Publication{}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.Encode(out) //nolint:errcheck // the peer is gone then, and asks again
}

// writePollError answers a poll that failed.
func writePollError(w http.ResponseWriter, err error) {
	var d disconnect
	switch {
	case errors.As(err, &d):
		http.Error(w, d.reason, refusalStatus(d))
	case router.CodeOf(err) == router.CodeDenied:
		writeError(w, err)
	case errors.Is(err, errNoToken), errors.Is(err, errPast), errors.Is(err, errTokenExpired), errors.Is(err, token.ErrExpired), errors.Is(err, token.ErrInvalid):
		http.Error(w, err.Error(), http.StatusUnauthorized)
	default:
		if router.CodeOf(err) == router.CodeUnavailable {
			w.Header().Set("Retry-After", "1")
		}
		writeError(w, err)
	}
}

package edge

import (
	"context"

	"github.com/centrifugal/protocol"

	"github.com/headrace/headrace/router"
)

// Types of subscriptions and publications (SubscribeRequest.type and
// PublishRequest.type of the protocol).
const (
	typeStream     = 0
	typeMap        = 1
	typeMapClients = 2
	typeMapUsers   = 3
)

// memberTypes are the types of subscriptions that show members.
var memberTypes = map[router.Members]int32{router.MembersClients: typeMapClients, router.MembersUsers: typeMapUsers}

// Phases of a map subscription (SubscribeRequest.phase). A client reads the state in
// pages, then what changed meanwhile, until an answer says that it is live.
const (
	phaseLive   = 0
	phaseStream = 1
	phaseState  = 2
)

// Bounds of the pages of a map subscription.
const (
	// minStreamPage is how many missed changes an answer may have although the client
	// asks for fewer at a time: it would never catch up with a busy channel.
	minStreamPage = 64
	// pageOverhead is what an entry or a publication costs beside key and payload,
	// about: names of fields, offset, version, time.
	pageOverhead = 128
)

// checkType refuses a subscription of a kind that the namespace does not have.
func checkType(ns *router.Namespace, req *protocol.SubscribeRequest) error {
	switch {
	case ns.Members != "" && req.Type != memberTypes[ns.Members]:
		return router.Errorf(router.CodeNotAvailable, "namespace %q shows who is in other channels: subscribe with type %d", ns.Name, memberTypes[ns.Members])
	case ns.Members == "" && (req.Type == typeMapClients || req.Type == typeMapUsers):
		return router.Errorf(router.CodeNotAvailable, "namespace %q does not show who is in other channels", ns.Name)
	case req.Type != typeStream && req.Type != typeMap && req.Type != typeMapClients && req.Type != typeMapUsers:
		return router.Errorf(router.CodeNotAvailable, "subscriptions of type %d are not available", req.Type)
	case req.Type == typeMap && ns.Map == nil:
		return router.Errorf(router.CodeNotAvailable, "the channels of namespace %q are no maps", ns.Name)
	case req.Type == typeStream && ns.Map != nil:
		return router.Errorf(router.CodeNotAvailable, "the channels of namespace %q are maps: subscribe with type %d", ns.Name, typeMap)
	case req.Tf != nil && !ns.TagsFilter:
		return router.Errorf(router.CodeNotAvailable, "namespace %q does not offer tags filters", ns.Name)
	}
	return nil
}

// mapWalk is one subscribe command on the way through a map: a page, or the step to
// live. What a client has read so far is in its requests only, so that any node may
// answer the next one.
type mapWalk struct {
	s     *session
	cmd   *protocol.Command
	req   *protocol.SubscribeRequest
	state *channelState
	in    invitation
	limit int
	// frozen is where the client goes on from the state: the position of its first
	// page, however many follow.
	frozen  router.Position
	entries []*protocol.Publication // of the last page
	whole   []router.StateEntry     // that page, when it is the whole state
	wire    wireForm                // of what the client gets
}

// walk answers a subscribe command of type map. The channel is held until then.
func (s *session) walk(cmd *protocol.Command, state *channelState, in invitation) {
	req := cmd.Subscribe
	w := &mapWalk{s: s, cmd: cmd, req: req, state: state, in: in, limit: router.MaxStatePage,
		frozen: router.Position{Offset: req.Offset, Epoch: req.Epoch}, wire: kind.wirePublication}
	if in.delta {
		w.wire = kind.deltaPublication
	}
	if n := int(req.Limit); n > 0 && n < w.limit {
		w.limit = n
	}
	s.begin()
	switch err := w.check(); {
	case err != nil:
		s.fail(cmd, err)
		w.end()
	case req.Phase == phaseState:
		s.srv.calls.Go(func() {
			ctx, cancel := context.WithTimeout(s.srv.ctx, callTimeout)
			defer cancel()
			w.page(ctx)
		})
	default:
		w.join(req.Phase == phaseStream || req.Epoch != "" || req.Recover)
	}
}

// end gives the channel free for the next command.
func (w *mapWalk) end() {
	w.s.release(w.state)
	w.s.end()
}

func (w *mapWalk) check() error {
	switch req := w.req; {
	case req.Phase < phaseLive || req.Phase > phaseState:
		return router.Errorf(router.CodeInvalid, "phase %d is not one of 0, 1, 2", req.Phase)
	case req.Limit < 0:
		return router.Errorf(router.CodeInvalid, "limit %d is negative", req.Limit)
	case req.Phase != phaseState && req.Cursor != "":
		return router.Errorf(router.CodeInvalid, "a cursor is for phase 2")
	case req.Epoch == "" && (req.Cursor != "" || req.Phase == phaseStream):
		return router.Errorf(router.CodeInvalid, "offset and epoch of the first page are missing")
	case req.Recover && w.in.ns.Map.Mode == router.MapEphemeral:
		return router.Errorf(router.CodeUnrecoverable, "unrecoverable position: read the state again")
	}
	return nil
}

// page answers with a page of the state. The last one goes live at once.
func (w *mapWalk) page(ctx context.Context) {
	page, err := w.read(ctx)
	switch {
	case err != nil:
		w.s.fail(w.cmd, err)
		w.end()
		return
	case w.req.Epoch != "" && w.req.Epoch != page.Position.Epoch:
		// Another life of the channel: its pages do not go with those the client has.
		// It sees the epoch and starts again.
		w.reply(phaseState, page.Position)
		w.end()
		return
	case w.req.Cursor == "":
		w.frozen = page.Position
	}
	w.take(page.Entries)
	if page.Next == "" {
		if w.in.delta && w.req.Cursor == "" {
			w.whole = page.Entries
		}
		w.join(true)
		return
	}
	r := w.result(phaseState, w.frozen)
	r.Cursor = page.Next
	w.s.reply(w.cmd, &protocol.Reply{Subscribe: r})
	w.end()
}

// read reads a page that fits into a frame. How large values are shows when they
// have been read, so a page that is too large is read again with fewer.
func (w *mapWalk) read(ctx context.Context) (router.StatePage, error) {
	for limit := w.limit; ; {
		page, err := w.s.srv.node.StatePage(ctx, w.req.Channel, w.req.Cursor, limit)
		if err != nil {
			return page, err
		}
		size := 0
		for i := range page.Entries {
			e := &page.Entries[i]
			size += len(e.Key) + len(e.Data) + pageOverhead
		}
		if size <= w.maxBytes() || limit == 1 || len(page.Entries) <= 1 {
			return page, nil
		}
		limit = max(min(limit, len(page.Entries))*w.maxBytes()/(size*2), 1)
	}
}

// maxBytes bounds what one answer carries, about: half of what may wait for a client.
func (w *mapWalk) maxBytes() int { return w.s.srv.cfg.QueueBytes / 2 }

// take makes entries those of the answer, as far as the client wants them.
func (w *mapWalk) take(entries []router.StateEntry) {
	for i := range entries {
		e := &entries[i]
		p := &router.Publication{Offset: e.Offset, Time: e.Time.UnixMilli(), Data: e.Data, Info: e.Info, Tags: e.Tags, Key: e.Key, Version: e.Version}
		if w.in.filter.wants(p) {
			w.entries = append(w.entries, w.wire(w.s.kind, p))
		}
	}
}

// join subscribes, from the frozen position if there is one. When more was missed
// than fits, the client gets it in pages first.
func (w *mapWalk) join(positioned bool) {
	s := w.s
	sub := s.subscription(w.req.Channel, w.in)
	s.srv.node.Subscribe(sub, router.SubscribeRequest{
		Recover: positioned, Position: w.frozen, Recoverable: true, Positioned: true, RejectUnrecovered: true,
		JoinLeave: w.req.JoinLeave || on(w.in.override.ForceJoinLeave), Fit: w.fit, State: w.whole,
	}, func(res router.SubscribeResult, err error) {
		switch {
		case err != nil:
			s.fail(w.cmd, err)
		case res.More:
			w.more(res.Publications)
		case s.own(w.state, sub, w.in):
			if d, ok := sub.Subscriber.(*mapDelta); ok {
				d.begin(w, &res)
			}
			w.live(res)
		}
		w.end()
	})
}

// fit is how many of the changes that were missed go into one answer.
func (w *mapWalk) fit(pubs []*router.Publication) int {
	limit, size := max(w.limit, minStreamPage), 0
	for i, p := range pubs {
		size += len(p.Key) + len(p.Data) + pageOverhead
		if i > 0 && (i == limit || size > w.maxBytes()) {
			return i
		}
	}
	return len(pubs)
}

// more answers that the client is not live yet: with the end of the state, or with
// changes, the rest of which it asks for next.
func (w *mapWalk) more(pubs []*router.Publication) {
	if w.req.Phase == phaseState {
		w.reply(phaseState, w.frozen)
		return
	}
	at := router.Position{Offset: pubs[len(pubs)-1].Offset, Epoch: w.frozen.Epoch}
	r := w.result(phaseStream, at)
	r.Publications = w.wires(w.in.filter.pick(pubs))
	w.s.reply(w.cmd, &protocol.Reply{Subscribe: r})
}

// live answers that the client is live. It is called on the channel's shard, so the
// answer precedes every push.
func (w *mapWalk) live(res router.SubscribeResult) {
	s, pubs := w.s, w.in.filter.pick(res.Publications)
	pubs = w.news(pubs)
	r := w.result(phaseLive, res.Position)
	// A client that asked with an epoch takes another one for another life and starts
	// again. It was right: the channel was empty then. So it keeps its epoch, until
	// the last change, pushed instead of answered, brings the one that lasts.
	var last *router.Publication
	if w.req.Epoch != "" && w.req.Epoch != res.Position.Epoch {
		r.Epoch = w.req.Epoch
		if n := len(pubs) - 1; n >= 0 {
			born := *pubs[n]
			born.Epoch = res.Position.Epoch
			last, pubs = &born, pubs[:n]
			r.Offset = born.Offset - 1
		}
	}
	r.Publications = w.wires(w.deltas(pubs))
	r.Recoverable = w.in.ns.Map.Mode == router.MapPersistent
	r.Positioned = r.Recoverable
	r.Recovered, r.WasRecovering = w.req.Recover, w.req.Recover
	r.Data = s.kind.wireBytes(w.in.data)
	r.Expires, r.Ttl = lifetime(w.in.expireAt)
	s.reply(w.cmd, &protocol.Reply{Subscribe: r})
	if last != nil {
		s.push(&protocol.Push{Channel: w.req.Channel, Pub: w.wire(s.kind, last)})
	}
}

// news leaves out what the entries of this answer have already.
func (w *mapWalk) news(pubs []*router.Publication) []*router.Publication {
	if len(pubs) == 0 || len(w.entries) == 0 {
		return pubs
	}
	known := make(map[string]uint64, len(w.entries))
	for _, e := range w.entries {
		known[e.Key] = e.Offset
	}
	var out []*router.Publication
	for _, p := range pubs {
		if p.Offset > known[p.Key] {
			out = append(out, p)
		}
	}
	return out
}

func (w *mapWalk) reply(phase int32, at router.Position) {
	w.s.reply(w.cmd, &protocol.Reply{Subscribe: w.result(phase, at)})
}

func (w *mapWalk) result(phase int32, at router.Position) *protocol.SubscribeResult {
	return &protocol.SubscribeResult{Type: typeMap, Phase: phase, Offset: at.Offset, Epoch: at.Epoch, State: w.entries, Delta: w.in.delta}
}

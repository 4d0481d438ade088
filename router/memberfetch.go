package router

import (
	"context"
	"errors"
	"maps"
	"time"
)

// Bounds of the questions for members. While one is on its way the channels that
// need another one gather, so a thousand channels that are opened at once cost some
// twenty questions.
const (
	maxViews       = 64 // channels in one question
	maxOpenAsks    = 4  // questions of a shard to all nodes at a time; to one node: 1
	maxMemberParts = 4096
	// openTimeout is how long all nodes are waited for. One that is slower is asked by
	// itself; one that has crashed is not known to be gone for seconds.
	openTimeout = 300 * time.Millisecond
	nodeTimeout = 4 * time.Second
	// memberGrace is how long after a heartbeat told a version its message may take,
	// and the pause before a question is repeated.
	memberGrace = 500 * time.Millisecond
	// plainInterval is how often a channel with too many members is looked at again.
	plainInterval = 30 * time.Second
)

// memberCheck is a look at a view that is due at a time.
type memberCheck struct {
	due  time.Time
	r    *replica
	node string // "" is all
	told bool   // a heartbeat told of a version that was not here
}

// want has node, or all nodes (""), asked for its members of r's channel.
func (sh *shard) want(node string, r *replica) {
	if sh.wanted[node] == nil {
		sh.wanted[node] = make(map[*replica]struct{})
	}
	sh.wanted[node][r] = struct{}{}
	sh.askFor(node)
}

func (sh *shard) askFor(node string) {
	limit := 1
	if node == "" {
		limit = maxOpenAsks
	}
	wanted := sh.wanted[node]
	if len(wanted) == 0 || sh.asking[node] >= limit {
		if len(wanted) == 0 && sh.asking[node] == 0 {
			delete(sh.wanted, node)
			delete(sh.asking, node)
		}
		return
	}
	q := question{Kind: askViews, Node: node, From: sh.n.cfg.NodeID, Limit: sh.n.cfg.PresenceMembers}
	var list []*replica
	for r := range wanted {
		delete(wanted, r)
		if r.c.ended {
			continue
		}
		asked := viewQuestion{Channel: r.c.name}
		if v := r.views[node]; v != nil && len(v.members) > 0 {
			asked.Version = v.version
		}
		q.Views, list = append(q.Views, asked), append(list, r)
		if len(list) == maxViews {
			break
		}
	}
	if len(list) == 0 {
		sh.askFor(node)
		return
	}
	sh.asking[node]++
	sh.n.cfg.Metrics.members.asked.Inc()
	sh.n.async(func(ctx context.Context) {
		got, missing, err := sh.n.gatherViews(ctx, q)
		sh.post(func() {
			sh.asking[node]--
			for i, r := range list {
				if !r.c.ended {
					r.answered(node, i, got, missing, err)
				}
			}
			sh.askFor(node)
		})
	})
}

// answered takes what node, or all nodes, said of the channel with index i in the
// question. missing are nodes that are alive and did not answer.
func (r *replica) answered(node string, i int, got map[string]*nodeViews, missing map[string]bool, err error) {
	switch {
	case node != "":
		v := r.views[node]
		if v == nil || !v.asking {
			return // dropped meanwhile, or level by another answer
		}
		if a := got[node]; a != nil {
			r.snapshot(node, a.view(i))
		} else if r.c.sh.n.members.isAlive(node) {
			r.again(node)
		} else {
			// The node was dropped, or is not known yet: its first heartbeat makes us ask.
			r.gone(node)
		}
	case r.loading && err != nil:
		r.again("") // who waits is admitted by time
	case r.loading:
		r.loaded(i, got, missing)
	case r.plain && err == nil:
		r.unplain(i, got, missing)
	}
}

func (r *replica) again(node string) {
	sh := r.c.sh
	sh.memberChecks = append(sh.memberChecks, memberCheck{due: time.Now().Add(memberGrace), r: r, node: node})
}

// check looks in a moment whether what a heartbeat told of node has come.
func (r *replica) check(node string) {
	sh := r.c.sh
	sh.memberChecks = append(sh.memberChecks, memberCheck{due: time.Now().Add(memberGrace), r: r, node: node, told: true})
}

// loaded takes the first answer of all nodes.
func (r *replica) loaded(i int, got map[string]*nodeViews, missing map[string]bool) {
	r.loading = false
	for node, a := range got {
		if node != r.c.sh.n.cfg.NodeID { // which answers where presence was asked for
			r.snapshot(node, a.view(i))
		}
		if r.plain {
			return
		}
	}
	for node := range missing {
		v := r.view(node)
		v.missing = true
		r.ask(node, v)
	}
	if !r.open {
		r.admit()
	}
	for node, v := range r.views { // of nodes that came meanwhile
		if got[node] == nil && !missing[node] {
			r.release(node, v)
		}
	}
}

// snapshot makes the view of node what the node said it is, and pushes the difference.
func (r *replica) snapshot(node string, s viewAnswer) {
	if r.plain || !r.c.sh.n.members.isAlive(node) {
		return
	}
	v := r.view(node)
	v.asking, v.missing = false, false
	others := r.count - len(v.members)
	switch {
	case s.version < v.version:
	case s.same:
	case s.count > len(s.members) || r.tooMany(others+s.count):
		r.goPlain()
		return
	default:
		r.replace(v, s)
	}
	r.release(node, v)
	if v.told <= s.upto {
		v.told = 0 // it was told of another channel with that hash, or the answer has it
	} else if !r.plain && v.told > v.version {
		r.check(node)
	}
}

func (r *replica) replace(v *memberView, s viewAnswer) {
	there := make(map[string]struct{}, len(s.members))
	for i := range s.members {
		there[s.members[i].info.Client] = struct{}{}
	}
	for client := range v.members {
		if _, ok := there[client]; !ok {
			r.remove(v, client)
		}
	}
	for _, who := range s.members {
		if r.add(v, who); r.plain {
			return
		}
	}
	v.version = s.version
}

// release takes in the messages that were held.
func (r *replica) release(node string, v *memberView) {
	held := v.held
	v.held = nil
	for _, msg := range held {
		r.receive(msg)
	}
	if len(v.members) == 0 && v.version == 0 && !v.asking {
		delete(r.views, node) // nothing to remember
	}
}

// unplain follows the channel again if its members have become fewer by a quarter.
func (r *replica) unplain(i int, got map[string]*nodeViews, missing map[string]bool) {
	count, limit := 0, r.c.sh.n.cfg.PresenceMembers
	for _, a := range got {
		count += a.view(i).count
	}
	if len(missing) > 0 || count > limit-limit/4 || r.tooMany(count) {
		return
	}
	r.plain, r.open = false, false // what passed meanwhile was pushed as it came
	r.c.sh.n.cfg.Metrics.members.plain.Dec()
	r.loaded(i, got, missing)
}

// told takes what the heartbeats of node say.
func (sh *shard) told(node string, list []toldVersion) {
	for _, t := range list {
		r := sh.replicas[t.hash]
		if r == nil || r.plain {
			continue
		}
		if v := r.view(node); v.version < t.version {
			v.told = max(v.told, t.version)
			r.check(node)
		}
	}
}

// suspectNode compares all channels with what node says of them.
func (sh *shard) suspectNode(node string) {
	for _, r := range sh.replicas {
		if !r.plain && !r.loading {
			if v := r.view(node); !v.asking {
				r.ask(node, v)
			}
		}
	}
}

// tickMembers does what is due of the replicas.
func (sh *shard) tickMembers(now time.Time) {
	for len(sh.memberChecks) > 0 && !sh.memberChecks[0].due.After(now) {
		ch := sh.memberChecks[0]
		sh.memberChecks[0] = memberCheck{}
		sh.memberChecks = sh.memberChecks[1:]
		r := ch.r
		if r.c.ended {
			continue
		}
		v := r.views[ch.node]
		switch {
		case ch.node == "":
			sh.want("", r)
		case v == nil || r.loading:
		case !ch.told:
			sh.want(ch.node, r)
		case v.version < v.told && !v.asking:
			sh.n.cfg.Metrics.members.healed.Inc()
			r.ask(ch.node, v)
		}
	}
	for _, r := range sh.replicas {
		if !r.open && !now.Before(r.openBy) {
			r.admit()
		}
	}
}

// sweepPlain looks again at the channels with too many members.
func (sh *shard) sweepPlain() {
	for _, r := range sh.replicas {
		if r.plain {
			sh.want("", r)
		}
	}
}

// nodeViews is a node's whole answer.
type nodeViews struct {
	upto  uint64
	views map[int]*viewAnswer
}

type viewAnswer struct {
	upto    uint64 // the node's version when it looked
	version uint64
	same    bool
	count   int
	members []member // fewer than count: there are too many
}

// view returns the answer for the channel with index i. One that was not mentioned
// was empty as of upto.
func (a *nodeViews) view(i int) viewAnswer {
	if v := a.views[i]; v != nil {
		return *v
	}
	return viewAnswer{upto: a.upto, version: a.upto}
}

func (a *nodeViews) take(p *answerPart) error {
	if a.views == nil {
		a.upto, a.views = p.Upto, make(map[int]*viewAnswer)
	}
	for i := range p.Views {
		w := &p.Views[i]
		v := a.views[w.Index]
		if v == nil {
			v = &viewAnswer{upto: a.upto, version: w.Version, same: w.Same, count: w.Count}
			a.views[w.Index] = v
		}
		for j := range w.Members {
			who, err := w.Members[j].decode()
			if err != nil {
				return err
			}
			v.members = append(v.members, who)
		}
	}
	return nil
}

// gatherViews asks for members as long as the timeouts above allow. It fails when
// nobody can be asked; missing are nodes that are alive and have not answered in full.
func (n *Node) gatherViews(ctx context.Context, q question) (got map[string]*nodeViews, missing map[string]bool, err error) {
	timeout := openTimeout
	if q.Node != "" {
		timeout = nodeTimeout
	}
	if err := n.members.settled(ctx); err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	got, missing = make(map[string]*nodeViews), n.members.alive()
	delete(missing, n.cfg.NodeID) // knows itself
	if q.Node != "" {
		missing = map[string]bool{q.Node: true}
	}
	if len(missing) == 0 {
		return got, missing, nil
	}
	partial := make(map[string]*nodeViews)
	bad := false
	err = n.askIn(ctx, q, maxMemberParts, missing, func(p answerPart) {
		a := partial[p.Node]
		if a == nil {
			a = &nodeViews{}
			partial[p.Node] = a
		}
		if a.take(&p) != nil {
			bad = true
		}
		if !p.More {
			got[p.Node] = a
		}
	})
	if bad {
		n.cfg.Metrics.dropped[dropMalformed].Inc()
		return nil, nil, errors.New("malformed answer")
	}
	missing = maps.Clone(missing)
	for node := range got {
		delete(missing, node)
	}
	if err != nil && ctx.Err() == nil {
		return nil, nil, err
	}
	return got, missing, nil
}

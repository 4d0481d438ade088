package router

import (
	"context"
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
	asked := sh.n.memberClock.Load()
	sh.n.async(func(ctx context.Context) {
		got, err := sh.n.gatherViews(ctx, q)
		sh.post(func() {
			sh.asking[node]--
			a := memberAnswers{asked: asked, got: got, err: err}
			if node == "" && err == nil {
				a.missing = sh.n.members.unanswered(got)
			}
			for i, r := range list {
				switch {
				case r.c.ended:
				case node == "":
					r.answered(i, a)
				default:
					r.answeredBy(node, i, a)
				}
			}
			sh.askFor(node)
		})
	})
}

// memberAnswers is what nodes answered to a question that was asked at a time of
// memberClock. missing are nodes that are alive now and did not answer: some may have
// come since.
type memberAnswers struct {
	asked   uint64
	got     map[string]*nodeViews
	missing []string
	err     error
}

// unanswered returns the nodes that are alive and not in got. Those that come later
// tell so to the shards later than the caller, who is on one, has looked.
func (ms *membership) unanswered(got map[string]*nodeViews) (missing []string) {
	for node := range ms.alive() {
		if node != ms.n.cfg.NodeID && got[node] == nil {
			missing = append(missing, node)
		}
	}
	return missing
}

// load has all nodes asked.
func (r *replica) load() {
	r.loading, r.began = true, r.c.sh.n.memberClock.Add(1)
	r.c.sh.want("", r)
}

// answered takes what all nodes said of the channel with index i in the question.
func (r *replica) answered(i int, a memberAnswers) {
	switch {
	case a.asked < r.began: // another question is on its way
	case r.loading && a.err != nil && r.passing:
		r.goPlain()
	case r.loading && a.err != nil:
		r.again("") // who waits is admitted by time
	case r.loading:
		r.loaded(i, a.got, a.missing)
	case r.plain && a.err == nil && len(a.missing) == 0:
		r.unplain(i, a.got)
	}
}

// answeredBy takes what node said.
func (r *replica) answeredBy(node string, i int, a memberAnswers) {
	v := r.views[node]
	if v == nil || !v.asking || a.asked < v.began {
		return // dropped meanwhile, or level by another answer, or asked again
	}
	if views := a.got[node]; views != nil {
		r.snapshot(node, views.view(i))
	} else if r.c.sh.n.members.isAlive(node) {
		r.again(node)
	} else {
		// The node was dropped, or is not known yet: its first heartbeat makes us ask.
		r.gone(node)
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
func (r *replica) loaded(i int, got map[string]*nodeViews, missing []string) {
	if r.passing {
		if len(missing) > 0 {
			r.goPlain()
			return
		}
		r.passing, r.open = false, false // what comes next was passed on
	}
	r.loading = false
	for node, a := range got {
		if node != r.c.sh.n.cfg.NodeID { // which answers where presence was asked for
			r.snapshot(node, a.view(i))
		}
		if r.plain {
			return
		}
	}
	for _, node := range missing {
		v := r.view(node)
		v.missing = true
		r.ask(node, v)
	}
	if !r.open {
		r.admit()
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
	if v.told <= max(s.upto, v.version) {
		v.told = 0 // it was told of another channel with that hash, or the answer has it
	} else if !r.plain {
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

// release takes in the messages that were held. Where one is missing it looks again in
// a moment, not at once: the answer should have had it.
func (r *replica) release(node string, v *memberView) {
	held, open := v.held, r.open
	v.held, v.holds = nil, 0
	for i := range held {
		switch msg := held[i]; {
		case r.plain && !open:
			return // as in apply
		case r.plain:
			r.apply(v, msg)
		case msg.version <= v.version:
		case v.fits(&msg):
			r.apply(v, msg)
		default:
			r.toldOf(node, msg.version)
		}
	}
	if len(v.members) == 0 && v.version == 0 && !v.asking {
		delete(r.views, node) // nothing to remember
	}
}

// unplain follows the channel again if its members have become fewer by a quarter. It
// asks once more for them: since the answer nothing was held.
func (r *replica) unplain(i int, got map[string]*nodeViews) {
	count, limit := 0, r.c.sh.n.cfg.PresenceMembers
	for _, a := range got {
		count += a.view(i).count
	}
	if count > limit-limit/4 || r.tooMany(count) {
		return
	}
	r.plain, r.passing = false, true
	r.c.sh.n.cfg.Metrics.members.plain.Dec()
	r.load()
}

// told takes what the heartbeats of node say.
func (sh *shard) told(node string, list []toldVersion) {
	for _, t := range list {
		for r := sh.replicas[t.hash]; r != nil; r = r.next {
			r.toldOf(node, t.version)
		}
	}
}

func (r *replica) toldOf(node string, version uint64) {
	if r.plain {
		return
	}
	if v := r.view(node); v.version < version {
		if v.told == 0 {
			r.check(node)
		}
		v.told = max(v.told, version)
	}
}

// suspectNode compares all channels with what node says of them.
func (sh *shard) suspectNode(node string) {
	for r := range sh.followed() {
		if !r.plain && !r.loading {
			r.ask(node, r.view(node))
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
		case v.asking && !ch.told:
			sh.want(ch.node, r)
		case v.asking || !ch.told: // the answer decides; or it is here
		case v.version >= v.told:
			v.told = 0
		default:
			sh.n.cfg.Metrics.members.healed.Inc()
			r.ask(ch.node, v)
		}
	}
	for len(sh.opening) > 0 && !sh.opening[0].openBy.After(now) {
		if r := sh.opening[0]; !r.open && !r.c.ended {
			r.admit()
		}
		sh.opening[0] = nil
		sh.opening = sh.opening[1:]
	}
}

// sweepPlain looks again at the channels with too many members.
func (sh *shard) sweepPlain() {
	for r := range sh.followed() {
		if r.plain {
			sh.want("", r)
		}
	}
}

// gatherViews asks for members as long as the timeouts above allow. It fails when
// nobody can be asked.
func (n *Node) gatherViews(ctx context.Context, q question) (map[string]*nodeViews, error) {
	timeout := openTimeout
	if q.Node != "" {
		timeout = nodeTimeout
	}
	if err := n.members.settled(ctx); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	waitFor := n.members.alive()
	delete(waitFor, n.cfg.NodeID) // knows itself
	if q.Node != "" {
		waitFor = map[string]bool{q.Node: true}
	}
	answers := make(viewAnswers)
	err := n.askIn(ctx, q, maxMemberParts, waitFor, answers.take)
	if err != nil && ctx.Err() == nil {
		return nil, err
	}
	got, bad := answers.whole()
	if bad > 0 { // asked again, by itself
		n.cfg.Metrics.dropped[dropMalformed].Add(float64(bad))
	}
	return got, nil
}

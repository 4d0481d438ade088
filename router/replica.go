package router

import (
	"iter"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/headrace/headrace/internal/planted"
)

// replica is what a node knows of the members that a channel has at other nodes. It
// exists while somebody here wants joins and leaves, and for as long as interest
// lingers. Its shard owns it.
//
// Whatever changes in it is pushed as it changes, so what a subscriber knew when it
// was answered, and the pushes since, are always what the replica holds: no leave
// comes without a join, and none twice, however the change was learned.
type replica struct {
	c       *liveChannel
	m       *channelMembers
	next    *replica // of another channel with that hash
	sub     *nats.Subscription
	views   map[string]*memberView // by node
	count   int                    // members in views
	began   uint64                 // answers to questions from before this time of memberClock are too old
	loading bool                   // all nodes are being asked; messages are held
	open    bool                   // subscribers are admitted, changes are pushed
	plain   bool                   // too many members: see goPlain
	passing bool                   // it was plain: while loading, messages are also passed on
	waiting []*joiner              // until open
	openBy  time.Time              // when they are admitted at the latest
	users   map[string]int         // clients of each user, those here included; nil until somebody wants to know
}

// memberView is the members at one node.
type memberView struct {
	version uint64 // of what is in members
	told    uint64 // the newest version that a heartbeat told, while a look at it is due or the node is asked; else 0
	asking  bool   // the node is being asked for all; messages are held
	began   uint64 // of asking, as in replica
	missing bool   // it has not answered since all were asked
	held    []memberMessage
	holds   int               // changes in held
	members map[string]member // by client
}

// maxHeld bounds the changes held per view while its node is asked. Above it they
// are dropped, which the next message or a heartbeat shows.
const maxHeld = 4096

// maxOpenWait bounds how long the first subscriber of a channel waits until the node
// knows who is there. Nodes that answer later show as joins then.
const maxOpenWait = 500 * time.Millisecond

// follow makes the channel know its members, for j, and returns whether it does; if
// not, j waits.
func (m *channelMembers) follow(j *joiner) bool {
	if m.replica == nil {
		if err := m.watch(); err != nil {
			j.done(SubscribeResult{}, Unavailable("channel", err))
			return false
		}
	}
	if m.replica.open {
		return true
	}
	m.replica.waiting = append(m.replica.waiting, j)
	return false
}

func (m *channelMembers) watch() error {
	sh := m.c.sh
	sub, err := sh.n.cfg.Core.ChanSubscribe(sh.n.joinLeaveSubject(m.c.ns.Name, m.c.key), sh.msgs)
	if err != nil {
		return err
	}
	m.replica = &replica{c: m.c, m: m, sub: sub, views: make(map[string]*memberView), openBy: time.Now().Add(maxOpenWait)}
	sh.bySub[sub] = m.c
	m.replica.next, sh.replicas[m.hash] = sh.replicas[m.hash], m.replica
	sh.opening = append(sh.opening, m.replica)
	sh.n.cfg.Metrics.members.replicas.Inc()
	m.replica.load() // the question follows the subscription on the same connection
	return nil
}

// followed yields the replicas of the shard.
func (sh *shard) followed() iter.Seq[*replica] {
	return func(yield func(*replica) bool) {
		for _, r := range sh.replicas {
			for ; r != nil; r = r.next {
				if !yield(r) {
					return
				}
			}
		}
	}
}

// unfollow takes r out.
func (sh *shard) unfollow(r *replica) {
	first := sh.replicas[r.m.hash]
	switch {
	case first == r && r.next == nil:
		delete(sh.replicas, r.m.hash)
	case first == r:
		sh.replicas[r.m.hash] = r.next
	default:
		for first.next != r {
			first = first.next
		}
		first.next = r.next
	}
}

// end gives the replica up, with the channel's interest.
func (m *channelMembers) end() {
	r := m.replica
	if r == nil {
		return
	}
	m.replica = nil
	sh := m.c.sh
	delete(sh.bySub, r.sub)
	sh.unfollow(r)
	r.sub.Unsubscribe() //nolint:errcheck // fails only when the connection is closed, and then interest is gone
	r.forget()
	sh.n.cfg.Metrics.members.replicas.Dec()
	if r.plain {
		sh.n.cfg.Metrics.members.plain.Dec()
	}
}

// forget drops all views without a word.
func (r *replica) forget() {
	r.grow(-r.count)
	clear(r.views)
	r.users = nil
}

func (r *replica) grow(by int) {
	r.count += by
	n := r.c.sh.n
	n.heldMembers.Add(int64(by))
	n.cfg.Metrics.members.held.Add(float64(by))
}

func (r *replica) view(node string) *memberView {
	v := r.views[node]
	if v == nil {
		v = &memberView{}
		r.views[node] = v
	}
	return v
}

// receive takes what a node told of its members.
func (r *replica) receive(msg memberMessage) {
	n := r.c.sh.n
	if msg.node == n.cfg.NodeID {
		return // told at once, see tell
	}
	if !n.members.isAlive(msg.node) {
		return // late, of a node that was dropped; or early, and its first heartbeat makes us ask
	}
	if r.plain || r.passing {
		for _, ch := range msg.changes {
			r.push(ch.member, ch.join)
		}
	}
	if r.plain {
		return
	}
	v := r.view(msg.node)
	switch {
	case r.loading || v.asking:
		r.hold(v, msg)
	case msg.version <= v.version:
		return // known from an answer
	case v.fits(&msg):
		r.apply(v, msg)
	default:
		n.cfg.Metrics.members.healed.Inc()
		r.hold(v, msg)
		r.ask(msg.node, v)
	}
}

// fits reports whether msg follows what is in v.
func (v *memberView) fits(msg *memberMessage) bool {
	return msg.prev == v.version || msg.prev == 0 && len(v.members) == 0 || planted.Bug(planted.SkipMemberNews)
}

func (r *replica) hold(v *memberView, msg memberMessage) {
	if v.holds > 0 && v.holds+len(msg.changes) > maxHeld {
		v.held, v.holds = nil, 0
	}
	v.held, v.holds = append(v.held, msg), v.holds+len(msg.changes)
}

// ask has the node asked for all of its members.
func (r *replica) ask(node string, v *memberView) {
	v.asking, v.began = true, r.c.sh.n.memberClock.Add(1)
	r.c.sh.want(node, r)
}

// apply takes msg in. When there are too many members by then, what follows is passed
// on, unless nobody hears of it now, or it was passed on before.
func (r *replica) apply(v *memberView, msg memberMessage) {
	open := r.open
	for _, ch := range msg.changes {
		switch {
		case r.plain && open:
			r.push(ch.member, ch.join)
		case r.plain:
		case ch.join:
			r.add(v, ch.member)
		default:
			r.remove(v, ch.info.Client)
		}
	}
	v.version = msg.version
}

// add takes who into v. One that is there already changes nothing, unless it came
// back as another: then it has left in between.
func (r *replica) add(v *memberView, who member) {
	if old, ok := v.members[who.info.Client]; ok {
		if old.same(who) {
			return
		}
		r.remove(v, who.info.Client)
	}
	if r.tooMany(r.count + 1) {
		r.goPlain()
		r.push(who, true)
		return
	}
	if v.members == nil {
		v.members = make(map[string]member)
	}
	v.members[who.info.Client] = who
	r.grow(1)
	r.push(who, true)
}

func (r *replica) remove(v *memberView, client string) {
	who, ok := v.members[client]
	if !ok {
		return
	}
	delete(v.members, client)
	if len(v.members) == 0 {
		v.members = nil // maps do not shrink
	}
	r.grow(-1)
	r.push(who, false)
}

// push tells the subscribers here that who came or went.
func (r *replica) push(who member, join bool) {
	p := Push{Hidden: who.hidden, User: r.countUser(who, join)}
	if join {
		p.Join = who.info
	} else {
		p.Leave = who.info
	}
	if r.open && !who.quiet {
		r.m.leaving = r.m.leaving || !join
		r.c.emit(p)
	}
}

// countUser returns whether the first client of a user came, or the last one left,
// as far as anybody wants to know.
func (r *replica) countUser(who member, join bool) bool {
	if r.users == nil || who.hidden || who.quiet {
		return false
	}
	user := who.info.User
	if join {
		r.users[user]++
		return r.users[user] == 1
	}
	if r.users[user]--; r.users[user] > 0 {
		return false
	}
	delete(r.users, user)
	return true
}

// shown calls f for every member that presence and pushes tell of, those at this
// node included.
func (r *replica) shown(f func(*ClientInfo)) {
	for _, s := range r.c.subs {
		if who, ok := memberOf(s); ok && !who.hidden && !who.quiet {
			f(who.info)
		}
	}
	for _, v := range r.views {
		for _, who := range v.members {
			if !who.hidden && !who.quiet {
				f(who.info)
			}
		}
	}
}

// countUsers begins to count the clients of each user.
func (r *replica) countUsers() {
	if r.users == nil && !r.plain {
		r.users = make(map[string]int)
		r.shown(func(info *ClientInfo) { r.users[info.User]++ })
	}
}

// gone drops the members at a node that is no more.
func (r *replica) gone(node string) {
	v := r.views[node]
	if v == nil || planted.Bug(planted.NoCrashLeaves) {
		return
	}
	r.c.sh.n.cfg.Metrics.members.dropped.Add(float64(len(v.members)))
	for client := range v.members {
		r.remove(v, client)
	}
	delete(r.views, node)
}

// level reports whether all nodes have said who is there.
func (r *replica) level() bool {
	if r == nil || r.loading || r.plain {
		return false
	}
	for _, v := range r.views {
		if v.missing {
			return false
		}
	}
	return true
}

func (r *replica) tooMany(members int) bool {
	cfg := &r.c.sh.n.cfg
	return members > cfg.PresenceMembers || members > r.count && r.c.sh.n.heldMembers.Load() >= int64(cfg.PresenceNodeMembers)
}

// goPlain stops following a channel with more members than the node may hold: joins
// and leaves are passed on as they come, at most once, and there are none for members
// of a node that was killed. Who needs all of them is told that it does not get them.
func (r *replica) goPlain() {
	if !r.plain {
		r.plain = true
		r.c.sh.n.cfg.Metrics.members.plain.Inc()
	}
	r.forget()
	r.loading, r.passing = false, false
	c := r.c
	c.flush()
	for i := 0; i < len(c.subs); {
		s := c.subs[i]
		if !s.exact {
			i++
			continue
		}
		s.ended = true
		c.remove(s)
		s.Subscriber.Dropped(s, UnsubscribedInsufficientState)
	}
	r.admit()
}

// admit answers those who wait.
func (r *replica) admit() {
	r.open = true
	waiting := r.waiting
	r.waiting = nil
	for _, j := range waiting {
		r.c.admit(j)
	}
}

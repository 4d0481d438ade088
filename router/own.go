package router

import (
	"context"
	"encoding/json"

	"github.com/cespare/xxhash/v2"
)

// channelMembers is what a channel whose namespace tells joins and leaves knows of
// members. Its shard owns it.
type channelMembers struct {
	c    *liveChannel
	hash uint64 // of the channel's name

	// Of this node's own members.
	version uint64 // of their last change; 0 is none yet
	count   int
	prev    uint64         // version before changes
	changes []memberChange // of this pass, not told yet

	replica *replica // nil until a subscriber wants joins and leaves
	leaving bool     // a leave was pushed in this pass
}

// tellsMembers reports whether joins and leaves are told in the channels of ns.
func (ns *Namespace) tellsMembers() bool { return ns.JoinLeave || ns.ForceJoinLeave }

func newChannelMembers(c *liveChannel) *channelMembers {
	return &channelMembers{c: c, hash: xxhash.Sum64String(c.name)}
}

// awaited reports whether somebody waits to be admitted.
func (m *channelMembers) awaited() bool {
	return m != nil && m.replica != nil && len(m.replica.waiting) > 0
}

// exact admits a subscriber that needs every join and leave; users says that it wants
// Push.User.
func (m *channelMembers) exact(users bool) error {
	if m == nil || m.replica == nil {
		return Errorf(CodeNotAvailable, "joins and leaves are not told here")
	}
	if m.replica.plain {
		return Errorf(CodeLimit, "the channel has more members than a node follows")
	}
	if users {
		m.replica.countUsers()
	}
	return nil
}

func (c *liveChannel) tellJoin(s *Subscription)  { c.tell(s, true) }
func (c *liveChannel) tellLeave(s *Subscription) { c.tell(s, false) }

// tell tells this node's own subscribers at once that s came or went, and other
// nodes at the end of the pass.
func (c *liveChannel) tell(s *Subscription, join bool) {
	m := c.members
	if m == nil {
		return
	}
	who, ok := memberOf(s)
	if !ok {
		return
	}
	if len(m.changes) == 0 {
		m.prev = m.version
		if m.count == 0 {
			m.prev = 0
		}
	}
	m.changes = append(m.changes, memberChange{join: join, member: who})
	if join {
		m.count++
	} else {
		m.count--
	}
	c.mark()
	if m.replica != nil {
		m.replica.push(who, join)
	}
}

// send publishes what changed in this pass. A message that is lost shows by its
// version: in the next one, or in the next heartbeat.
func (m *channelMembers) send() {
	n := m.c.sh.n
	for len(m.changes) > 0 {
		w := memberMessageJSON{Node: n.cfg.NodeID, Prev: m.prev}
		took, bytes := 0, 0
		for took < len(m.changes) && took < maxAnswerItems && bytes < maxMemberBytes {
			ch := &m.changes[took]
			w.Changes = append(w.Changes, changeJSON{Join: ch.join, memberJSON: ch.wire()})
			bytes += w.Changes[took].size()
			took++
		}
		m.changes = m.changes[took:]
		m.version = n.versions.Add(1)
		m.prev, w.Version = m.version, m.version
		m.c.sh.noteChanged(toldVersion{m.hash, m.version})
		b, err := json.Marshal(w)
		if err == nil {
			err = n.cfg.Core.Publish(n.joinLeaveSubject(m.c.ns.Name, m.c.key), b)
		}
		if err != nil {
			n.cfg.Metrics.dropped[dropJoinLeave].Inc()
		}
	}
	m.changes = nil
}

// maxChanged bounds the channels of a shard whose changes heartbeats still have to
// tell. Above it other nodes are made to compare all their channels with this one.
const maxChanged = 16384

// noteChanged remembers t for the heartbeats.
func (sh *shard) noteChanged(t toldVersion) {
	if len(sh.changed) >= maxChanged {
		clear(sh.changed)
		sh.forgot = t.version - 1
	}
	if sh.changed == nil {
		sh.changed = make(map[uint64]uint64)
	}
	sh.changed[t.hash] = t.version
}

// news returns what heartbeats have to tell of changes above since, and forgets what
// they need not tell any more. It is not complete up to forgot.
func (sh *shard) news(since uint64) (list []toldVersion, forgot uint64) {
	for hash, version := range sh.changed {
		if version <= since {
			delete(sh.changed, hash)
			continue
		}
		list = append(list, toldVersion{hash, version})
	}
	return list, sh.forgot
}

// ownMembers is what this node says of its members of a channel.
type ownMembers struct {
	version uint64
	members []member
}

// ownMembers returns this node's members of channel; ok is false when ctx, or the
// node, ended first.
func (n *Node) ownMembers(ctx context.Context, channel string) (own ownMembers, ok bool) {
	sh := n.shardOf(channel)
	done := make(chan ownMembers, 1) // the shard may come to it when ctx has ended
	onShard(ctx, sh, func() {
		var o ownMembers
		if c := sh.channels[channel]; c != nil {
			if c.members != nil {
				c.members.send() // so that the version is that of these members
				o.version = c.members.version
			}
			for _, s := range c.subs {
				if who, ok := memberOf(s); ok {
					o.members = append(o.members, who)
				}
			}
		}
		done <- o
	})
	select {
	case own = <-done:
		return own, true
	default:
		return own, false
	}
}

// viewsAnswer answers q about this node's members of several channels. What it does
// not mention is empty; no part at all is no answer.
func (n *Node) viewsAnswer(ctx context.Context, q question) []answerPart {
	upto := n.versions.Load() // before looking: changes up to it are seen
	parts := []answerPart{{Upto: upto}}
	items, bytes := 0, 0
	add := func(v viewPart) {
		last := &parts[len(parts)-1]
		last.Views = append(last.Views, v)
		items++
	}
	for i, asked := range q.Views {
		own, ok := n.ownMembers(ctx, asked.Channel)
		if !ok {
			return nil
		}
		own.members = append(own.members, n.plantedMembers(asked.Channel)...)
		v := viewPart{Index: i, Version: own.version, Count: len(own.members)}
		switch {
		case v.Count == 0:
			continue
		case asked.Version != 0 && asked.Version == own.version:
			v.Same = true
			add(v)
			continue
		case q.Limit > 0 && v.Count > q.Limit:
			add(v)
			continue
		}
		for _, who := range own.members {
			w := who.wire()
			v.Members = append(v.Members, w)
			bytes += w.size()
			if items += 1; items >= maxAnswerItems || bytes >= maxMemberBytes {
				add(v)
				v.Members = nil
				parts = append(parts, answerPart{Upto: upto})
				items, bytes = 0, 0
			}
		}
		if len(v.Members) > 0 {
			add(v)
		}
	}
	return parts
}

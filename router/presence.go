package router

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// Presence returns the members of channel across the cluster by client id.
func (n *Node) Presence(ctx context.Context, channel string) (members map[string]*ClientInfo, err error) {
	err = n.PresenceInOrder(ctx, channel, func(m map[string]*ClientInfo) { members = m })
	return members, err
}

// maxInOrder is the most members that are told on a shard: telling takes about a
// microsecond each, and the shard's channels wait.
const maxInOrder = 1000

// PresenceInOrder calls tell with the members of channel across the cluster by client
// id. Where this node follows them and they are at most maxInOrder, it does so on the
// channel's shard: joins and leaves that were delivered before are in it, those that
// follow are not. tell must not block.
func (n *Node) PresenceInOrder(ctx context.Context, channel string, tell func(map[string]*ClientInfo)) error {
	if err := n.checkPresence(channel); err != nil {
		return err
	}
	for range maxAskAgain {
		asked := n.memberClock.Load()
		answers := make(viewAnswers)
		q := question{Kind: askPresence, Channel: channel, Views: []viewQuestion{{Channel: channel}}}
		if err := n.ask(ctx, q, answers.take); err != nil {
			return err
		}
		got, bad := answers.whole()
		if bad > 0 {
			n.cfg.Metrics.dropped[dropMalformed].Add(float64(bad))
			return Unavailable("presence", errMalformedAnswer)
		}
		again, err := n.tellPresence(channel, memberAnswers{asked: asked, got: got}, tell)
		if !again {
			return err
		}
	}
	return Unavailable("presence", errors.New("the channel's members are just being learned"))
}

// maxAskAgain bounds how often presence is asked for again because the node began to
// follow the channel after it had asked.
const maxAskAgain = 3

var errMalformedAnswer = errors.New("malformed answer")

func (n *Node) tellPresence(channel string, a memberAnswers, tell func(map[string]*ClientInfo)) (again bool, err error) {
	sh := n.shardOf(channel)
	later := make(chan map[string]*ClientInfo, 1)
	if !sh.post(func() {
		members, followed, known := sh.presence(channel, a)
		if again = !known; again {
			members = nil
		} else if followed && len(members) <= maxInOrder {
			tell(members)
			members = nil
		}
		later <- members
	}) {
		return false, Unavailable("this node", errStopped)
	}
	if members := <-later; members != nil { // shards run what was posted, also when they stop
		tell(members)
	}
	return again, nil
}

// presence is what the answers of all nodes make of channel: where this node follows
// its members, what it follows is as new at least, and in order with its pushes. It is
// not known when messages began to be held after the nodes were asked.
func (sh *shard) presence(channel string, a memberAnswers) (members map[string]*ClientInfo, followed, known bool) {
	members = make(map[string]*ClientInfo)
	add := func(who member) {
		if !who.hidden {
			members[who.info.Client] = who.info
		}
	}
	for _, views := range a.got {
		for _, who := range views.older {
			add(who)
		}
	}
	c := sh.channels[channel]
	if c == nil || c.members == nil || c.members.replica == nil || c.members.replica.plain {
		for _, views := range a.got {
			for _, who := range views.view(0).members {
				add(who)
			}
		}
		return members, false, true
	}
	r := c.members.replica
	if r.loading {
		if a.asked < r.began {
			return nil, false, false
		}
		r.loaded(0, a.got, sh.n.members.unanswered(a.got)) // these are all answers that it waits for
	}
	for node, views := range a.got {
		if node != sh.n.cfg.NodeID && !r.plain {
			r.snapshot(node, views.view(0))
		}
	}
	if r.plain { // now: there are too many
		return sh.presence(channel, a)
	}
	c.flush()
	for _, s := range c.subs {
		if who, ok := memberOf(s); ok {
			add(who)
		}
	}
	for _, v := range r.views {
		for _, who := range v.members {
			add(who)
		}
	}
	return members, true, true
}

// Members calls tell on the shard of s with the members of its channel across the
// cluster that presence, joins and leaves tell of, as s knows them: what is delivered
// to s afterwards follows it. s must be subscribed, with SubscribeRequest.Exact. Where
// it is not known who is there, tell gets an error.
func (n *Node) Members(s *Subscription, tell func([]*ClientInfo, error)) {
	sh := n.shardOf(s.Channel)
	unknown := func(err error) { tell(nil, Unavailable("presence", err)) }
	if !sh.post(func() {
		switch {
		case s.ended || s.ch == nil:
			unknown(errors.New("the subscription has ended"))
			return
		case n.members.doubtful() || !s.ch.members.replica.level():
			unknown(errors.New("some nodes are silent"))
			return
		}
		s.ch.flush()
		var infos []*ClientInfo
		s.ch.members.replica.shown(func(info *ClientInfo) { infos = append(infos, info) })
		tell(infos, nil)
	}) {
		unknown(errStopped)
	}
}

// PresenceStats counts the members of channel across the cluster.
func (n *Node) PresenceStats(ctx context.Context, channel string) (PresenceStats, error) {
	if err := n.checkPresence(channel); err != nil {
		return PresenceStats{}, err
	}
	var stats PresenceStats
	users := make(map[string]struct{})
	err := n.ask(ctx, question{Kind: askStats, Channel: channel}, func(p answerPart) {
		stats.Clients += p.Clients
		for _, u := range p.Users {
			users[u] = struct{}{}
		}
	})
	stats.Users = len(users)
	return stats, err
}

func (n *Node) checkPresence(channel string) error {
	ns, err := n.Namespace(channel)
	if err == nil && !ns.Presence {
		err = Errorf(CodeNotAvailable, "namespace %q keeps no presence", ns.Name)
	}
	return err
}

// Channels returns the channels with subscribers anywhere whose name matches the
// glob pattern ("" is all; * matches any run of characters), with the number of
// their subscribers.
func (n *Node) Channels(ctx context.Context, pattern string) (map[string]int, error) {
	all := make(map[string]int)
	err := n.ask(ctx, question{Kind: askChannels, Pattern: pattern}, func(p answerPart) {
		for name, subs := range p.Channels {
			all[name] += subs
		}
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// Send pushes data as a message to the sessions of t across the cluster and returns
// how many there were; with none it fails with CodeNotOnline.
func (n *Node) Send(ctx context.Context, t Target, data []byte) (int, error) {
	q := question{Kind: askMessage, Target: &t}
	if json.Valid(data) {
		q.Data = data
	} else {
		q.Raw = data
	}
	count := 0
	if err := n.ask(ctx, q, func(p answerPart) { count += p.Count }); err != nil {
		return 0, err
	}
	if count == 0 {
		return 0, Errorf(CodeNotOnline, "target is not online")
	}
	return count, nil
}

// localMembers returns what this node's subscribers of channel tell of themselves.
func (n *Node) localMembers(ctx context.Context, channel string) []*ClientInfo {
	own, _ := n.ownMembers(ctx, channel)
	var infos []*ClientInfo
	for _, who := range append(own.members, n.plantedMembers(channel)...) {
		if !who.hidden {
			infos = append(infos, who.info)
		}
	}
	return infos
}

func statsAnswer(infos []*ClientInfo) []answerPart {
	users := make(map[string]struct{})
	for _, info := range infos {
		users[info.User] = struct{}{}
	}
	parts := []answerPart{{Clients: len(infos)}}
	for chunk := range slices.Chunk(slices.Collect(maps.Keys(users)), maxAnswerItems) {
		parts = append(parts, answerPart{Users: chunk})
	}
	return parts
}

// localChannels returns this node's channels with subscribers that match pattern.
func (n *Node) localChannels(ctx context.Context, pattern string) map[string]int {
	match := globMatcher(pattern)
	var mu sync.Mutex // guards found: the shards fill it one after the other, but may outlive ctx
	found := make(map[string]int)
	for _, sh := range n.shards {
		onShard(ctx, sh, func() {
			mu.Lock()
			defer mu.Unlock()
			for name, c := range sh.channels {
				if len(c.subs) > 0 && match(name) {
					found[name] = len(c.subs)
				}
			}
		})
	}
	mu.Lock()
	defer mu.Unlock()
	return maps.Clone(found)
}

func channelsAnswer(channels map[string]int) []answerPart {
	parts := []answerPart{{}}
	for name, subs := range channels {
		p := &parts[len(parts)-1]
		if len(p.Channels) == maxAnswerItems {
			parts = append(parts, answerPart{})
			p = &parts[len(parts)-1]
		}
		if p.Channels == nil {
			p.Channels = make(map[string]int)
		}
		p.Channels[name] = subs
	}
	return parts
}

// globMatcher returns a function that matches names against pattern, in which *
// stands for any run of characters and all else for itself.
func globMatcher(pattern string) func(string) bool {
	if pattern == "" || pattern == "*" {
		return func(string) bool { return true }
	}
	parts := strings.Split(pattern, "*")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	re := regexp.MustCompile(`(?s)^` + strings.Join(parts, ".*") + `$`)
	return re.MatchString
}

package router

import (
	"context"
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/headrace/headrace/internal/planted"
)

// Presence returns the members of channel across the cluster by client id.
func (n *Node) Presence(ctx context.Context, channel string) (map[string]*ClientInfo, error) {
	if err := n.checkPresence(channel); err != nil {
		return nil, err
	}
	members := make(map[string]*ClientInfo)
	var bad error
	err := n.ask(ctx, question{Kind: askPresence, Channel: channel}, func(p answerPart) {
		for _, raw := range p.Members {
			meta, err := DecodeMeta(raw)
			if err != nil || meta.Info == nil {
				bad = err
				continue
			}
			members[meta.Info.Client] = meta.Info
		}
	})
	if err == nil && bad != nil {
		err = Unavailable("presence", bad)
	}
	if err != nil {
		return nil, err
	}
	return members, nil
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
	var infos []*ClientInfo
	sh := n.shardOf(channel)
	onShard(ctx, sh, func() {
		c := sh.channels[channel]
		if c == nil {
			return
		}
		for _, s := range c.subs {
			if s.Info != nil && !s.NoPresence {
				infos = append(infos, s.Info)
			}
		}
	})
	if planted.Bug(planted.DeadMembers) {
		infos = append(infos, n.keptMembers(channel)...)
	}
	return infos
}

func membersAnswer(infos []*ClientInfo) []answerPart {
	parts := []answerPart{}
	for chunk := range slices.Chunk(infos, maxAnswerItems) {
		var p answerPart
		for _, info := range chunk {
			p.Members = append(p.Members, Meta{Info: info}.Encode())
		}
		parts = append(parts, p)
	}
	if len(parts) == 0 {
		parts = append(parts, answerPart{})
	}
	return parts
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

package router

import (
	"sync"

	"github.com/headrace/headrace/internal/planted"
)

// What the planted bugs need (see package planted). Nothing here is reachable in
// other builds.

var (
	plantedMu      sync.Mutex // guards the fields below
	plantedRings   = make(map[string][]ringEntry)
	plantedMembers = make(map[string][]*ClientInfo)
)

// keepRing keeps the ring of a channel whose interest ends.
func (sh *shard) keepRing(c *liveChannel) {
	plantedMu.Lock()
	defer plantedMu.Unlock()
	plantedRings[c.name] = c.ring.entries
}

// restoreRing takes it for the truth when interest comes back.
func (sh *shard) restoreRing(c *liveChannel) {
	plantedMu.Lock()
	defer plantedMu.Unlock()
	c.ring.entries = plantedRings[c.name]
}

func (n *Node) keepMember(channel string, info *ClientInfo) {
	plantedMu.Lock()
	defer plantedMu.Unlock()
	plantedMembers[channel] = append(plantedMembers[channel], info)
}

// plantedMembers are the members of channel whose sessions have ended.
func (n *Node) plantedMembers(channel string) (kept []member) {
	if !planted.Bug(planted.DeadMembers) {
		return nil
	}
	plantedMu.Lock()
	defer plantedMu.Unlock()
	for _, info := range plantedMembers[channel] {
		kept = append(kept, member{info: info})
	}
	return kept
}

// above returns the publications with numbers above number, whatever is between.
func (r *ring) above(number uint64) (pubs []*Publication) {
	for _, e := range r.entries {
		if e.number > number && e.pub != nil {
			pubs = append(pubs, e.pub)
		}
	}
	return pubs
}

package router

import "context"

func (n *Node) cachedState(ctx context.Context, channel, key string) (StateEntry, bool) {
	return StateEntry{}, false
}

func (n *Node) sawState(channel string, e StateEntry, pos Position) {}

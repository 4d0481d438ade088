package follow

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/headrace/headrace/test/check"
	"github.com/headrace/headrace/test/rawclient"
)

// askMembers asks who is in channel.
func (a *attendance) askMembers(channel string) {
	a.mu.Lock() // the reply may come before Send returns
	defer a.mu.Unlock()
	a.f.History.Add(check.Event{Kind: check.AskMembers, Who: a.f.Name, At: a.edge, Channel: channel})
	id, err := a.c.Send("presence", map[string]string{"channel": channel})
	if err != nil {
		return // the connection has ended
	}
	if a.whose == nil {
		a.whose = make(map[uint32]string)
	}
	a.whose[id] = channel
}

// memberEvent records what e says of members, if it does. Where nobody knows who is
// there it asks again.
func (a *attendance) memberEvent(e rawclient.Event) bool {
	event := check.Event{Who: a.f.Name, At: a.edge}
	switch {
	case e.Reply != nil:
		a.mu.Lock()
		channel, mine := a.whose[e.Reply.ID]
		delete(a.whose, e.Reply.ID)
		a.mu.Unlock()
		if !mine {
			return false
		}
		if e.Reply.Error != nil || e.Reply.Presence == nil {
			time.AfterFunc(500*time.Millisecond, func() { a.askMembers(channel) })
			return true
		}
		event.Kind, event.Channel = check.Members, channel
		event.Payload = strings.Join(slices.Sorted(maps.Keys(e.Reply.Presence.Presence)), " ")
	case e.Push.Join != nil:
		event.Kind, event.Channel, event.Payload = check.MemberJoined, e.Push.Channel, e.Push.Join.Info.Client
	case e.Push.Leave != nil:
		event.Kind, event.Channel, event.Payload = check.MemberLeft, e.Push.Channel, e.Push.Leave.Info.Client
	default:
		return false
	}
	a.f.History.Add(event)
	return true
}

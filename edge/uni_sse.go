package edge

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"

	"github.com/centrifugal/protocol"

	"github.com/headrace/headrace/router"
)

// serveUniSSE serves plain EventSource clients. A browser gives up on any status
// but 200, so what may be better in a moment is told in a stream that ends.
func (s *Server) serveUniSSE(w http.ResponseWriter, r *http.Request) {
	streamHeaders(w.Header(), "text/event-stream")
	place, why := s.enter(r)
	if why != "" {
		s.metrics.refuse(why)
		if why == refusedConnectionsPerIP {
			answerRefusal(w, why)
			return
		}
		_, text := why.status()
		fmt.Fprintf(w, "%s", retryLine(nil))
		w.Write(uniSSE.farewell(disconnect{disconnectShutdown.code, text})) //nolint:errcheck // the peer is gone then
		return
	}
	since := r.Header.Get("Last-Event-ID")
	if since == "" {
		since = r.URL.Query().Get("last_event_id")
	}
	cmd, err := oneWayQuery(r, since)
	if err != nil {
		place.release()
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.openStream(w, r, uniSSE, place, func(sess *session, _ *streamConn) { sess.take(cmd) })
}

// retryLine tells an EventSource when to come back after its connection has ended:
// not all at once.
func retryLine(b []byte) []byte {
	return fmt.Appendf(b, "retry: %d\n\n", 1000+rand.IntN(2000))
}

// appendEvent appends one event. data is JSON on one line. Without a name the event
// is a message, without an id the last one holds.
func appendEvent(b []byte, name string, id []byte, data []byte) []byte {
	if name != "" {
		b = append(append(append(b, "event: "...), name...), '\n')
	}
	if len(id) > 0 {
		b = append(append(append(b, "id: "...), id...), '\n')
	}
	return uniSSE.appendLine(b, data)
}

// appendConnected appends the event connected and, as events of their own, what was
// recovered. The id of connected is where recovery began, so that a client which
// gets no further begins there again.
func appendConnected(b []byte, c *protocol.ConnectResult) ([]byte, error) {
	var at positions
	names := slices.Sorted(maps.Keys(c.Subs))
	for _, name := range names {
		if sub := c.Subs[name]; sub.Recoverable || sub.Positioned {
			at = append(at, position{name, router.Position{Offset: sub.Offset, Epoch: sub.Epoch}})
		}
	}
	told := &protocol.Connect{Client: c.Client, Version: c.Version, Expires: c.Expires, Ttl: c.Ttl, Ping: c.Ping, Time: c.Time,
		Subs: make(map[string]*protocol.SubscribeResult, len(names))}
	for _, name := range names {
		sub := c.Subs[name]
		told.Subs[name] = &protocol.SubscribeResult{Recoverable: sub.Recoverable, Positioned: sub.Positioned, Epoch: sub.Epoch, Offset: sub.Offset,
			Recovered: sub.Recovered, WasRecovering: sub.WasRecovering, Data: sub.Data}
	}
	data, err := protocol.DefaultJsonPushEncoder.EncodeConnect(told)
	if err != nil {
		return b, err
	}
	b = appendEvent(retryLine(b), "connected", at.append(nil), data)
	for _, name := range names {
		pos := at.of(name)
		for _, pub := range c.Subs[name].Publications {
			var id []byte
			if pos != nil {
				pos.Offset = pub.Offset
				id = at.append(nil)
			}
			if b, err = appendPublication(b, name, pub, id); err != nil {
				return b, err
			}
		}
	}
	return b, nil
}

func appendPublication(b []byte, channel string, pub *protocol.Publication, id []byte) ([]byte, error) {
	own := &protocol.Publication{Channel: channel, Data: pub.Data, Info: pub.Info, Offset: pub.Offset, Tags: pub.Tags, Time: pub.Time}
	data, err := protocol.DefaultJsonPushEncoder.EncodePublication(own)
	if err != nil {
		return b, err
	}
	return appendEvent(b, "", id, data), nil
}

// memberEvent is the data of the events join and leave.
type memberEvent struct {
	Channel string               `json:"channel"`
	Info    *protocol.ClientInfo `json:"info"`
}

// appendPushEvent appends p as an event.
func appendPushEvent(b []byte, p *protocol.Push, id string) ([]byte, error) {
	var name string
	var body any
	switch {
	case p.Pub != nil:
		return appendPublication(b, p.Channel, p.Pub, []byte(id))
	case p.Join != nil:
		name, body = "join", memberEvent{p.Channel, p.Join.Info}
	case p.Leave != nil:
		name, body = "leave", memberEvent{p.Channel, p.Leave.Info}
	case p.Message != nil: // to the user or client, through the API
		name, body = "direct", json.RawMessage(p.Message.Data)
	case p.Disconnect != nil:
		name, body = "disconnect", p.Disconnect
	case p.Refresh != nil:
		name, body = "refresh", p.Refresh
	case p.Subscribe != nil:
		name, body = "subscribe", map[string]string{"channel": p.Channel}
	case p.Unsubscribe != nil:
		name, body = "unsubscribe", map[string]any{"channel": p.Channel, "code": p.Unsubscribe.Code, "reason": p.Unsubscribe.Reason}
	default:
		return b, nil
	}
	data, err := json.Marshal(body) // on one line
	if err != nil {
		return b, err
	}
	return appendEvent(b, name, nil, data), nil
}

package edge

import (
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"

	"github.com/centrifugal/protocol"

	"github.com/headrace/headrace/edge/token"
	"github.com/headrace/headrace/router"
)

// One-way clients say once what they want and then listen: over a WebSocket whose
// first message is a connect request, or with a plain EventSource whose URL has it.
// Their subscriptions are made with the connection, as those of the server are: when
// one ends, the connection does, and the client comes back and recovers.

// oneWayConnect reads the only message of a one-way client: a connect request,
// whose subs are the channels it wants.
func oneWayConnect(data []byte) (*protocol.Command, error) {
	var req protocol.ConnectRequest
	if err := json.Unmarshal(data, &req); err != nil {
		return nil, err
	}
	for name, sub := range req.Subs {
		if sub == nil {
			sub = new(protocol.SubscribeRequest)
			req.Subs[name] = sub
		}
		sub.Channel = name // wanted, see wanted
	}
	return &protocol.Command{Id: 1, Connect: &req}, nil
}

// oneWayQuery is oneWayConnect for a URL: cf_connect has a connect request, channel,
// once or several times, the channels, and sub_token their subscription tokens in
// the same order. since is where the client stands, "" when it is new.
func oneWayQuery(r *http.Request, since string) (*protocol.Command, error) {
	q := r.URL.Query()
	cmd := &protocol.Command{Id: 1, Connect: new(protocol.ConnectRequest)}
	if text := q.Get("cf_connect"); text != "" {
		var err error
		if cmd, err = oneWayConnect([]byte(text)); err != nil {
			return nil, errors.New("cf_connect is not a connect request")
		}
	}
	subs := cmd.Connect.Subs
	if subs == nil {
		subs = make(map[string]*protocol.SubscribeRequest)
		cmd.Connect.Subs = subs
	}
	tokens := q["sub_token"]
	for i, name := range q["channel"] {
		sub := &protocol.SubscribeRequest{Channel: name, JoinLeave: q.Get("join_leave") == "true"}
		if i < len(tokens) {
			sub.Token = tokens[i]
		}
		subs[name] = sub
	}
	recoverFrom(subs, since)
	return cmd, nil
}

// recoverFrom makes requests for channels recover from where since says. A since
// that cannot be read is no position of any of them, and they are told so.
func recoverFrom(subs map[string]*protocol.SubscribeRequest, since string) {
	if since == "" {
		return
	}
	at, err := parsePositions(since)
	if err != nil {
		for _, sub := range subs {
			sub.Recover, sub.Epoch = true, "unreadable"
		}
		return
	}
	for name, pos := range at {
		if subs[name] == nil {
			subs[name] = new(protocol.SubscribeRequest) // not wanted, but the server may subscribe it
		}
		subs[name].Recover, subs[name].Offset, subs[name].Epoch = true, pos.Offset, pos.Epoch
	}
}

// subTokens are the subscription tokens in a one-way client's connect command.
func (s *session) subTokens(cmd *protocol.Command) (tokens []string) {
	if !s.kind.oneWay() {
		return nil
	}
	for _, sub := range cmd.Connect.Subs {
		if sub.Token != "" {
			tokens = append(tokens, sub.Token)
		}
	}
	return tokens
}

// withSubKeys is withKey for several subscription tokens.
func (s *session) withSubKeys(cmd *protocol.Command, tokens []string, f func() bool) bool {
	if len(tokens) == 0 {
		return f()
	}
	return s.withKey(cmd, s.srv.subVerifier, tokens[0], func() bool { return s.withSubKeys(cmd, tokens[1:], f) })
}

// wanted adds to channels, those of the server, the ones that a client with token t
// asks for in subs and may have. Entries without a channel are positions only.
func (s *session) wanted(subs map[string]*protocol.SubscribeRequest, t *token.Connection, channels []serverChannel) ([]serverChannel, error) {
	s.mu.Lock()
	s.info = router.ClientInfo{Client: s.id, User: t.User, ConnInfo: t.Info}
	s.grant = newGrant(t)
	s.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(subs)) {
		sub := subs[name]
		if sub.Channel == "" || slices.ContainsFunc(channels, func(c serverChannel) bool { return c.name == name }) {
			continue
		}
		c, err := s.want(sub)
		if err != nil {
			return nil, err
		}
		channels = append(channels, c)
		if err := s.checkCount(channels); err != nil {
			return nil, err
		}
	}
	return channels, s.checkCount(channels)
}

// maxPositionBytes bounds the positions of a connection or poll in characters: they
// come back in one header or in the URL, of which nginx takes 8 KiB by default.
const maxPositionBytes = 4096

// checkCount refuses more channels than their positions may have room for. A one-way
// WebSocket says where it is in its first message.
func (s *session) checkCount(channels []serverChannel) error {
	limit := s.srv.cfg.Transports.UniChannelLimit
	if s.kind == uniWS {
		limit = s.srv.cfg.ChannelLimit
	}
	if len(channels) > limit {
		s.srv.metrics.refuse(refusedChannels)
		return router.Errorf(router.CodeLimit, "more than %d channels", limit)
	}
	size := 0
	for _, c := range channels {
		const other = 48 // offset, epoch and what stands between them
		size += len(escape(nil, c.name)) + other
	}
	if size > maxPositionBytes && s.kind != uniWS {
		s.srv.metrics.refuse(refusedChannels)
		return router.Errorf(router.CodeLimit, "the channels' names are too long together")
	}
	return nil
}

// want checks a channel that a one-way client asks for.
func (s *session) want(sub *protocol.SubscribeRequest) (c serverChannel, err error) {
	if _, ok := router.QueueOf(sub.Channel); ok || sub.Tf != nil {
		return c, router.Errorf(router.CodeNotAvailable, "one-way clients have neither queues nor tags filters")
	}
	if _, err := s.checkSubscribable(sub); err != nil {
		return c, err
	}
	in, err := s.invite(sub.Channel, sub.Token)
	if err != nil {
		return c, err
	}
	return serverChannel{name: sub.Channel, expireAt: in.expireAt, joinLeave: sub.JoinLeave,
		SubscribeOptions: token.SubscribeOptions{Info: in.info.ChanInfo, Data: in.data, Allow: in.allow, Override: in.override}}, nil
}

// oneWayDisconnect is how a client without replies is told an error.
func oneWayDisconnect(p protoError) disconnect {
	switch {
	case p.code == errorTokenExpired.code || p.code == errorExpired.code:
		return disconnectExpired
	case p.temporary:
		return disconnect{disconnectReconnect.code, p.message}
	case p.code == codeTable[router.CodeDenied].code:
		return disconnect{codeDenied, p.message}
	case p.code == codeTable[router.CodeLimit].code:
		return disconnect{disconnectChannelLimit.code, p.message}
	}
	return disconnect{disconnectBadRequest.code, p.message}
}

// appendOneWay appends what a one-way client gets of r: a push, without an envelope.
func (k kind) appendOneWay(b []byte, r *protocol.Reply) ([]byte, error) {
	push := r.Push
	if c := r.Connect; c != nil {
		if k == uniSSE {
			return appendConnected(b, c)
		}
		push = &protocol.Push{Connect: &protocol.Connect{Client: c.Client, Version: c.Version, Data: c.Data, Subs: c.Subs,
			Expires: c.Expires, Ttl: c.Ttl, Ping: c.Ping, Pong: c.Pong, Time: c.Time}}
	}
	if k == uniSSE {
		return appendPushEvent(b, push, "")
	}
	enc, err := protocol.DefaultJsonPushEncoder.Encode(push)
	if err != nil {
		return b, err
	}
	return k.appendLine(b, enc), nil
}

// serveUniWebSocket is a WebSocket on which the client sends a connect request, or
// has it in the URL, and then listens.
func (s *Server) serveUniWebSocket(w http.ResponseWriter, r *http.Request) {
	var first *protocol.Command
	if q := r.URL.Query(); q.Has("channel") || q.Has("cf_connect") {
		var err error
		if first, err = oneWayQuery(r, q.Get("last_event_id")); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	}
	s.upgrade(w, r, uniWS, first)
}

// readAfter is read for a client whose URL had its first command.
func (s *Server) readAfter(first *protocol.Command, conn *wsConn, sess *session) {
	sess.take(first)
	s.read(conn, sess)
}

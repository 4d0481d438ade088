package edge

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/headrace/headrace/router"
)

type apiPosition struct {
	Offset uint64 `json:"offset,omitempty"`
	Epoch  string `json:"epoch,omitempty"`
}

type apiPublication struct {
	Data           json.RawMessage   `json:"data"`
	B64Data        []byte            `json:"b64data"`
	Tags           map[string]string `json:"tags"`
	IdempotencyKey string            `json:"idempotency_key"`
}

type apiPublishRequest struct {
	Channel string `json:"channel"`
	apiPublication
}

func (p *apiPublication) payload() ([]byte, error) {
	switch {
	case p.B64Data != nil:
		return p.B64Data, nil
	case len(p.Data) > 0:
		return p.Data, nil
	default:
		return nil, router.Errorf(router.CodeInvalid, "data is missing")
	}
}

func (s *Server) apiPublish(ctx context.Context, req *apiPublishRequest) (apiPosition, error) {
	data, err := req.payload()
	if err != nil {
		return apiPosition{}, err
	}
	if err := checkIdempotencyKey(req.IdempotencyKey); err != nil {
		return apiPosition{}, err
	}
	return s.publishAndWait(ctx, router.PublishRequest{Channel: req.Channel, Data: data, Tags: req.Tags, IdempotencyKey: req.IdempotencyKey})
}

func (s *Server) publishAndWait(ctx context.Context, req router.PublishRequest) (apiPosition, error) {
	type answer struct {
		pos router.Position
		err error
	}
	done := make(chan answer, 1)
	s.publishOnce(ctx, req, func(pos router.Position, err error) { done <- answer{pos, err} })
	select {
	case a := <-done:
		return apiPosition{Offset: a.pos.Offset, Epoch: a.pos.Epoch}, a.err
	case <-ctx.Done():
		return apiPosition{}, router.Unavailable("publishing", ctx.Err())
	}
}

// publishOnce is Router.Publish that sees to the idempotency key: channels with
// history have it in the log, for the others this node remembers what it did. done
// must not block.
func (s *Server) publishOnce(ctx context.Context, req router.PublishRequest, done func(router.Position, error)) {
	ns, err := s.node.Namespace(req.Channel)
	if err != nil || req.IdempotencyKey == "" || ns.HistorySize > 0 {
		s.node.Publish(req, done)
		return
	}
	key := fmt.Sprintf("publish %d:%s %s", len(req.Channel), req.Channel, req.IdempotencyKey)
	_, err = s.once.do(ctx, key, func() (any, error) {
		var err error
		// Without history done is called before Publish returns.
		s.node.Publish(req, func(_ router.Position, e error) { err = e })
		return nil, err
	})
	done(router.Position{}, err)
}

type apiBroadcastRequest struct {
	Channels []string `json:"channels"`
	apiPublication
}

type apiBroadcastResult struct {
	Responses []apiAnswer `json:"responses"`
}

// maxBroadcast bounds the channels of one broadcast.
const maxBroadcast = 10000

func (s *Server) apiBroadcast(ctx context.Context, req *apiBroadcastRequest) (apiBroadcastResult, error) {
	data, err := req.payload()
	switch {
	case err != nil:
		return apiBroadcastResult{}, err
	case len(req.Channels) == 0:
		return apiBroadcastResult{}, router.Errorf(router.CodeInvalid, "channels is empty")
	case len(req.Channels) > maxBroadcast:
		return apiBroadcastResult{}, router.Errorf(router.CodeLimit, "more than %d channels", maxBroadcast)
	}
	type answer struct {
		i   int
		pos router.Position
		err error
	}
	if err := checkIdempotencyKey(req.IdempotencyKey); err != nil {
		return apiBroadcastResult{}, err
	}
	answers := make(chan answer, len(req.Channels))
	for i, channel := range req.Channels {
		s.publishOnce(ctx, router.PublishRequest{Channel: channel, Data: data, Tags: req.Tags, IdempotencyKey: req.IdempotencyKey},
			func(pos router.Position, err error) { answers <- answer{i, pos, err} })
	}
	res := apiBroadcastResult{Responses: make([]apiAnswer, len(req.Channels))}
	for range req.Channels {
		select {
		case a := <-answers:
			if a.err != nil {
				res.Responses[a.i] = apiAnswer{Error: apiFailure(a.err)}
			} else {
				res.Responses[a.i] = apiAnswer{Result: apiPosition{a.pos.Offset, a.pos.Epoch}}
			}
		case <-ctx.Done():
			return res, router.Unavailable("publishing", ctx.Err())
		}
	}
	return res, nil
}

type apiChannelRequest struct {
	Channel string `json:"channel"`
}

type apiHistoryRequest struct {
	Channel string       `json:"channel"`
	Limit   int          `json:"limit"`
	Since   *apiPosition `json:"since"`
	Reverse bool         `json:"reverse"`
}

type apiHistoryResult struct {
	Publications []apiStored `json:"publications"`
	apiPosition
}

type apiStored struct {
	Data    json.RawMessage   `json:"data,omitempty"`
	B64Data []byte            `json:"b64data,omitempty"`
	Offset  uint64            `json:"offset"`
	Time    int64             `json:"time,omitempty"` // Unix milliseconds
	Tags    map[string]string `json:"tags,omitempty"`
	Info    *apiInfo          `json:"info,omitempty"`
}

type apiInfo struct {
	User     string          `json:"user"`
	Client   string          `json:"client"`
	ConnInfo json.RawMessage `json:"conn_info,omitempty"`
	ChanInfo json.RawMessage `json:"chan_info,omitempty"`
}

func toAPIInfo(i *router.ClientInfo) *apiInfo {
	if i == nil {
		return nil
	}
	out := &apiInfo{User: i.User, Client: i.Client}
	if json.Valid(i.ConnInfo) {
		out.ConnInfo = i.ConnInfo
	}
	if json.Valid(i.ChanInfo) {
		out.ChanInfo = i.ChanInfo
	}
	return out
}

func (s *Server) apiHistory(ctx context.Context, req *apiHistoryRequest) (apiHistoryResult, error) {
	r := router.HistoryRequest{Limit: req.Limit, Reverse: req.Reverse}
	if req.Since != nil {
		r.Since = &router.Position{Offset: req.Since.Offset, Epoch: req.Since.Epoch}
	}
	res, err := s.node.History(ctx, req.Channel, r)
	if err != nil {
		return apiHistoryResult{}, err
	}
	out := apiHistoryResult{Publications: []apiStored{}, apiPosition: apiPosition{res.Position.Offset, res.Position.Epoch}}
	for _, p := range res.Publications {
		stored := apiStored{Offset: p.Offset, Time: p.Time, Tags: p.Tags, Info: toAPIInfo(p.Info)}
		if json.Valid(p.Data) {
			stored.Data = p.Data
		} else {
			stored.B64Data = p.Data
		}
		out.Publications = append(out.Publications, stored)
	}
	return out, nil
}

func (s *Server) apiHistoryRemove(ctx context.Context, req *apiChannelRequest) (struct{}, error) {
	return struct{}{}, s.node.HistoryRemove(ctx, req.Channel)
}

type apiPresenceResult struct {
	Presence map[string]*apiInfo `json:"presence"`
}

func (s *Server) apiPresence(ctx context.Context, req *apiChannelRequest) (apiPresenceResult, error) {
	members, err := s.node.Presence(ctx, req.Channel)
	out := apiPresenceResult{Presence: make(map[string]*apiInfo, len(members))}
	for id, info := range members {
		out.Presence[id] = toAPIInfo(info)
	}
	return out, err
}

type apiPresenceStatsResult struct {
	Clients int `json:"num_clients"`
	Users   int `json:"num_users"`
}

func (s *Server) apiPresenceStats(ctx context.Context, req *apiChannelRequest) (apiPresenceStatsResult, error) {
	st, err := s.node.PresenceStats(ctx, req.Channel)
	return apiPresenceStatsResult{st.Clients, st.Users}, err
}

type apiChannelsRequest struct {
	Pattern string `json:"pattern"`
}

type apiChannelsResult struct {
	Channels map[string]apiChannelInfo `json:"channels"`
}

// apiChannelInfo counts the subscriptions of one channel across the cluster.
type apiChannelInfo struct {
	Clients int `json:"num_clients"`
}

func (s *Server) apiChannels(ctx context.Context, req *apiChannelsRequest) (apiChannelsResult, error) {
	channels, err := s.node.Channels(ctx, req.Pattern)
	out := apiChannelsResult{Channels: make(map[string]apiChannelInfo, len(channels))}
	for name, n := range channels {
		out.Channels[name] = apiChannelInfo{n}
	}
	return out, err
}

type apiInfoResult struct {
	Nodes []router.NodeInfo `json:"nodes"`
}

func (s *Server) apiInfo(ctx context.Context, _ *struct{}) (apiInfoResult, error) {
	nodes, err := s.node.Info(ctx)
	return apiInfoResult{nodes}, err
}

type apiMessageRequest struct {
	router.Target
	Data json.RawMessage `json:"data"`
}

type apiMessageResult struct {
	Delivered int `json:"delivered"`
}

func (s *Server) apiMessage(ctx context.Context, req *apiMessageRequest) (apiMessageResult, error) {
	set := 0
	for _, is := range []bool{req.All, req.User != "", req.Client != ""} {
		if is {
			set++
		}
	}
	if set != 1 || len(req.Data) == 0 {
		return apiMessageResult{}, router.Errorf(router.CodeInvalid, "exactly one of all, user and client, and data, are needed")
	}
	n, err := s.node.Send(ctx, req.Target, req.Data)
	return apiMessageResult{n}, err
}

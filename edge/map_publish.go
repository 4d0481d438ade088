package edge

import (
	"context"
	"time"

	"github.com/centrifugal/protocol"

	"github.com/headrace/headrace/router"
)

// publishMap sets or removes a key for the client.
func (s *session) publishMap(cmd *protocol.Command) {
	change, ns, err := s.mapChange(cmd.Publish)
	if err != nil {
		s.fail(cmd, err)
		return
	}
	// Commands to the channel wait, so that changes are made in order of arrival.
	state, start := s.occupy(cmd.Publish.Channel), time.Now()
	s.begin()
	s.srv.calls.Go(func() {
		ctx, cancel := context.WithTimeout(s.srv.ctx, callTimeout)
		defer cancel()
		if err := s.changeMap(ctx, cmd.Publish.Channel, change, s.keepKey(ns, state)); err != nil {
			s.fail(cmd, err)
		} else {
			s.reply(cmd, &protocol.Reply{Publish: &protocol.PublishResult{}})
		}
		s.srv.metrics.publish.Observe(time.Since(start).Seconds())
		s.release(state)
		s.end()
	})
}

// mapChange is what a publication to a map comes to, if the client may make it.
func (s *session) mapChange(req *protocol.PublishRequest) (c router.Change, ns *router.Namespace, err error) {
	op := router.OpPublish
	if req.Removed {
		op = router.OpRemove
	}
	if err = s.allow(op, req.Channel); err == nil {
		ns, err = s.srv.node.Namespace(req.Channel)
	}
	if err != nil {
		return c, ns, err
	}
	info := s.clientInfo(req.Channel)
	c = router.Change{Key: req.Key, Data: req.Data, Remove: req.Removed, User: info.User, Info: info}
	switch {
	case req.Type != typeMap:
		return c, ns, router.Errorf(router.CodeInvalid, "type %d is not one of 0, 1", req.Type)
	case ns.Map == nil:
		return c, ns, router.Errorf(router.CodeNotAvailable, "the channels of namespace %q are no maps", ns.Name)
	case req.Removed && len(req.Data) > 0:
		return c, ns, router.Errorf(router.CodeInvalid, "a removal has no data")
	case !req.Removed && len(req.Data) == 0:
		return c, ns, router.Errorf(router.CodeInvalid, "data is empty")
	case ns.Map.RemoveOnUnsubscribe && !s.subscribedTo(req.Channel):
		return c, ns, router.Errorf(router.CodeDenied, "subscribe first: the key lasts as long as the subscription")
	}
	switch ns.Map.ClientKey {
	case router.ClientKeyClient:
		c.Key = info.Client
	case router.ClientKeyUser:
		c.Key = info.User
	}
	if c.Key == "" {
		return c, ns, router.Errorf(router.CodeInvalid, "key is empty")
	}
	return c, ns, nil
}

func (s *session) subscribedTo(channel string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.find(channel)
	return c != nil && c.sub != nil
}

// changeMap makes c. set is called when a key may have been set, with or without
// error.
func (s *session) changeMap(ctx context.Context, channel string, c router.Change, set func()) error {
	if limit := s.srv.cfg.UserLimit; limit != nil && c.User != "" {
		if err := limit.Take(ctx, c.User); err != nil {
			if router.CodeOf(err) == router.CodeTooMany {
				s.srv.metrics.refuse(refusedUserMessages)
			}
			return err
		}
	}
	res, err := s.srv.node.ChangeState(ctx, channel, c)
	if !c.Remove && (err == nil || router.CodeOf(err) == router.CodeUnavailable) {
		set()
	}
	switch {
	case err != nil:
		return err
	case res.Applied, res.Reason == router.ReasonMissing: // removed already is removed
		return nil
	case res.Reason == router.ReasonRejected && res.Message != "":
		return router.Errorf(router.CodeDenied, "%s", res.Message)
	case res.Reason == router.ReasonRejected:
		return router.Errorf(router.CodeDenied, "rejected")
	default:
		return router.Errorf(router.CodeConflict, "not applied: %s", res.Reason)
	}
}

package edge

import (
	"context"

	"github.com/headrace/headrace/router"
)

// stateMethods are the methods of versioned state. They see to their idempotency
// keys themselves: the log knows them, on every node.
func (s *Server) stateMethods() map[string]apiMethod {
	return map[string]apiMethod{
		"state_get":     strictMethod(s.apiStateGet),
		"state_set":     strictMethod(s.apiStateSet),
		"state_delete":  strictMethod(s.apiStateDelete),
		"state_history": strictMethod(s.apiStateHistory),
		"state_sync":    strictMethod(s.apiStateSync),
	}
}

func (s *Server) apiStateGet(ctx context.Context, req *stateGetRequest) (stateGot, error) {
	opt, err := req.options()
	if err != nil {
		return stateGot{}, err
	}
	e, err := s.node.GetState(ctx, req.Channel, req.Key, opt)
	switch {
	case err != nil:
		return stateGot{}, err
	case opt.Version > 0:
		return stateGot{toStateEntry(&e)}, nil
	default:
		return stateGot{toCurrentEntry(&e)}, nil
	}
}

func (s *Server) apiStateHistory(ctx context.Context, req *stateHistoryRequest) (stateVersions, error) {
	entries, err := s.node.KeyHistory(ctx, req.Channel, req.Key, req.Limit)
	return toStateVersions(entries), err
}

func (s *Server) apiStateSet(ctx context.Context, req *stateSetRequest) (*stateChanged, error) {
	c, err := req.change()
	if err != nil {
		return nil, err
	}
	return s.changeState(ctx, req.Channel, c)
}

func (s *Server) apiStateDelete(ctx context.Context, req *stateDeleteRequest) (*stateChanged, error) {
	c, err := req.change()
	if err != nil {
		return nil, err
	}
	return s.changeState(ctx, req.Channel, c)
}

func (s *Server) changeState(ctx context.Context, channel string, c router.Change) (*stateChanged, error) {
	res, err := s.node.ChangeState(ctx, channel, c)
	if err != nil {
		return nil, err
	}
	return toStateChanged(&res), nil
}

func (s *Server) apiStateSync(ctx context.Context, req *stateSyncRequest) (stateSynced, error) {
	return s.syncState(ctx, req, func(*router.Change) error { return nil })
}

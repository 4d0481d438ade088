package edge

import (
	"context"

	"github.com/headrace/headrace/router"
)

// syncState makes the changes of req, each seen to by prepare first, and answers
// each on its own. One that cannot be made does not keep the others from it.
func (s *Server) syncState(ctx context.Context, req *stateSyncRequest, prepare func(*router.Change) error) (stateSynced, error) {
	if len(req.Changes) == 0 || len(req.Changes) > router.MaxSync {
		return stateSynced{}, router.Errorf(router.CodeLimit, "a sync has 1 to %d changes, not %d", router.MaxSync, len(req.Changes))
	}
	if err := s.checkIsMap(req.Channel); err != nil {
		return stateSynced{}, err
	}
	out := stateSynced{Results: make([]stateSyncedKey, len(req.Changes))}
	var changes []router.Change
	var places []int // in out of changes
	for i := range req.Changes {
		c, err := req.Changes[i].change()
		if err == nil {
			err = prepare(&c)
		}
		out.Results[i].Key = c.Key
		if err != nil {
			out.Results[i].Error = apiFailure(err)
			continue
		}
		changes, places = append(changes, c), append(places, i)
	}
	if len(changes) == 0 {
		return out, nil
	}
	results, err := s.node.SyncState(ctx, req.Channel, changes)
	if err != nil {
		return stateSynced{}, err
	}
	for i := range results {
		at := &out.Results[places[i]]
		if results[i].Err != nil {
			at.Error = apiFailure(results[i].Err)
			s.logFailure("state_sync", results[i].Err)
		} else {
			at.stateChanged = toStateChanged(&results[i].Changed)
		}
	}
	return out, nil
}

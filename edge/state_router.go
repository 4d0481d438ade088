package edge

import (
	"context"

	"github.com/headrace/headrace/router"
)

// StateRouter is what edge needs of router.Node for versioned state; see there for
// the contracts.
type StateRouter interface {
	ChangeState(ctx context.Context, channel string, c router.Change) (router.Changed, error)
	SyncState(ctx context.Context, channel string, changes []router.Change) ([]router.ChangeResult, error)
	GetState(ctx context.Context, channel, key string, opt router.GetOptions) (router.StateEntry, error)
	KeyHistory(ctx context.Context, channel, key string, limit int) ([]router.StateEntry, error)
	StatePage(ctx context.Context, channel, cursor string, limit int) (router.StatePage, error)
	ClearState(ctx context.Context, channel string) error
	StateStats(ctx context.Context, channel string) (router.StateStats, error)
}

package edge

import (
	"context"
	"encoding/json"
	"sync"

	"github.com/headrace/headrace/router"
)

// Bounds of a batch.
const (
	maxBatch         = 1000 // commands
	maxBatchParallel = 16   // of one parallel batch under way
)

type apiBatchRequest struct {
	// Commands have one field each: the method's name, with its request.
	Commands []map[string]json.RawMessage `json:"commands"`
	// Parallel gives up the order for speed.
	Parallel bool `json:"parallel"`
}

type apiBatchResult struct {
	// Replies are in the order of the commands; each has one field: the method's
	// name with its result, or error.
	Replies []map[string]any `json:"replies"`
}

// apiBatch runs all commands, whether or not others fail.
func (s *Server) apiBatch(ctx context.Context, req *apiBatchRequest) (apiBatchResult, error) {
	if len(req.Commands) == 0 || len(req.Commands) > maxBatch {
		return apiBatchResult{}, router.Errorf(router.CodeLimit, "a batch has 1 to %d commands, not %d", maxBatch, len(req.Commands))
	}
	res := apiBatchResult{Replies: make([]map[string]any, len(req.Commands))}
	width := 1
	if req.Parallel {
		width = min(maxBatchParallel, len(req.Commands))
	}
	next := make(chan int, len(req.Commands))
	for i := range req.Commands {
		next <- i
	}
	close(next)
	var workers sync.WaitGroup
	for range width {
		workers.Go(func() {
			for i := range next {
				res.Replies[i] = s.batchReply(ctx, req.Commands[i])
			}
		})
	}
	workers.Wait()
	return res, nil
}

func (s *Server) batchReply(ctx context.Context, command map[string]json.RawMessage) map[string]any {
	name, result, err := s.batchCall(ctx, command)
	if err == nil {
		return map[string]any{name: result}
	}
	s.logFailure(name, err)
	return map[string]any{"error": apiFailure(err)}
}

func (s *Server) batchCall(ctx context.Context, command map[string]json.RawMessage) (name string, result any, err error) {
	if len(command) != 1 {
		return "", nil, router.Errorf(router.CodeInvalid, "a command has one field, the method, not %d", len(command))
	}
	for method, body := range command {
		call := s.methods[method]
		switch {
		case method == "batch", method == pullMethod:
			return method, nil, router.Errorf(router.CodeInvalid, "a %s within a batch", method)
		case call == nil:
			return method, nil, router.Errorf(router.CodeNoMethod, "unknown method %q", method)
		case ctx.Err() != nil:
			return method, nil, router.Unavailable("the batch", ctx.Err())
		}
		name = method
		result, err = call(ctx, body)
	}
	return name, result, err
}

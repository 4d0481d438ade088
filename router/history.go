package router

import (
	"context"
	"slices"
	"time"
)

// History reads a channel's history. It fails with CodeUnrecoverable when
// req.Since is given and its epoch is not the current one.
func (n *Node) History(ctx context.Context, channel string, req HistoryRequest) (HistoryResult, error) {
	ch, ns, log, err := n.resolveLog(channel)
	if err != nil {
		return HistoryResult{}, err
	}
	key := ch.Key()
	for range maxOverwritten {
		res, err := readHistory(ctx, ns, log, key, req)
		if err == nil || CodeOf(err) != CodeConflict {
			return res, err
		}
	}
	return HistoryResult{}, Unavailable("history", Errorf(CodeConflict, "the channel is overwritten faster than it can be read"))
}

func readHistory(ctx context.Context, ns *Namespace, log Log, key string, req HistoryRequest) (HistoryResult, error) {
	head, err := readHead(ctx, log, key)
	if err != nil {
		return HistoryResult{}, err
	}
	inc := log.Incarnation(key)
	res := HistoryResult{Position: Position{Offset: head.Number, Epoch: LifeEpoch(inc, head.Life)}}
	if head.Number == 0 {
		res.Position.Epoch = EmptyEpoch(inc, head.Seq)
	}
	if err := checkSince(ctx, log, key, req.Since, res.Position.Epoch, inc); err != nil {
		return HistoryResult{}, err
	}
	if head.Number == 0 || req.Limit == 0 {
		return res, nil
	}
	var after uint64
	if req.Since != nil && !req.Reverse {
		after = req.Since.Offset
	}
	entries, err := log.Read(ctx, key, after, head)
	if err != nil {
		return HistoryResult{}, err
	}
	res.Publications = selectHistory(ns, entries, req)
	return res, nil
}

// checkSince refuses a position of another life. A position from an empty
// channel belongs to this life if nothing was evicted since (see sameEpoch).
func checkSince(ctx context.Context, log Log, key string, since *Position, epoch, inc string) error {
	if since == nil || since.Epoch == "" || since.Epoch == epoch {
		return nil
	}
	if at, seq, ok := parseEmptyEpoch(since.Epoch); ok && at == inc {
		state, err := log.State(ctx, key)
		if err != nil {
			return err
		}
		if state.FirstSeq <= seq+1 {
			return nil
		}
	}
	return Errorf(CodeUnrecoverable, "the position's epoch is not the channel's current one")
}

// selectHistory picks from entries, oldest first, what req asks for.
func selectHistory(ns *Namespace, entries []Entry, req HistoryRequest) []*Publication {
	var oldest time.Time
	if ns.HistoryTTL > 0 {
		oldest = time.Now().Add(-ns.HistoryTTL)
	}
	if req.Reverse {
		slices.Reverse(entries)
	}
	var pubs []*Publication
	for _, e := range entries {
		if req.Limit > 0 && len(pubs) == req.Limit {
			break
		}
		switch {
		case e.Cleared, e.Time.Before(oldest):
		case req.Since != nil && req.Reverse && e.Number >= req.Since.Offset:
		default:
			pubs = append(pubs, newPublication(e))
		}
	}
	return pubs
}

// HistoryRemove removes a channel's history; offsets go on.
func (n *Node) HistoryRemove(ctx context.Context, channel string) error {
	ch, ns, log, err := n.resolveLog(channel)
	if err != nil {
		return err
	}
	if ns.Map != nil {
		return Errorf(CodeNotAvailable, "the history of a map is removed with its state")
	}
	_, err = log.Clear(ctx, ch.Key())
	return err
}

package edge

import (
	"context"
	"encoding/json"
	"time"

	"github.com/headrace/headrace/router"
)

// This file has the methods of the server API that Centrifugo has for maps, with
// its names and fields. Those of Headrace's own, with versions, are in
// api_state.go.

// mapMethods are the methods that see to their idempotency keys themselves, and
// those without any.
func (s *Server) mapMethods() map[string]apiMethod {
	return map[string]apiMethod{
		"map_publish":     strictMethod(s.apiMapPublish),
		"map_remove":      strictMethod(s.apiMapRemove),
		"map_read_state":  strictMethod(s.apiMapReadState),
		"map_read_stream": strictMethod(s.apiMapReadStream),
		"map_stats":       strictMethod(s.apiMapStats),
	}
}

type apiMapPublishRequest struct {
	Channel string `json:"channel"`
	Key     string `json:"key"`
	apiPublication
	// KeyMode is "", "replace", "if_new" or "if_exists".
	KeyMode string `json:"key_mode"`
	// Delta saves bytes where it is available, and has no other effect.
	Delta bool `json:"delta"`
	// Version and VersionEpoch are Centrifugo's and not supported: versions are the
	// server's, see state_set.
	Version      uint64 `json:"version"`
	VersionEpoch string `json:"version_epoch"`
}

// apiMapChanged is what became of a change. Version and Life are those of the
// change, or what is current when it was suppressed.
type apiMapChanged struct {
	apiPosition
	Suppressed     bool   `json:"suppressed,omitempty"`
	SuppressReason string `json:"suppress_reason,omitempty"`
	Message        string `json:"message,omitempty"`
	Version        uint64 `json:"version,omitempty"`
	Life           string `json:"life,omitempty"`
}

// suppressReasons are Centrifugo's words for why a change was not applied.
var suppressReasons = map[router.Reason]string{
	router.ReasonConflict: "position_mismatch",
	router.ReasonExists:   "key_exists",
	router.ReasonMissing:  "key_not_found",
}

func toAPIMapChanged(c *router.Changed) apiMapChanged {
	out := apiMapChanged{
		apiPosition: apiPosition{c.Position.Offset, c.Position.Epoch}, Message: c.Message, Version: c.Entry.Version, Life: c.Entry.Life,
	}
	switch {
	case c.Duplicate:
		out.Suppressed, out.SuppressReason = true, "idempotency"
	case !c.Applied:
		out.Suppressed = true
		if out.SuppressReason = suppressReasons[c.Reason]; out.SuppressReason == "" {
			out.SuppressReason = string(c.Reason)
		}
	}
	return out
}

func (s *Server) apiMapPublish(ctx context.Context, req *apiMapPublishRequest) (apiMapChanged, error) {
	if req.Version != 0 || req.VersionEpoch != "" {
		return apiMapChanged{}, router.Errorf(router.CodeNotAvailable, "version and version_epoch are not available; state_set compares versions")
	}
	data, err := req.payload()
	if err != nil {
		return apiMapChanged{}, err
	}
	if err := checkIdempotencyKey(req.IdempotencyKey); err != nil {
		return apiMapChanged{}, err
	}
	c := router.Change{Key: req.Key, Data: data, Tags: req.Tags, IdempotencyKey: req.IdempotencyKey}
	var res router.Changed
	switch req.KeyMode {
	case "", "replace":
		res, err = s.node.ChangeState(ctx, req.Channel, c)
	case "if_new":
		c.Strategy, c.Expect = router.StrategyReject, &router.Expect{}
		res, err = s.node.ChangeState(ctx, req.Channel, c)
	case "if_exists":
		res, err = s.changeExisting(ctx, req.Channel, c)
	default:
		err = router.Errorf(router.CodeInvalid, "key_mode %q is neither replace, if_new nor if_exists", req.KeyMode)
	}
	return toAPIMapChanged(&res), err
}

// maxIfExists bounds how often changeExisting meets another change.
const maxIfExists = 16

// changeExisting makes c if its key has a value at that moment.
func (s *Server) changeExisting(ctx context.Context, channel string, c router.Change) (router.Changed, error) {
	c.Strategy = router.StrategyReject
	for range maxIfExists {
		cur, err := s.node.GetState(ctx, channel, c.Key, router.GetOptions{Fresh: true})
		if err != nil {
			return router.Changed{}, err
		}
		if !cur.Present(time.Now()) {
			return router.Changed{Reason: router.ReasonMissing, Entry: cur}, nil
		}
		c.Expect = &router.Expect{Version: cur.Version, Life: cur.Life}
		res, err := s.node.ChangeState(ctx, channel, c)
		if err != nil || res.Reason != router.ReasonConflict {
			return res, err
		}
	}
	return router.Changed{}, router.Errorf(router.CodeUnavailable, "the key changes too fast; try again")
}

type apiMapRemoveRequest struct {
	Channel        string `json:"channel"`
	Key            string `json:"key"`
	IdempotencyKey string `json:"idempotency_key"`
}

func (s *Server) apiMapRemove(ctx context.Context, req *apiMapRemoveRequest) (apiMapChanged, error) {
	if err := checkIdempotencyKey(req.IdempotencyKey); err != nil {
		return apiMapChanged{}, err
	}
	res, err := s.node.ChangeState(ctx, req.Channel, router.Change{Key: req.Key, Remove: true, IdempotencyKey: req.IdempotencyKey})
	return toAPIMapChanged(&res), err
}

type apiMapReadStateRequest struct {
	Channel string `json:"channel"`
	Cursor  string `json:"cursor"`
	Limit   int    `json:"limit"` // 0 and below is as many as a page may have
	Key     string `json:"key"`   // this one only
	// Asc is Centrifugo's order of pages and not supported.
	Asc bool `json:"asc"`
	// RevisionEpoch, when given, must be the channel's epoch still: later pages of a
	// state that was cleared meanwhile are refused with it.
	RevisionOffset uint64 `json:"revision_offset"`
	RevisionEpoch  string `json:"revision_epoch"`
}

// apiMapEntry is an entry of a map as Centrifugo writes it, with its version.
type apiMapEntry struct {
	Key     string            `json:"key"`
	Data    json.RawMessage   `json:"data,omitempty"`
	B64Data []byte            `json:"b64data,omitempty"` // when it is not JSON
	Tags    map[string]string `json:"tags,omitempty"`
	Offset  uint64            `json:"offset"`
	Removed bool              `json:"removed,omitempty"`
	Time    int64             `json:"time,omitempty"` // Unix milliseconds
	Version uint64            `json:"version,omitempty"`
	Life    string            `json:"life,omitempty"`
	Info    *apiInfo          `json:"info,omitempty"`
}

type apiMapEntries struct {
	Entries []apiMapEntry `json:"entries"`
	apiPosition
	Cursor string `json:"cursor,omitempty"`
}

func toAPIMapEntry(e *router.StateEntry) apiMapEntry {
	out := apiMapEntry{
		Key: e.Key, Tags: e.Tags, Offset: e.Offset, Removed: e.Removed, Time: unixMilli(e.Time), Version: e.Version, Life: e.Life, Info: toAPIInfo(e.Info),
	}
	out.Data, out.B64Data = jsonOrBytes(e.Data)
	return out
}

// unixMilli is t for JSON; the zero time is 0.
func unixMilli(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// jsonOrBytes is data for a pair of fields data and b64data.
func jsonOrBytes(data []byte) (json.RawMessage, []byte) {
	if validJSON(data) {
		return data, nil
	}
	return nil, data
}

func (s *Server) apiMapReadState(ctx context.Context, req *apiMapReadStateRequest) (apiMapEntries, error) {
	switch {
	case req.Asc:
		return apiMapEntries{}, router.Errorf(router.CodeNotAvailable, "asc is not available; pages have an order of their own")
	case req.Key != "" && req.Cursor != "":
		return apiMapEntries{}, router.Errorf(router.CodeInvalid, "key and cursor exclude each other")
	case req.Key != "":
		return s.mapReadKey(ctx, req)
	}
	page, err := s.node.StatePage(ctx, req.Channel, req.Cursor, max(req.Limit, 0))
	if err != nil {
		return apiMapEntries{}, err
	}
	if err := req.sameRevision(page.Position); err != nil {
		return apiMapEntries{}, err
	}
	out := apiMapEntries{Entries: make([]apiMapEntry, len(page.Entries)), apiPosition: apiPosition{page.Position.Offset, page.Position.Epoch}, Cursor: page.Next}
	for i := range page.Entries {
		out.Entries[i] = toAPIMapEntry(&page.Entries[i])
	}
	return out, nil
}

func (r *apiMapReadStateRequest) sameRevision(now router.Position) error {
	if r.RevisionEpoch != "" && r.RevisionEpoch != now.Epoch {
		return router.Errorf(router.CodeUnrecoverable, "the state is another one since; begin again without a cursor")
	}
	return nil
}

// mapReadKey answers for one key; the position is one that the answer reflects.
func (s *Server) mapReadKey(ctx context.Context, req *apiMapReadStateRequest) (apiMapEntries, error) {
	stats, err := s.node.History(ctx, req.Channel, router.HistoryRequest{})
	if err != nil {
		return apiMapEntries{}, err
	}
	if err := req.sameRevision(stats.Position); err != nil {
		return apiMapEntries{}, err
	}
	e, err := s.node.GetState(ctx, req.Channel, req.Key, router.GetOptions{Fresh: true})
	if err != nil {
		return apiMapEntries{}, err
	}
	out := apiMapEntries{Entries: []apiMapEntry{}, apiPosition: apiPosition{stats.Position.Offset, stats.Position.Epoch}}
	if e.Present(time.Now()) {
		out.Entries = append(out.Entries, toAPIMapEntry(&e))
	}
	return out, nil
}

type apiMapReadStreamRequest struct {
	Channel string       `json:"channel"`
	Limit   int          `json:"limit"` // 0 is the position only, below it is all
	Since   *apiPosition `json:"since"`
	Reverse bool         `json:"reverse"`
	// The same as Since.
	SinceOffset uint64 `json:"since_offset"`
	SinceEpoch  string `json:"since_epoch"`
}

func (s *Server) apiMapReadStream(ctx context.Context, req *apiMapReadStreamRequest) (apiMapEntries, error) {
	if err := s.checkIsMap(req.Channel); err != nil {
		return apiMapEntries{}, err
	}
	r := router.HistoryRequest{Limit: req.Limit, Reverse: req.Reverse}
	switch {
	case req.Since != nil:
		r.Since = &router.Position{Offset: req.Since.Offset, Epoch: req.Since.Epoch}
	case req.SinceOffset > 0 || req.SinceEpoch != "":
		r.Since = &router.Position{Offset: req.SinceOffset, Epoch: req.SinceEpoch}
	}
	res, err := s.node.History(ctx, req.Channel, r)
	if err != nil {
		return apiMapEntries{}, err
	}
	out := apiMapEntries{Entries: make([]apiMapEntry, len(res.Publications)), apiPosition: apiPosition{res.Position.Offset, res.Position.Epoch}}
	for i, p := range res.Publications {
		e := apiMapEntry{Key: p.Key, Tags: p.Tags, Offset: p.Offset, Removed: p.Removed, Time: p.Time, Version: p.Version, Info: toAPIInfo(p.Info)}
		if !p.Removed {
			e.Data, e.B64Data = jsonOrBytes(p.Data)
		}
		out.Entries[i] = e
	}
	return out, nil
}

// checkIsMap returns an error unless channel is a map.
func (s *Server) checkIsMap(channel string) error {
	ns, err := s.node.Namespace(channel)
	if err == nil && ns.Map == nil {
		err = router.Errorf(router.CodeNotAvailable, "the channels of namespace %q are no maps", ns.Name)
	}
	return err
}

type apiMapStatsResult struct {
	Keys int `json:"num_keys"`
	apiPosition
}

func (s *Server) apiMapStats(ctx context.Context, req *apiChannelRequest) (apiMapStatsResult, error) {
	st, err := s.node.StateStats(ctx, req.Channel)
	return apiMapStatsResult{st.Keys, apiPosition{st.Position.Offset, st.Position.Epoch}}, err
}

type apiMapClearRequest struct {
	Channel        string `json:"channel"`
	IdempotencyKey string `json:"idempotency_key"` // onlyOnce reads it
}

func (s *Server) apiMapClear(ctx context.Context, req *apiMapClearRequest) (struct{}, error) {
	return struct{}{}, s.node.ClearState(ctx, req.Channel)
}

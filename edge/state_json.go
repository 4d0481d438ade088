package edge

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/headrace/headrace/router"
)

// This file has the JSON of versioned state, one set of types for the server API
// and for clients. Times are Unix milliseconds, as browsers have them; durations
// are text as in the configuration ("1m30s").

// stateVersion names a version of a key. Version is a pointer because 0 says
// something: that there is no value.
type stateVersion struct {
	Version *uint64 `json:"version"`
	Life    string  `json:"life"`
}

func (v *stateVersion) expect(field string) (*router.Expect, error) {
	switch {
	case v == nil:
		return nil, nil
	case v.Version == nil:
		return nil, router.Errorf(router.CodeInvalid, "%s needs version; 0 is a key without a value", field)
	}
	return &router.Expect{Version: *v.Version, Life: v.Life}, nil
}

// stateKey names a key.
type stateKey struct {
	Channel string `json:"channel"`
	Key     string `json:"key"`
}

type stateGetRequest struct {
	stateKey
	Version uint64        `json:"version"`
	Seen    *stateVersion `json:"seen"`
	Fresh   bool          `json:"fresh"`
}

func (r *stateGetRequest) options() (router.GetOptions, error) {
	seen, err := r.Seen.expect("seen")
	return router.GetOptions{Version: r.Version, Seen: seen, Fresh: r.Fresh}, err
}

type stateHistoryRequest struct {
	stateKey
	Limit int `json:"limit"`
}

// stateChange is what every change has.
type stateChange struct {
	Key            string            `json:"key"`
	Expect         *stateVersion     `json:"expect"`
	Strategy       router.Strategy   `json:"strategy"`
	Time           int64             `json:"time"`
	IdempotencyKey string            `json:"idempotency_key"`
	Tags           map[string]string `json:"tags"`
}

// stateValue is what a change has that sets a value.
type stateValue struct {
	Data    json.RawMessage `json:"data"`
	B64Data []byte          `json:"b64data"`
	TTL     string          `json:"ttl"` // "never" is for ever
}

type stateSetRequest struct {
	Channel string `json:"channel"`
	stateChange
	stateValue
}

type stateDeleteRequest struct {
	Channel string `json:"channel"`
	stateChange
}

// stateSyncChange sets a value, or removes the key.
type stateSyncChange struct {
	stateChange
	stateValue
	Remove bool `json:"remove"`
}

type stateSyncRequest struct {
	Channel string            `json:"channel"`
	Changes []stateSyncChange `json:"changes"`
}

// change returns what c says; router.Node validates the rest.
func (c *stateChange) change() (router.Change, error) {
	out := router.Change{Key: c.Key, Strategy: c.Strategy, Time: c.Time, IdempotencyKey: c.IdempotencyKey, Tags: c.Tags}
	if c.Time < 0 {
		return out, router.Errorf(router.CodeInvalid, "time is negative")
	}
	if err := checkIdempotencyKey(c.IdempotencyKey); err != nil {
		return out, err
	}
	var err error
	out.Expect, err = c.Expect.expect("expect")
	return out, err
}

// setTo makes c one that sets the value.
func (v *stateValue) setTo(c *router.Change) error {
	switch {
	case v.Data != nil && v.B64Data != nil:
		return router.Errorf(router.CodeInvalid, "data and b64data exclude each other")
	case v.B64Data != nil:
		c.Data = v.B64Data
	case v.Data != nil:
		c.Data = v.Data
	default:
		return router.Errorf(router.CodeInvalid, "data is missing")
	}
	if v.TTL == "" {
		return nil
	}
	if v.TTL == "never" {
		c.TTL = -1
		return nil
	}
	d, err := duration("ttl", v.TTL)
	if err == nil && d == 0 {
		err = errors.New("0")
	}
	if err != nil {
		return router.Errorf(router.CodeInvalid, `ttl is neither a duration such as 30s or 24h nor "never"`)
	}
	c.TTL = d
	return nil
}

func (r *stateSetRequest) change() (router.Change, error) {
	c, err := r.stateChange.change()
	if err == nil {
		err = r.setTo(&c)
	}
	return c, err
}

func (r *stateDeleteRequest) change() (router.Change, error) {
	c, err := r.stateChange.change()
	c.Remove = true
	return c, err
}

func (r *stateSyncChange) change() (router.Change, error) {
	c, err := r.stateChange.change()
	switch {
	case err != nil || !r.Remove:
	case r.Data != nil || r.B64Data != nil || r.TTL != "":
		err = router.Errorf(router.CodeInvalid, "remove has neither data nor ttl")
	default:
		c.Remove = true
		return c, nil
	}
	if err == nil {
		err = r.setTo(&c)
	}
	return c, err
}

// stateEntry is a version of a key.
type stateEntry struct {
	Key     string          `json:"key"`
	Version uint64          `json:"version"`
	Life    string          `json:"life"`
	Data    json.RawMessage `json:"data,omitempty"`
	B64Data []byte          `json:"b64data,omitempty"` // when it is not JSON
	// Removed is set for a version without a value: a removal, and what is current
	// of a key that expired.
	Removed    bool              `json:"removed,omitempty"`
	Time       int64             `json:"time,omitempty"`
	ClientTime int64             `json:"client_time,omitempty"`
	Expires    int64             `json:"expires,omitempty"`
	Info       *apiInfo          `json:"info,omitempty"`
	Tags       map[string]string `json:"tags,omitempty"`
	Offset     uint64            `json:"offset,omitempty"`
}

// toStateEntry returns e as a stored version; nil when there is none.
func toStateEntry(e *router.StateEntry) *stateEntry {
	if e.Version == 0 {
		return nil
	}
	out := &stateEntry{
		Key: e.Key, Version: e.Version, Life: e.Life, Removed: e.Removed, Time: unixMilli(e.Time), ClientTime: e.ClientTime,
		Expires: unixMilli(e.Expires), Info: toAPIInfo(e.Info), Tags: e.Tags, Offset: e.Offset,
	}
	if !e.Removed {
		out.Data, out.B64Data = jsonOrBytes(e.Data)
	}
	return out
}

// toCurrentEntry returns e as what is current: without its value when that has
// expired.
func toCurrentEntry(e *router.StateEntry) *stateEntry {
	out := toStateEntry(e)
	if out != nil && e.ExpiredAt(time.Now()) {
		out.Removed, out.Data, out.B64Data = true, nil, nil
	}
	return out
}

// stateGot is the answer to a get; Entry is missing when nothing is known of the
// key.
type stateGot struct {
	Entry *stateEntry `json:"entry,omitempty"`
}

// stateVersions are those of a key's life, newest first.
type stateVersions struct {
	Entries []*stateEntry `json:"entries"`
}

func toStateVersions(entries []router.StateEntry) stateVersions {
	out := stateVersions{Entries: make([]*stateEntry, 0, len(entries))}
	for i := range entries {
		if e := toStateEntry(&entries[i]); e != nil {
			out.Entries = append(out.Entries, e)
		}
	}
	return out
}

// stateChanged is what became of a change. Entry is what was stored, or what is
// current when nothing was.
type stateChanged struct {
	Applied   bool          `json:"applied"`
	Duplicate bool          `json:"duplicate,omitempty"`
	Reason    router.Reason `json:"reason,omitempty"`
	Message   string        `json:"message,omitempty"`
	Entry     *stateEntry   `json:"entry,omitempty"`
	apiPosition
}

func toStateChanged(c *router.Changed) *stateChanged {
	return &stateChanged{
		Applied: c.Applied, Duplicate: c.Duplicate, Reason: c.Reason, Message: c.Message, Entry: toCurrentEntry(&c.Entry),
		apiPosition: apiPosition{c.Position.Offset, c.Position.Epoch},
	}
}

// stateSynced has a result per change, in their order.
type stateSynced struct {
	Results []stateSyncedKey `json:"results"`
}

// stateSyncedKey is what became of one change: its fields, or Error.
type stateSyncedKey struct {
	Key string `json:"key"`
	*stateChanged
	Error *apiErrorBody `json:"error,omitempty"`
}

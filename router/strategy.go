package router

import (
	"bytes"
	"encoding/json"
	"time"

	"github.com/headrace/headrace/internal/planted"
)

// Strategy says what becomes of a change that meets another one.
type Strategy string

// The strategies.
const (
	// StrategyReject applies a change when what it expects is current, or when it
	// expects nothing.
	StrategyReject Strategy = "reject"
	// StrategyLastWriteWins applies a change unless what is stored was made later by
	// the clients' clocks. When one of the times is not known, or they are the same,
	// the later arrival is the later change. What the change expects does not count.
	StrategyLastWriteWins Strategy = "lastWriteWins"
	// StrategyMerge applies a change as a JSON merge patch (RFC 7396) to what is
	// current, whatever its version.
	StrategyMerge Strategy = "merge"
	// StrategyCustom lets a back end decide.
	StrategyCustom Strategy = "custom"
)

// MinKeyTTL is the shortest time to live of a key.
const MinKeyTTL = time.Second

func (s Strategy) check() error {
	switch s {
	case StrategyReject, StrategyLastWriteWins, StrategyMerge, StrategyCustom:
		return nil
	}
	return Errorf(CodeInvalid, "unknown strategy %q; it is one of reject, lastWriteWins, merge, custom", s)
}

// decide returns what judges c, a change that was checked.
func (ns *Namespace) decide(c *Change) Decide {
	return func(cur StateEntry) (Decision, error) {
		now := time.Now()
		present := cur.Present(now)
		switch {
		case c.Strategy == StrategyLastWriteWins:
			// A removal counts with its time too, or a change made before it would
			// bring the key back.
			if !cur.ExpiredAt(now) && c.Time != 0 && cur.ClientTime != 0 && c.Time < cur.ClientTime {
				return Decision{Refuse: ReasonOlder}, nil
			}
		case c.Strategy != StrategyMerge && !c.Expect.met(&cur, present):
			if c.Expect.Version == 0 {
				return Decision{Refuse: ReasonExists}, nil
			}
			return Decision{Refuse: ReasonConflict}, nil
		}
		if c.Remove {
			// With a time it must be remembered even if there is nothing: a change made
			// before it may still arrive.
			if !present && (c.Strategy != StrategyLastWriteWins || c.Time == 0) {
				return Decision{Refuse: ReasonMissing}, nil
			}
			return Decision{Remove: true}, nil
		}
		if c.Strategy != StrategyMerge {
			return Decision{Data: c.Data}, nil
		}
		var target []byte
		if present {
			target = cur.Data
		}
		data, err := mergePatch(target, c.Data)
		if err == nil && len(data) > ns.Map.MaxValueBytes {
			err = Errorf(CodeLimit, "the merged value has %d bytes, more than %d", len(data), ns.Map.MaxValueBytes)
		}
		return Decision{Data: data}, err
	}
}

// met reports whether cur, a value if present, is what x expects (rule S2).
func (x *Expect) met(cur *StateEntry, present bool) bool {
	switch {
	case x == nil:
		return true
	case x.Version == 0:
		return !present
	default:
		return present && cur.Version == x.Version && (x.Life == "" || x.Life == cur.Life || planted.Bug(planted.ExpectAnyLife))
	}
}

// mergePatch applies an RFC 7396 patch to target, both valid JSON; an empty target
// is none. Members come out in order of their names, numbers as they were written.
func mergePatch(target, patch []byte) ([]byte, error) {
	var t any
	if len(target) > 0 {
		var err error
		if t, err = decodeJSON(target); err != nil {
			return nil, err
		}
	}
	p, err := decodeJSON(patch)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(merge(t, p)); err != nil {
		return nil, Errorf(CodeInvalid, "merging: %v", err)
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), nil
}

func decodeJSON(data []byte) (v any, err error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return nil, Errorf(CodeInvalid, "merging: data is not valid JSON")
	}
	return v, nil
}

// merge is MergePatch of RFC 7396, section 2.
func merge(target, patch any) any {
	p, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	t, ok := target.(map[string]any)
	if !ok {
		t = make(map[string]any, len(p))
	}
	for name, value := range p {
		if value == nil {
			delete(t, name)
		} else {
			t[name] = merge(t[name], value)
		}
	}
	return t
}

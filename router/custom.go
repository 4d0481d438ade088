package router

import (
	"context"
	"encoding/json"
	"time"
)

// customQuestion is what a back end is asked: a change, and what it meets. Values are
// JSON, or base64 under the other name where they are not.
type customQuestion struct {
	Channel  string         `json:"channel"`
	Key      string         `json:"key"`
	Current  *customVersion `json:"current"` // null when there is no value
	Proposed customVersion  `json:"proposed"`
	User     string         `json:"user,omitempty"`
}

type customVersion struct {
	Data    json.RawMessage   `json:"data,omitempty"`
	B64Data []byte            `json:"b64data,omitempty"`
	Remove  bool              `json:"remove,omitempty"`
	Version uint64            `json:"version,omitempty"`
	Expect  *uint64           `json:"expected_version,omitempty"`
	Time    int64             `json:"time,omitempty"` // the client's, Unix milliseconds
	Tags    map[string]string `json:"tags,omitempty"`
}

// customAnswer is what it says: exactly one of a value, a refusal, a removal.
type customAnswer struct {
	Data    json.RawMessage `json:"data"`
	B64Data []byte          `json:"b64data"`
	Reject  string          `json:"reject"`
	Remove  bool            `json:"remove"`
}

// maxCustomAttempts bounds how often a back end is asked again because the key had
// changed meanwhile.
const maxCustomAttempts = 8

// changeCustom asks the back end with what is current, and stores its answer if that
// is still current then.
func (n *Node) changeCustom(ctx context.Context, ch Channel, ns *Namespace, keys KeyStore, c Change) (Changed, error) {
	for range maxCustomAttempts {
		cur, _, err := keys.Get(ctx, ch.Key(), c.Key)
		if err != nil {
			return Changed{}, err
		}
		answer, err := n.askBackEnd(ctx, ch, ns, &cur, &c)
		if err != nil {
			return Changed{}, err
		}
		if answer.Reject != "" {
			return Changed{Reason: ReasonRejected, Message: answer.Reject, Entry: cur}, nil
		}
		next := c
		next.Strategy, next.Remove, next.Data = StrategyReject, answer.Remove, nil
		next.Expect = &Expect{}
		if cur.Present(time.Now()) {
			next.Expect = &Expect{Version: cur.Version, Life: cur.Life}
		}
		if !answer.Remove {
			data := []byte(answer.Data)
			if answer.B64Data != nil {
				data = answer.B64Data
			}
			if next.Data, err = ns.checkValue(data); err != nil {
				return Changed{}, &Error{Code: CodeInternal, Message: "the back end decided for a value that cannot be stored", Err: err}
			}
		}
		res, err := n.changeNow(ctx, ch, ns, keys, next)
		if err != nil || res.Applied || res.Reason != ReasonConflict && res.Reason != ReasonExists {
			return res, err
		}
	}
	return Changed{}, Unavailable("state", Errorf(CodeConflict, "the key changes faster than the back end answers"))
}

func (n *Node) askBackEnd(ctx context.Context, ch Channel, ns *Namespace, cur *StateEntry, c *Change) (a customAnswer, err error) {
	q := customQuestion{Channel: ch.String(), Key: c.Key, User: c.User}
	q.Proposed = customVersion{Remove: c.Remove, Time: c.Time, Tags: c.Tags}
	q.Proposed.Data, q.Proposed.B64Data = splitJSON(c.Data)
	if c.Expect != nil {
		q.Proposed.Expect = &c.Expect.Version
	}
	if cur.Present(time.Now()) {
		q.Current = &customVersion{Version: cur.Version, Time: cur.ClientTime, Tags: cur.Tags}
		q.Current.Data, q.Current.B64Data = splitJSON(cur.Data)
	}
	data, err := json.Marshal(q)
	if err != nil {
		return a, Errorf(CodeInternal, "encode question: %v", err)
	}
	data, err = n.RPC(ctx, RPCRequest{Method: ns.Map.ConflictMethod, Data: data, Info: c.Info})
	if CodeOf(err) == CodeNoMethod {
		return a, &Error{Code: CodeUnavailable, Message: "nobody answers " + ns.Map.ConflictMethod + ", which decides about changes", Err: err}
	}
	if err != nil {
		return a, err
	}
	if a, err = decodeCustomAnswer(data); err != nil {
		return a, &Error{Code: CodeInternal, Message: "internal server error", Err: err}
	}
	return a, nil
}

func decodeCustomAnswer(data []byte) (a customAnswer, err error) {
	if err := json.Unmarshal(data, &a); err != nil {
		return a, Errorf(CodeInternal, "the back end's decision is not JSON: %v", err)
	}
	said := 0
	for _, yes := range []bool{a.Data != nil, a.B64Data != nil, a.Reject != "", a.Remove} {
		if yes {
			said++
		}
	}
	if said != 1 {
		return customAnswer{}, Errorf(CodeInternal, "the back end's decision must have one of data, b64data, reject, remove")
	}
	return a, nil
}

package router

import "context"

// ControlOp is what Control does to sessions.
type ControlOp string

// The operations.
const (
	ControlSubscribe   ControlOp = "subscribe"
	ControlUnsubscribe ControlOp = "unsubscribe"
	ControlDisconnect  ControlOp = "disconnect"
	ControlRefresh     ControlOp = "refresh"
)

// Control is something the server does to sessions, wherever they are. Op says
// which of the fields after Except matter.
type Control struct {
	Op ControlOp `json:"op"`
	// User and Client say which sessions: all of the user's, or the one of that
	// client id; with both, the client's if it is the user's.
	User   string   `json:"user,omitempty"`
	Client string   `json:"client,omitempty"`
	Except []string `json:"except,omitempty"` // client ids that are left alone

	Channel string    `json:"channel,omitempty"`
	Info    []byte    `json:"info,omitempty"`  // channel info of a subscription
	Data    []byte    `json:"data,omitempty"`  // what the client is told with it
	Since   *Position `json:"since,omitempty"` // recover what followed
	// ExpireAt is when the subscription or the session ends, Unix seconds; 0 is
	// never.
	ExpireAt int64 `json:"expire_at,omitempty"`
	// Expired ends a session as if its token had run out.
	Expired bool `json:"expired,omitempty"`

	// Code and Reason are what an ended session or subscription is told.
	Code   uint32 `json:"code,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// Controlled counts the sessions that a Control met.
type Controlled struct {
	Sessions int // it took effect
	Refused  int // it could not: a limit is reached, the channel did not answer, …
}

// Control does c to the matching sessions of the cluster and waits until it took
// effect. It fails with CodeUnavailable when a live node did not answer; it may
// have taken effect on some then, and doing it again is harmless.
func (n *Node) Control(ctx context.Context, c Control) (Controlled, error) {
	if c.User == "" && c.Client == "" {
		return Controlled{}, Errorf(CodeInvalid, "user or client is needed")
	}
	if c.Op == ControlSubscribe || c.Op == ControlUnsubscribe {
		if _, _, err := n.resolve(c.Channel); err != nil {
			return Controlled{}, err
		}
	}
	var total Controlled
	err := n.ask(ctx, question{Kind: askControl, Control: &c}, func(p answerPart) {
		total.Sessions += p.Count
		total.Refused += p.Refused
	})
	if err != nil {
		return Controlled{}, err
	}
	return total, nil
}

// maxControls bounds the controls a node works on at a time; others wait. They
// have slots of their own: a subscribe waits for a join, and joins need those of
// async.
const maxControls = 64

// controlAnswer does c to the sessions of this node.
func (n *Node) controlAnswer(ctx context.Context, c *Control) []answerPart {
	if c == nil || n.cfg.Sessions == nil {
		return []answerPart{{}}
	}
	done := n.cfg.Sessions.Control(ctx, *c)
	return []answerPart{{Count: done.Sessions, Refused: done.Refused}}
}

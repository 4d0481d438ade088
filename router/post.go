package router

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// postTimeout bounds the wait for a node that is asked to take commands. It does
// not wait for anything itself, so silence means that it is cut off.
const postTimeout = 3 * time.Second

// maxSessionName bounds the bytes of a session's name. Names are 63 long.
const maxSessionName = 128

// postSubject is where node takes commands for its sessions.
func (n *Node) postSubject(node string) string { return n.cfg.Prefix + ".node." + node + ".post" }

// Post hands the commands in data to the session of that name on node, and returns
// when they were taken, not when they took effect. It fails with CodeNotOnline when
// there is no such node or session, and with CodeUnavailable when the node did not
// answer, and may have taken them.
func (n *Node) Post(ctx context.Context, node, session string, data []byte) error {
	switch {
	case node == n.cfg.NodeID && n.cfg.Sessions != nil:
		return n.cfg.Sessions.Post(session, data)
	case !isNodeToken(node) || len(session) > maxSessionName || strings.ContainsAny(session, "\n"):
		return Errorf(CodeNotOnline, "no such node")
	case int64(len(session)+1+len(data)) > n.cfg.Core.MaxPayload():
		return Errorf(CodeInvalid, "more than NATS carries in a message")
	}
	subject, came, done := n.replies.expect(1)
	defer done()
	body := make([]byte, 0, len(session)+1+len(data))
	body = append(append(append(body, session...), '\n'), data...)
	if err := n.cfg.Core.PublishRequest(n.postSubject(node), subject, body); err != nil {
		return Unavailable("the cluster", err)
	}
	ctx, cancel := context.WithTimeout(ctx, postTimeout)
	defer cancel()
	select {
	case m := <-came:
		return postAnswer(m)
	case <-ctx.Done():
		return Unavailable("the node of the session", ctx.Err())
	}
}

// isNodeToken reports whether node can be a token of a subject.
func isNodeToken(node string) bool {
	if node == "" || len(node) > 64 {
		return false
	}
	for _, c := range []byte(node) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
			return false
		}
	}
	return true
}

// postRefused is the answer to commands that were not taken; the answer to others
// is empty.
type postRefused struct {
	Code    Code   `json:"code"`
	Message string `json:"message,omitempty"`
}

// postAnswer is what m says of commands: that they were taken, or why not. A status
// comes from NATS itself, when nobody listens (ADR-4 and ADR-15 of NATS).
func postAnswer(m *nats.Msg) error {
	if m.Header.Get("Status") != "" {
		return Errorf(CodeNotOnline, "no such node")
	}
	if len(m.Data) == 0 {
		return nil
	}
	var r postRefused
	if err := json.Unmarshal(m.Data, &r); err != nil {
		return Unavailable("the node of the session", err)
	}
	return Errorf(r.Code, "%s", r.Message)
}

// receivePost takes commands that arrived at another node. It runs in the order in
// which they come from each.
func (n *Node) receivePost(m *nats.Msg) {
	var err error
	switch session, data, ok := bytes.Cut(m.Data, []byte{'\n'}); {
	case !ok || m.Reply == "":
		n.cfg.Metrics.dropped[dropMalformed].Inc()
		return
	case n.cfg.Sessions == nil:
		err = Errorf(CodeNotOnline, "no such session on this node")
	default:
		err = n.cfg.Sessions.Post(string(session), data)
	}
	var answer []byte
	if err != nil {
		code := CodeOf(err)
		answer, _ = json.Marshal(postRefused{code, messageOf(err)}) // two strings always encode
	}
	m.Respond(answer) //nolint:errcheck // the asker notices
}

// messageOf is what of err may be shown to a client.
func messageOf(err error) string {
	if e, ok := err.(*Error); ok && e.Code != CodeInternal {
		return e.Message
	}
	return ""
}

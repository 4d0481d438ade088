package router

import (
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
)

// FuzzPostAnswer reads any answer to posted commands: they were taken, or the error
// has a code.
func FuzzPostAnswer(f *testing.F) {
	f.Add([]byte(nil))
	f.Add([]byte(`{"code":"not_online","message":"no such session on this node"}`))
	f.Add([]byte(`{`))
	f.Fuzz(func(t *testing.T, data []byte) {
		err := postAnswer(&nats.Msg{Data: data})
		if (err == nil) != (len(data) == 0) {
			t.Errorf("%q: %v", data, err)
		}
	})
}

// FuzzReceivePost takes any message as posted commands. Without a line feed it is
// none.
func FuzzReceivePost(f *testing.F) {
	f.Add([]byte("client.secret\n{}"))
	f.Add([]byte("{}"))
	n, err := New(Config{NodeID: "n1", Core: new(nats.Conn), Sessions: noSessions{}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(_ *testing.T, data []byte) { n.receivePost(&nats.Msg{Data: data, Reply: "r"}) })
}

// What cannot be the name of a session, or of a node, costs no message.
func TestPostsThatNobodyCanTake(t *testing.T) {
	n, err := New(Config{NodeID: "n1", Core: new(nats.Conn), Sessions: noSessions{}})
	if err != nil {
		t.Fatal(err)
	}
	for what, at := range map[string][2]string{
		"a name that is too long": {"n2", strings.Repeat("x", maxSessionName+1)}, "a name with a line feed": {"n2", "a\nb"},
		"a wildcard": {"*", "a"}, "no node": {"", "a"},
	} {
		if err := n.Post(t.Context(), at[0], at[1], nil); CodeOf(err) != CodeNotOnline {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestNodeTokens(t *testing.T) {
	for node, want := range map[string]bool{"ABC234": true, "edge-1": true, "": false, "*": false, "a.b": false, ">": false, "a b": false} {
		if isNodeToken(node) != want {
			t.Errorf("%q", node)
		}
	}
}

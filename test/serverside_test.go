package test

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/headrace/headrace/edge/token"
)

// connectBody is a connect command with a token for channels and, on a reconnect,
// where the client stands.
func connectBody(t *testing.T, user string, channels []string, subs map[string]any) map[string]any {
	return map[string]any{"token": mint(t, token.Connection{User: user, Channels: channels}), "subs": subs}
}

// A client whose token names channels has them with the connect reply, and after
// a reconnect to another edge what it missed: in the reply, before any push.
func TestServerSideSubscriptionsRecoverOnAnotherEdge(t *testing.T) {
	h := newHarness(t, 1, 2)
	edges := h.list()
	call := overHTTP(edges[0].url)
	channels := []string{"h:s1", "h:s2", "eph:s3", "h:s1"}
	s := dial(t, edges[0].url, connectBody(t, "7", channels, nil))
	if len(s.reply.Subs) != 3 || !s.reply.Subs["h:s1"].Recoverable || s.reply.Subs["eph:s3"].Recoverable {
		t.Fatalf("connect reply told subs %+v", s.reply.Subs)
	}
	call(t, "publish", `{"channel":"h:s1","data":1}`)
	if got := s.next(t); got != "pub h:s1 1 1" {
		t.Fatalf("got %s", got)
	}
	s.Close()
	for i := 2; i <= 4; i++ {
		call(t, "publish", fmt.Sprintf(`{"channel":"h:s1","data":%d}`, i))
	}
	// Others publish all the while: nothing may come before the reply, twice or not
	// at all.
	var publisher sync.WaitGroup
	publisher.Go(func() {
		for i := 5; i <= 60; i++ {
			call(t, "publish", fmt.Sprintf(`{"channel":"h:s1","data":%d}`, i))
		}
	})
	since := map[string]any{"h:s1": map[string]any{"recover": true, "offset": 1, "epoch": s.reply.Subs["h:s1"].Epoch}}
	again := dial(t, edges[1].url, connectBody(t, "7", channels, since))
	sub := again.reply.Subs["h:s1"]
	if !sub.WasRecovering || !sub.Recovered || sub.Offset != 1 || len(sub.Publications) < 3 {
		t.Fatalf("connect reply told %+v", sub)
	}
	next := uint64(2)
	for _, p := range sub.Publications {
		if p.Offset != next {
			t.Fatalf("recovered offset %d, want %d", p.Offset, next)
		}
		next++
	}
	for ; next <= 60; next++ {
		if got, want := again.next(t), fmt.Sprintf("pub h:s1 %d %d", next, next); got != want {
			t.Fatalf("got %s, want %s", got, want)
		}
	}
	publisher.Wait()
}

// What a server-side subscription can be told besides publications.
func TestServerSideSubscriptionRules(t *testing.T) {
	h := newHarness(t, 1, 1)
	url := h.list()[0].url
	call := overHTTP(url)
	command := func(s *session, method string, body any) string {
		if _, err := s.Send(method, body); err != nil {
			t.Fatal(err)
		}
		return s.next(t)
	}
	t.Run("the client may not subscribe again", func(t *testing.T) {
		s := dial(t, url, connectBody(t, "8", []string{"h:twice"}, nil))
		if got := command(s, "subscribe", map[string]string{"channel": "h:twice"}); !strings.Contains(got, `"code":105`) {
			t.Errorf("got %s", got)
		}
	})
	t.Run("what the client subscribed is left alone by the server", func(t *testing.T) {
		s := dialUser(t, url, "9")
		command(s, "subscribe", map[string]string{"channel": "h:mine"})
		if got := call(t, "subscribe", `{"user":"9","channel":"h:mine"}`); got != `{"result":{"sessions":0}}` {
			t.Errorf("got %s", got)
		}
		call(t, "unsubscribe", `{"user":"9","channel":"h:mine"}`)
		if got := s.next(t); got != "unsubscribe h:mine 2000 server unsubscribe" {
			t.Errorf("got %s", got)
		}
	})
	t.Run("a subscribe from a position brings what followed", func(t *testing.T) {
		var at struct {
			Result struct{ Epoch string } `json:"result"`
		}
		for i := range 3 {
			if err := json.Unmarshal([]byte(call(t, "publish", fmt.Sprintf(`{"channel":"h:since","data":%d}`, i+1))), &at); err != nil {
				t.Fatal(err)
			}
		}
		s := dialUser(t, url, "10")
		call(t, "subscribe", fmt.Sprintf(`{"client":%q,"channel":"h:since","recover_since":{"offset":1,"epoch":%q}}`, s.id, at.Result.Epoch))
		for _, want := range []string{"subscribe h:since offset 1 recoverable true", "pub h:since 2 2", "pub h:since 3 3"} {
			if got := s.next(t); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
	})
	t.Run("the whitelist is spared", func(t *testing.T) {
		spared, other := dialUser(t, url, "11"), dialUser(t, url, "11")
		call(t, "disconnect", fmt.Sprintf(`{"user":"11","whitelist":[%q],"disconnect":{"code":4002,"reason":"elsewhere"}}`, spared.id))
		if code := other.CloseCode(); code != 4002 {
			t.Errorf("closed with %d", code)
		}
		if got := command(spared, "presence", map[string]string{"channel": "h:x"}); strings.HasPrefix(got, "closed") {
			t.Errorf("got %s", got)
		}
	})
}

// Tokens whose channels cannot be had let nobody in.
func TestServerSideSubscriptionsThatFail(t *testing.T) {
	url := newHarness(t, 1, 1).list()[0].url
	t.Run("an unknown channel in the token fails the connect", func(t *testing.T) {
		err := dialError(t, url, connectBody(t, "12", []string{"nowhere:x"}, nil))
		if err == nil || !strings.Contains(err.Error(), "102") {
			t.Errorf("connect: %v", err)
		}
	})
	t.Run("more channels than a client may have", func(t *testing.T) {
		many := strings.Fields(strings.Repeat("h:a ", 3))
		for i := range 127 {
			many = append(many, fmt.Sprint("h:many", i))
		}
		dial(t, url, connectBody(t, "13", many, nil)) // 128, and two twice
		err := dialError(t, url, connectBody(t, "13", append(many, "h:onemore"), nil))
		if err == nil || !strings.Contains(err.Error(), "3505") {
			t.Errorf("connect: %v", err)
		}
	})
}

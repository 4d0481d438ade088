package test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/headrace/headrace/edge"
)

// TestE3NothingIsLostOrDoubledThroughKills: clients without an SDK follow channels
// while the edges die one after the other, and see every publication once.
func TestE3NothingIsLostOrDoubledThroughKills(t *testing.T) {
	const publications = 240
	h := newHarness(t, 1, 3)
	base := newRequestBalancer(t, h)
	deadline := time.Now().Add(2 * time.Minute)
	one, two := "h:kill-a", "h:kill-b"
	both := "?channel=" + url.QueryEscape(one) + "&channel=" + url.QueryEscape(two)
	clients := map[string]func(*counting, func()) error{
		"an EventSource": func(c *counting, ready func()) error {
			return followEvents(base, "?channel="+one, c, deadline, ready, one)
		},
		"an EventSource with two channels": func(c *counting, ready func()) error { return followEvents(base, both, c, deadline, ready, one, two) },
		"long polling": func(c *counting, ready func()) error {
			return followPolls(base, both+"&timeout=5", c, deadline, ready, one, two)
		},
		"plain polling": func(c *counting, ready func()) error {
			return followPolls(base, both+"&timeout=0", c, deadline, ready, one, two)
		},
		"a one-way WebSocket": func(c *counting, ready func()) error { return followOneWay(base, c, deadline, ready, one) },
	}
	var wg, ready sync.WaitGroup
	for name, follow := range clients {
		ready.Add(1)
		wg.Go(func() {
			c := &counting{want: publications}
			if err := follow(c, sync.OnceFunc(ready.Done)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	ready.Wait()
	for n := range publications {
		for _, channel := range []string{one, two} {
			publishSurely(t, h, channel, fmt.Sprint(n))
		}
		if n%40 == 39 {
			h.replace(n / 40 % 3)
		}
	}
	wg.Wait()
}

// publishSurely publishes on any edge, and again elsewhere when that fails.
func publishSurely(t *testing.T, h *harness, channel, data string) {
	t.Helper()
	var err error
	for range 5 {
		if _, err = publish(h.any().node, channel, channel+data, []byte(data)); err == nil {
			return
		}
	}
	t.Errorf("publish %s: %v", data, err)
}

func followEvents(base, query string, c *counting, deadline time.Time, ready func(), channels ...string) error {
	es := &sseStream{url: base + "/connection/uni_sse" + query}
	first := true
	return es.follow(deadline, func(e sseEvent) error {
		switch e.name {
		case "connected":
			ready()
			var info struct {
				Subs map[string]struct{ Recovered bool }
			}
			err := json.Unmarshal([]byte(e.data), &info)
			for name, sub := range info.Subs {
				if !first && !sub.Recovered {
					return fmt.Errorf("%s was not recovered: %s", name, e.data)
				}
			}
			first = false
			return err
		case "message":
			var pub struct {
				Channel string
				Data    json.RawMessage
			}
			if err := json.Unmarshal([]byte(e.data), &pub); err != nil {
				return err
			}
			return c.take(pub.Channel, string(pub.Data), channels...)
		}
		return nil
	})
}

func followPolls(base, query string, c *counting, deadline time.Time, ready func(), channels ...string) error {
	since := ""
	for time.Now().Before(deadline) {
		res, err := http.Get(base + "/poll" + query + "&since=" + url.QueryEscape(since))
		if err != nil {
			continue
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || res.StatusCode >= 500 {
			continue // the edge is gone
		}
		var answer struct {
			Publications []struct {
				Channel string
				Data    json.RawMessage
			}
			Since       string
			Unrecovered []string
		}
		if err := json.Unmarshal(body, &answer); err != nil || res.StatusCode != 200 || answer.Unrecovered != nil {
			return fmt.Errorf("status %d: %s (%v)", res.StatusCode, body, err)
		}
		since = answer.Since
		ready()
		for i, pub := range answer.Publications {
			err := c.take(pub.Channel, string(pub.Data), channels...)
			if err != nil && (err != errDone || i != len(answer.Publications)-1) {
				return err
			}
			if err == errDone {
				return nil
			}
		}
	}
	return fmt.Errorf("not done in time")
}

func followOneWay(base string, c *counting, deadline time.Time, ready func(), channel string) error {
	request := map[string]any{"subs": map[string]any{channel: map[string]any{}}}
	var epoch string
	var offset uint64
	for time.Now().Before(deadline) {
		ws, _, err := websocket.DefaultDialer.Dial(strings.Replace(base, "http", "ws", 1)+"/connection/uni_websocket", nil)
		if err != nil {
			continue
		}
		if epoch != "" {
			request["subs"] = map[string]any{channel: map[string]any{"recover": true, "offset": offset, "epoch": epoch}}
		}
		ws.WriteJSON(request) //nolint:errcheck // reading fails then
		for err == nil {
			var frame []byte
			if _, frame, err = ws.ReadMessage(); err != nil {
				break
			}
			for line := range bytes.Lines(frame) {
				if err := oneWayLine(line, channel, c, &epoch, &offset); err == errDone {
					ws.Close()
					return nil
				} else if err != nil {
					return err
				}
				ready()
			}
		}
		ws.Close()
	}
	return fmt.Errorf("not done in time")
}

// oneWayLine takes one push and moves on the position.
func oneWayLine(line []byte, channel string, c *counting, epoch *string, offset *uint64) error {
	type publication struct {
		Data   json.RawMessage
		Offset uint64
		Epoch  string
	}
	var push struct {
		Connect *struct {
			Subs map[string]struct {
				Epoch        string
				Offset       uint64
				Recovered    bool
				Publications []publication
			}
		}
		Pub *publication
	}
	if err := json.Unmarshal(line, &push); err != nil {
		return err
	}
	var pubs []publication
	if push.Connect != nil {
		sub := push.Connect.Subs[channel]
		if *epoch != "" && !sub.Recovered {
			return fmt.Errorf("not recovered: %s", line)
		}
		*epoch, *offset, pubs = sub.Epoch, sub.Offset, sub.Publications
	}
	if push.Pub != nil {
		pubs = append(pubs, *push.Pub)
	}
	for _, p := range pubs {
		*offset = p.Offset
		if p.Epoch != "" {
			*epoch = p.Epoch
		}
		if err := c.take(channel, string(p.Data), channel); err != nil {
			return err
		}
	}
	return nil
}

// TestT2CentrifugeJSFallbacks: the unmodified npm package over HTTP streaming and
// SSE, each of its requests at another edge, and edges die meanwhile.
func TestT2CentrifugeJSFallbacks(t *testing.T) {
	needNode(t)
	// A slow machine may keep requests for long.
	h := newHarness(t, 1, 3, func(c *edge.Config) { c.Transports.EmulationOrderWait = time.Minute })
	base := newRequestBalancer(t, h)
	for _, kind := range []string{"http_stream", "http_stream-protobuf", "sse"} {
		t.Run(kind, func(t *testing.T) {
			runScript(t, "fallbacks.mjs", func(line string) string {
				n := 0
				if _, err := fmt.Sscanf(line, "kill %d", &n); err != nil {
					return ""
				}
				h.replace(n % 3)
				return "killed"
			}, "HEADRACE_URL="+base, "HEADRACE_KIND="+kind)
		})
	}
}

// TestE2ADeadNodeIsToldAtOnce: a post for a session whose edge was killed, and one
// with a guessed name, are refused by the other edges without a wait.
func TestE2ADeadNodeIsToldAtOnce(t *testing.T) {
	h := newHarness(t, 1, 2, func(c *edge.Config) { c.PingInterval, c.PongTimeout = 5*time.Second, 2*time.Second })
	res, err := http.Post(h.list()[0].url+"/connection/http_stream", "application/json", strings.NewReader(`{"id":1,"connect":{}}`))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var reply struct {
		Connect struct{ Session, Node, Client string }
	}
	if err := json.NewDecoder(res.Body).Decode(&reply); err != nil {
		t.Fatal(err)
	}
	// One that was waited for would be answered with 503.
	post := func(session, node string) int {
		body, _ := json.Marshal(map[string]string{"session": session, "node": node, "data": "{}"})
		res, err := http.Post(h.list()[1].url+"/emulation", "application/json", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res.StatusCode
	}
	c := reply.Connect
	if status := post(c.Session, c.Node); status != 204 {
		t.Errorf("through another edge: status %d", status)
	}
	for what, at := range map[string][2]string{
		"a guessed name": {c.Client + ".AAAAAAAAAAAAAAAAAAAAAAAAAA", c.Node}, "the client's id": {c.Client, c.Node},
		"a node that never was": {c.Session, "nobody"}, "a wildcard": {c.Session, "*"}, "another node": {c.Session, h.list()[1].id},
	} {
		if status := post(at[0], at[1]); status != 404 {
			t.Errorf("%s: status %d", what, status)
		}
	}
	h.list()[0].kill()
	if status := post(c.Session, c.Node); status != 404 {
		t.Errorf("a killed edge: status %d", status)
	}
}

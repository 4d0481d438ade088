package edge

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headrace/headrace/router"
)

// event is one Server-Sent Event, as a browser dispatches it.
type event struct{ name, id, data string }

// eventSource reads events as the WHATWG standard has it, section 9.2.6.
type eventSource struct {
	res  *http.Response
	in   *bufio.Reader
	last string
}

func openEvents(t testing.TB, url, last string) *eventSource {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if last != "" {
		req.Header.Set("Last-Event-ID", last)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	return &eventSource{res: res, in: bufio.NewReader(res.Body), last: last}
}

// next returns the next event, the zero event at the end.
func (s *eventSource) next() event {
	e := event{name: "message"}
	for {
		line, err := s.in.ReadString('\n')
		if err != nil {
			return event{}
		}
		field, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case field == "event":
			e.name = value
		case field == "id":
			s.last = value
		case field == "data":
			e.data += value
		case line == "\n" && e.data != "":
			e.id = s.last
			return e
		}
	}
}

// historyResult is what a channel with history answers to a new subscriber.
func historyResult(offset uint64) router.SubscribeResult {
	return router.SubscribeResult{Recoverable: true, Positioned: true, Position: router.Position{Offset: offset, Epoch: "e~1"}}
}

func TestE3EventsCarryThePositionsOfAllChannels(t *testing.T) {
	f := newFakeRouter()
	f.result = historyResult(7)
	s := newTestServer(t, f, nil)
	u := serveHTTP(t, s) + "/connection/uni_sse?channel="
	one, other, many := openEvents(t, u+"a", ""), openEvents(t, u+"a", ""), openEvents(t, u+"a&channel="+url.QueryEscape("x&y = z"), "")
	for es, want := range map[*eventSource]string{one: "a@7:e~7E1", other: "a@7:e~7E1", many: "a@7:e~7E1,x~26y~20~3D~20z@7:e~7E1"} {
		if e := es.next(); e.name != "connected" || e.id != want || !strings.Contains(e.data, `"subs":{`) {
			t.Fatalf("connected: %+v, want id %s", e, want)
		}
	}
	f.deliver("a", &router.Publication{Offset: 8, Epoch: "life", Data: []byte(`{"n":8}`)}, &router.Publication{Offset: 9, Data: []byte(`{"n":9}`)})
	for es, rest := range map[*eventSource]string{one: "", other: "", many: ",x~26y~20~3D~20z@7:e~7E1"} {
		for _, want := range []event{
			{"message", "a@8:life" + rest, `{"offset":8,"data":{"n":8},"channel":"a"}`},
			{"message", "a@9:life" + rest, `{"offset":9,"data":{"n":9},"channel":"a"}`},
		} {
			if e := es.next(); !sameEvent(e, want) {
				t.Errorf("got %+v, want %+v", e, want)
			}
		}
	}
	f.deliver("x&y = z", &router.Publication{Offset: 8, Data: []byte(`1`)})
	if e := many.next(); e.id != "a@9:life,x~26y~20~3D~20z@8:e~7E1" {
		t.Errorf("got %+v", e)
	}
}

// sameEvent compares data as JSON.
func sameEvent(a, b event) bool {
	var x, y any
	if json.Unmarshal([]byte(a.data), &x) != nil || json.Unmarshal([]byte(b.data), &y) != nil {
		return false
	}
	ax, _ := json.Marshal(x)
	by, _ := json.Marshal(y)
	return a.name == b.name && a.id == b.id && string(ax) == string(by)
}

func TestE3WhatWasRecoveredComesAfterConnected(t *testing.T) {
	f := newFakeRouter()
	f.result = historyResult(9)
	f.result.Recovered = true
	f.result.Publications = []*router.Publication{{Offset: 8, Data: []byte(`8`)}, {Offset: 9, Data: []byte(`9`)}}
	es := openEvents(t, serveHTTP(t, newTestServer(t, f, nil))+"/connection/uni_sse?channel=a", "a@7:e~7E1")
	var ids []string
	for range 3 {
		ids = append(ids, es.next().id)
	}
	// One who gets connected and nothing more begins where it was.
	if !slices.Equal(ids, []string{"a@7:e~7E1", "a@8:e~7E1", "a@9:e~7E1"}) {
		t.Errorf("ids %v", ids)
	}
	f.deliver("a", &router.Publication{Offset: 10, Data: []byte(`10`)})
	if e := es.next(); e.id != "a@10:e~7E1" {
		t.Errorf("then %+v", e)
	}
}

func TestE3WhoMayNotGetsAStatus(t *testing.T) {
	for name, tt := range map[string]struct {
		query string
		poll  bool // /poll too
		want  int
	}{
		"a channel that is denied":    {"channel=secret", true, 403},
		"a bad token":                 {`channel=a&cf_connect={"token":"x"}`, true, 401},
		"a bad connect request":       {"cf_connect={", true, 400},
		"a queue":                     {"channel=queue:jobs", true, 404},
		"too many channels":           {"channel=a&" + manyChannels(17), true, 429},
		"names that are too long":     {longChannels(6), true, 429},
		"a bad subscription token":    {"channel=a&sub_token=x", true, 403},
		"poll: no channel":            {"", false, 0},
		"poll: a timeout of no sense": {"channel=a&timeout=soon", false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeRouter()
			f.ns.HistorySize = 10
			base := serveHTTP(t, newTestServer(t, f, nil))
			query := strings.NewReplacer("{", "%7B", `"`, "%22", "}", "%7D").Replace(tt.query)
			if tt.want != 0 {
				es := openEvents(t, base+"/connection/uni_sse?"+query, "")
				want := tt.want
				if want == 404 {
					want = 400 // an established code stands for it
				}
				if es.res.StatusCode != want {
					t.Errorf("uni_sse: status %d, want %d", es.res.StatusCode, want)
				}
			}
			res, err := http.Get(base + "/poll?" + query)
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			if want := max(tt.want, 400); res.StatusCode != want {
				t.Errorf("poll: status %d, want %d", res.StatusCode, want)
			}
		})
	}
}

// longChannels are n channels whose names become three times as long in positions.
func longChannels(n int) string {
	var out string
	for i := range n {
		out += "&channel=" + strings.Repeat("!", 240) + string(rune('a'+i))
	}
	return out
}

func manyChannels(n int) string {
	var out []string
	for i := range n {
		out = append(out, "channel=c"+string(rune('a'+i)))
	}
	return strings.Join(out, "&")
}

func TestE3ADrainingNodeSendsAnEventSourceElsewhere(t *testing.T) {
	s := newTestServer(t, newFakeRouter(), func(c *Config) { c.DrainWindow = 10 * time.Millisecond })
	base := serveHTTP(t, s)
	es := openEvents(t, base+"/connection/uni_sse?channel=a", "")
	es.next()
	if err := s.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if e := es.next(); e.name != "disconnect" || !strings.Contains(e.data, `"code":3001`) {
		t.Errorf("got %+v", e)
	}
	if e := es.next(); e != (event{}) {
		t.Errorf("after the end: %+v", e)
	}
	late := openEvents(t, base+"/connection/uni_sse?channel=a", "")
	if e := late.next(); late.res.StatusCode != 200 || e.name != "disconnect" {
		t.Errorf("late: %d %+v", late.res.StatusCode, e)
	}
}

func TestE3OneWayWebSocket(t *testing.T) {
	f := newFakeRouter()
	f.result = historyResult(7)
	u := serve(t, newTestServer(t, f, nil))
	u = strings.Replace(u, "websocket", "uni_websocket", 1)
	byFrame, byURL := dialWS(t, u, nil), dialWS(t, u+"?channel=a", nil)
	sendText(t, byFrame, `{"subs":{"a":{}}}`)
	for _, ws := range []interface {
		ReadMessage() (int, []byte, error)
	}{byFrame, byURL} {
		_, b, err := ws.ReadMessage()
		if err != nil || !strings.HasPrefix(string(b), `{"connect":{"client":"`) || !strings.Contains(string(b), `"subs":{"a":{"recoverable":true,"epoch":"e~1","offset":7,"positioned":true}}`) {
			t.Fatalf("%s %v", b, err)
		}
	}
	f.deliver("a", &router.Publication{Offset: 8, Data: []byte(`{"n":8}`)})
	for _, ws := range []interface {
		ReadMessage() (int, []byte, error)
	}{byFrame, byURL} {
		if _, b, err := ws.ReadMessage(); string(b) != `{"channel":"a","pub":{"data":{"n":8},"offset":8}}` {
			t.Errorf("%s %v", b, err)
		}
	}
	denied := dialWS(t, u+"?channel=secret", nil)
	if _, _, err := denied.ReadMessage(); err == nil || !strings.Contains(err.Error(), "3507") {
		t.Errorf("a channel that is denied: %v", err)
	}
	sendText(t, byURL, `{}`)
	if _, _, err := byURL.ReadMessage(); err == nil || !strings.Contains(err.Error(), "3501") {
		t.Errorf("a second message: %v", err)
	}
}

// get polls and returns the answer.
func get(t testing.TB, url string) pollText {
	t.Helper()
	res, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var a pollText
	b, _ := io.ReadAll(res.Body)
	if err := json.Unmarshal(b, &a); err != nil || res.StatusCode != 200 || res.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Fatalf("status %d: %s", res.StatusCode, b)
	}
	return a
}

type pollText struct {
	Publications []struct {
		Data    json.RawMessage
		Offset  uint64
		Channel string
	}
	Since       string
	Unrecovered []string
}

func TestE3Poll(t *testing.T) {
	f := newFakeRouter()
	f.ns.HistorySize = 10
	f.result = historyResult(7)
	s := newTestServer(t, f, func(c *Config) { c.QueueBytes = 100 })
	base := serveHTTP(t, s) + "/poll?channel=a"
	if a := get(t, base); a.Since != "a@7:e~7E1" || len(a.Publications) != 0 {
		t.Fatalf("first %+v", a)
	}
	f.result.Recovered = true
	go func() {
		for f.subscribers("a") == 0 { // a poll with the test's deadline
			time.Sleep(time.Millisecond)
		}
		f.deliver("a", &router.Publication{Offset: 8, Epoch: "life", Data: []byte(`{"n":8}`)})
	}()
	if a := get(t, base+"&since=a@7:e~7E1"); a.Since != "a@8:life" || len(a.Publications) != 1 || a.Publications[0].Channel != "a" {
		t.Errorf("second %+v", a)
	}
	if a := get(t, base+"&since=a@8:life&timeout=0"); a.Since != "a@7:e~7E1" || len(a.Publications) != 0 {
		t.Errorf("nothing %+v", a)
	}
	f.result.Recovered = false
	if a := get(t, base+"&since=garbage"); a.Since != "a@7:e~7E1" || !slices.Equal(a.Unrecovered, []string{"a"}) {
		t.Errorf("unrecovered %+v", a)
	}
	// More than fits is left for the next poll.
	big := []byte(`"` + strings.Repeat("x", 70) + `"`)
	f.result.Recovered = true
	f.result.Publications = []*router.Publication{{Offset: 6, Data: big}, {Offset: 7, Data: big}}
	if a := get(t, base+"&since=a@5:e~7E1"); a.Since != "a@6:e~7E1" || len(a.Publications) != 1 {
		t.Errorf("cut %+v", a)
	}
	if n := f.subscribers("a"); n != 0 {
		t.Errorf("%d subscriptions are left", n)
	}
}

func TestE3WaitingPollsAreBoundedAndDrained(t *testing.T) {
	f := newFakeRouter()
	f.ns.HistorySize = 10
	f.result = historyResult(7)
	f.result.Recovered = true
	s := newTestServer(t, f, func(c *Config) { c.Transports.PollMaxWaiting = 1; c.DrainWindow = time.Millisecond })
	url := serveHTTP(t, s) + "/poll?channel=a&since=a@7:e~7E1"
	answered := make(chan pollText, 1)
	go func() { answered <- get(t, url) }()
	for s.metrics.polling.Load() == 0 { // a poll with the test's deadline
		time.Sleep(time.Millisecond)
	}
	res, err := http.Get(url)
	if err != nil || res.StatusCode != 503 || res.Header.Get("Retry-After") == "" {
		t.Errorf("one too many: %v %v", res, err)
	}
	res.Body.Close()
	if err := s.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	if a := <-answered; a.Since != "a@7:e~7E1" {
		t.Errorf("drained: %+v", a)
	}
}

func TestE4OneWayClientsNeedNotAnswerPings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer(t, newFakeRouter(), nil)
		sess, tr := newTestSession(s, uniWS)
		sess.onFrame([]byte(`{}`))
		for range 100 {
			time.Sleep(time.Second) // virtual
			sess.tick(time.Now())
		}
		if frames := tr.take(); tr.closed() != 0 || len(frames) != 5 || frames[4] != "{}" {
			t.Errorf("closed %d, frames %v", tr.closed(), frames)
		}
		s.stop()
	})
}

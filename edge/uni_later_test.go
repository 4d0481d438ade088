package edge

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/headrace/headrace/router"
)

// Some asked for the channel and come back with their position in it, others got it
// from the API and come back without it.
func TestE3ChannelsThatTheAPIAddsHaveNoPlaceInTheID(t *testing.T) {
	f := newFakeRouter()
	f.result = historyResult(7)
	s := newTestServer(t, f, nil)
	base := serveHTTP(t, s) + "/connection/uni_sse?channel="
	asked, given := openEvents(t, base+"a", ""), openEvents(t, base+"b", "")
	asked.next()
	connected := given.next()
	client := strings.Split(connected.data, `"`)[3]
	if c := s.sessions.Control(t.Context(), router.Control{Op: router.ControlSubscribe, Client: client, Channel: "a"}); c.Sessions != 1 {
		t.Fatalf("%+v", c)
	}
	if e := given.next(); e.name != "subscribe" || !strings.Contains(e.data, `"a"`) {
		t.Fatalf("got %+v", e)
	}
	for n := range 30 { // the order of subscribers is any
		f.deliver("a", &router.Publication{Offset: uint64(8 + n), Data: []byte(`1`)})
		if e, want := asked.next(), fmt.Sprintf("a@%d:e~7E1", 8+n); e.id != want {
			t.Fatalf("who asked: %+v, want id %s", e, want)
		}
		if e := given.next(); e.id != "b@7:e~7E1" || !strings.Contains(e.data, `"channel":"a"`) {
			t.Fatalf("who was given it: %+v", e)
		}
	}
	f.deliver("b", &router.Publication{Offset: 8, Data: []byte(`2`)})
	if e := given.next(); e.id != "b@8:e~7E1" {
		t.Errorf("got %+v", e)
	}
}

func TestE3WhatPollsCannotCarryIsRefused(t *testing.T) {
	for name, change := range map[string]func(*router.Namespace){
		"binary data": func(ns *router.Namespace) { ns.Payload = router.PayloadBinary },
		"no history":  func(ns *router.Namespace) { ns.HistorySize = 0 },
	} {
		f := newFakeRouter()
		f.ns.HistorySize, f.result = 10, historyResult(7)
		change(&f.ns)
		res, err := http.Get(serveHTTP(t, newTestServer(t, f, nil)) + "/poll?channel=a")
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != 404 {
			t.Errorf("%s: status %d", name, res.StatusCode)
		}
	}
}

// A carriage return ends a line of an event, and may stand in JSON.
func TestE2ACarriageReturnDoesNotBreakEvents(t *testing.T) {
	f := newFakeRouter()
	f.ns.Payload = router.PayloadAny
	f.result = historyResult(7)
	s := newTestServer(t, f, nil)
	url := serveHTTP(t, s)
	plain, sdk := openEvents(t, url+"/connection/uni_sse?channel=a", ""), openClient(t, url, true)
	plain.next()
	sdk.post(sdk.session, `{"id":2,"subscribe":{"channel":"a"}}`)
	sdk.expect(`{"id":2,`)
	data := "{\r\"n\":\r\r1}\r"
	f.deliver("a", &router.Publication{Offset: 8, Data: []byte(data)})
	if e := plain.next(); strings.Contains(e.data, "\r") || !strings.Contains(e.data, `{ "n":  1} `) {
		t.Errorf("EventSource: %q", e.data)
	}
	if line := sdk.read(); strings.Contains(line, "\r") || !strings.Contains(line, `{ "n":  1} `) {
		t.Errorf("SSE: %q", line)
	}
	if data != "{\r\"n\":\r\r1}\r" {
		t.Error("the publication was changed")
	}
}

package edge

import (
	"bytes"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/gorilla/websocket"

	"github.com/headrace/headrace/router"
)

// Each test is named after the attack or race it stops.

func TestInvalidUTF8NeverPoisonsJSONClients(t *testing.T) {
	b := &router.Batch{Channel: "a", Pushes: []router.Push{{Pub: &router.Publication{Offset: 1, Data: []byte("\"\xff\"")}}}}
	frame := jsonWS.batchFrame(b, kind.wirePublication, func() { t.Error("the publication was left out") })
	if !utf8.Valid(framePayload(frame)) {
		t.Errorf("text frame %q is not UTF-8", framePayload(frame))
	}
}

func TestInfoOfOneClientNeverCostsOthersAPublication(t *testing.T) {
	for info, want := range map[string]string{"\xff\x00": `"/wA="`, "{": `"ew=="`, "\"\xff\"": `"Iv8i"`, "{\n}": `{}`} {
		b := &router.Batch{Channel: "a", Pushes: []router.Push{{Pub: &router.Publication{Offset: 1, Data: []byte("1"), Info: &router.ClientInfo{User: "42", ConnInfo: []byte(info)}}}}}
		frame := jsonWS.batchFrame(b, kind.wirePublication, func() { t.Errorf("%q: the publication was left out", info) })
		if frame != nil && !bytes.Contains(framePayload(frame), []byte(`"conn_info":`+want)) {
			t.Errorf("%q became %s", info, framePayload(frame))
		}
	}
}

func TestCommandsThatWaitAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newFakeRouter()
		r.gate = make(chan struct{})
		srv := newTestServer(t, r, func(c *Config) { c.MaxInflight = 4 })
		sess, _ := newTestSession(srv, jsonWS)
		sess.onFrame([]byte(`{"id":1,"connect":{}}`))
		flood := `{"id":2,"subscribe":{"channel":"a"}}` + strings.Repeat("\n"+`{"id":3,"publish":{"channel":"a","data":1}}`, 100)
		done := make(chan struct{})
		go func() { sess.onFrame([]byte(flood)); close(done) }()
		synctest.Wait()
		sess.mu.Lock()
		if n := len(sess.find("a").waiting); n > 4 {
			t.Errorf("%d commands wait, bound 4", n)
		}
		sess.mu.Unlock()
		close(r.gate)
		<-done
		sess.settle()
		if n := len(r.asked()); n != 101 {
			t.Errorf("router was asked %d times, want 101", n)
		}
	})
}

func TestCommandDoesNotOvertakeThoseThatWaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newTestServer(t, newFakeRouter(), nil)
		sess, _ := newTestSession(srv, jsonWS)
		var state *channelState
		sess.exclusive("a", func(c *channelState) { state = c }, nil)
		var order []string
		first := make(chan struct{})
		sess.inOrder("a", func() { <-first; order = append(order, "first") })
		go sess.release(state)
		synctest.Wait() // "first" has begun
		sess.inOrder("a", func() { order = append(order, "second") })
		close(first)
		sess.settle()
		if got := strings.Join(order, " "); got != "first second" {
			t.Errorf("ran %q", got)
		}
	})
}

// A socket that takes part of a frame must get the rest of it before the close
// frame, or the client reads the code as payload.
func TestSlowConsumerSeesItsCodeAfterAPartialFrame(t *testing.T) {
	r := newFakeRouter()
	srv := newTestServer(t, r, func(c *Config) { c.QueueBytes = 1 << 10 })
	web := httptest.NewServer(srv.Handler())
	defer web.Close()
	ws, _, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(web.URL, "http")+"/connection/websocket", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	if err := ws.WriteMessage(websocket.TextMessage, []byte(`{"id":1,"connect":{}}`)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := ws.ReadMessage(); err != nil {
		t.Fatal(err)
	}
	sess := srv.sessions.list()[0]
	frame := sealFrame(opText, append(newFrame(0), bytes.Repeat([]byte("x"), 64<<20)...)) // more than the socket takes
	sess.t.Send(frame)
	ws.SetReadDeadline(time.Now().Add(time.Minute)) //nolint:errcheck // then the read fails
	if _, data, err := ws.ReadMessage(); err != nil || len(data) != 64<<20 {
		t.Fatalf("frame of %d bytes, %v", len(data), err)
	}
	if _, _, err := ws.ReadMessage(); !websocket.IsCloseError(err, 3008) {
		t.Errorf("read = %v, want close 3008", err)
	}
	ws.Close()
	srv.stop()
}

func TestConnectionThatArrivesDuringShutdownIsRefused(t *testing.T) {
	srv := newTestServer(t, newFakeRouter(), nil)
	srv.sessions.refuse()
	sess := newSession(srv, jsonWS, &fakeTransport{}, time.Now())
	if srv.sessions.add(sess, func() { t.Error("started") }) {
		t.Error("admitted")
	}
}

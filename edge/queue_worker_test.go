package edge

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/centrifugal/protocol"
	"github.com/gorilla/websocket"

	"github.com/headrace/headrace/edge/token"
	"github.com/headrace/headrace/router"
)

func subscribeJobs(credits int) string {
	return fmt.Sprintf(`{"id":2,"subscribe":{"channel":"queue:jobs","data":{"credits":%d}}}`, credits)
}

// work connects user 42 as a worker of an open queue.
func work(t *testing.T, change func(*Config), credits int) (*fakeQueues, *Server, *session, *fakeTransport) {
	t.Helper()
	f := &fakeQueues{}
	with := withQueue(f, openQueue)
	s, sess, tr := play(t, newFakeRouter(), func(c *Config) {
		with(c)
		if change != nil {
			change(c)
		}
	}, connectUser, subscribeJobs(credits))
	return f, s, sess, tr
}

func job(n int, payload string) *router.Job {
	return &router.Job{ID: fmt.Sprint("id-", n), Queue: "jobs", Priority: router.PriorityLow, Attempt: 2, MaxAttempts: 4, Token: fmt.Sprint("t", n),
		Payload: []byte(payload), Headers: map[string]string{"Trace": "7"}, LastError: "no", Redriven: 1,
		Origin: router.Origin{Subject: "hr.job.jobs.low", Seq: 9, Time: time.Unix(1, 0)}}
}

func TestWorkerGetsJobs(t *testing.T) {
	f, s, sess, tr := work(t, nil, 10)
	if got := tr.take(); len(got) != 2 || got[1] != `{"id":2,"subscribe":{}}` {
		t.Fatalf("replies %q", got)
	}
	f.worker().take(job(1, "{\n\"a<b\": 1}"))
	f.worker().take(job(2, "\xff"))
	const common = `"queue":"jobs","priority":"low","attempt":2,"max_attempts":4,"token":"t%d",%s,"headers":{"Trace":"7"},` +
		`"origin":{"subject":"hr.job.jobs.low","seq":9,"time":"1970-01-01T00:00:01Z"},"last_error":"no","redriven":1}`
	var want []string
	for n, payload := range []string{`"data":{"a<b":1}`, `"b64data":"/w=="`} {
		want = append(want, `{"push":{"channel":"queue:jobs","pub":{"data":{"id":"id-`+fmt.Sprint(n+1)+`",`+fmt.Sprintf(common, n+1, payload)+`}}}`)
	}
	if got := tr.take(); !slices.Equal(got, want) {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	// One alone, then as many as the client can take.
	if got := f.asked(); !slices.Equal(got, []string{"pull jobs", "credits 1", "credits 10"}) {
		t.Errorf("asked %q", got)
	}
	for _, tt := range []struct{ send, asked string }{
		{`{"id":3,"rpc":{"method":"queue.credits","data":{"queue":"jobs","credits":3}}}`, "credits 3"},
		{`{"id":4,"rpc":{"method":"queue.credits","data":{"queue":"jobs","credits":0}}}`, "credits 0"},
		{`{"id":5,"unsubscribe":{"channel":"queue:jobs"}}`, "close 5s"},
	} {
		sess.onFrame([]byte(tt.send))
		settle(s, sess)
		if got := f.asked(); !slices.Equal(got, []string{tt.asked}) {
			t.Errorf("%s asked %q", tt.send, got)
		}
	}
}

// A job that was under way when its worker left was given back: its client must
// not see it.
func TestJobAfterTheEndOfAWorker(t *testing.T) {
	f, _, sess, tr := work(t, nil, 1)
	w := f.worker()
	sess.onFrame([]byte(`{"id":3,"unsubscribe":{"channel":"queue:jobs"}}`))
	tr.take()
	w.take(job(1, "1"))
	if got := tr.take(); len(got) != 0 {
		t.Errorf("got %q", got)
	}
}

// Whatever ends a subscription ends the work.
func TestEveryEndOfAWorkerGivesItsJobsBack(t *testing.T) {
	for how, end := range map[string]func(*Server, *session){
		"the connection is lost": func(_ *Server, sess *session) { sess.ended(disconnectClosed) },
		"the client unsubscribes": func(_ *Server, sess *session) {
			sess.onFrame([]byte(`{"id":3,"unsubscribe":{"channel":"queue:jobs"}}`))
		},
		"the API unsubscribes": func(s *Server, _ *session) {
			s.sessions.Control(t.Context(), router.Control{Op: router.ControlUnsubscribe, User: "42", Channel: "queue:jobs", Code: 2000})
		},
		"the API disconnects": func(s *Server, sess *session) {
			s.sessions.Control(t.Context(), router.Control{Op: router.ControlDisconnect, User: "42", Code: 3503})
		},
		"the edge stops": func(s *Server, _ *session) { s.stop() },
	} {
		t.Run(how, func(t *testing.T) {
			f, s, sess, _ := work(t, func(c *Config) { c.WorkerGrace = 7 * time.Second }, 1)
			f.asked()
			end(s, sess)
			if got := f.asked(); !slices.Equal(got, []string{"close 7s"}) {
				t.Errorf("asked %q", got)
			}
			if n := len(s.queues.workers); n != 0 {
				t.Errorf("%d workers are left", n)
			}
		})
	}
}

// The jobs that a client holds together fit into its connection, whatever their
// size; what could never fit becomes a dead letter rather than cut client after
// client.
func TestCreditsFollowTheSizeOfJobs(t *testing.T) {
	f, s, sess, tr := work(t, func(c *Config) { c.QueueBytes = 10_000 }, 100)
	f.asked()
	small := len(must(jobText(job(1, "1")))) + jobFrameBytes
	for _, tt := range []struct {
		payload int
		want    string
	}{
		{1, fmt.Sprint("credits ", 5000/small)},
		{4000, "credits 1"},
		{9700, "nack jobs t1 \"the job is too large for a client's connection: see client.queue_bytes\" final=true delay=0s"},
	} {
		f.worker().take(job(1, strings.Repeat("1", tt.payload)))
		settle(s, sess)
		if got := f.asked(); !slices.Equal(got, []string{tt.want}) {
			t.Errorf("a job of %d bytes: asked %q, want %q", tt.payload, got, tt.want)
		}
	}
	for range 40 { // large ones are forgotten
		f.worker().take(job(1, "1"))
	}
	if asked := f.asked(); len(asked) < 3 || asked[len(asked)-1] != fmt.Sprint("credits ", 5000/small) {
		t.Errorf("after small jobs: %q", asked)
	}
	if tr.closed() != 0 {
		t.Errorf("closed %d", tr.closed())
	}
}

func jobText(j *router.Job) (string, error) {
	b, err := jobData(j)
	return string(b), err
}

func TestBadSubscriptionsToQueues(t *testing.T) {
	for data, want := range map[string]string{
		`{"credits":-1}`:     `"code":107,"message":"credits are not within 0 to 1000"`,
		`{"credits":1001}`:   `"code":107`,
		`{"credit":5}`:       `unknown field \"credit\"`,
		`{"credits":"many"}`: `"code":107`,
		`7`:                  `"code":107`,
		`{"credits":0}`:      `"subscribe":{}`,
		`{}`:                 `"subscribe":{}`,
		`null`:               `"subscribe":{}`,
	} {
		_, _, tr := play(t, newFakeRouter(), withQueue(&fakeQueues{}, openQueue), connectUser, `{"id":2,"subscribe":{"channel":"queue:jobs","data":`+data+`}}`)
		if got := strings.Join(tr.take(), "\n"); !strings.Contains(got, want) {
			t.Errorf("%s: %s", data, got)
		}
	}
}

// The connection of a worker that does not read ends with 3008, and so does its
// work: nothing is dropped that is not given back.
func TestSlowWorkerLosesItsJobs(t *testing.T) {
	f := &fakeQueues{}
	with := withQueue(f, openQueue)
	s := newTestServer(t, newFakeRouter(), func(c *Config) { with(c); c.QueueBytes = 100_000 })
	ws := dialWS(t, serve(t, s), http.Header{})
	sendText(t, ws, connectUser)
	readText(t, ws)
	sendText(t, ws, subscribeJobs(1000))
	readText(t, ws)
	large := job(1, `"`+strings.Repeat("x", 90_000)+`"`)
	w := f.worker()
	for n := 0; s.sessions.Count() > 0 && s.metricSlow() == 0 && n < 1000; n++ { // far above its credits
		w.take(large)
	}
	var err error
	for err == nil { // read what was sent, and then the close frame
		ws.SetReadDeadline(time.Now().Add(10 * time.Second)) //nolint:errcheck // never fails in gorilla
		_, _, err = ws.ReadMessage()
	}
	if !websocket.IsCloseError(err, 3008) {
		t.Errorf("ended with %v, want close 3008", err)
	}
	eventually(t, "the jobs are given back", func() bool { return slices.Contains(f.asked(), "close 5s") })
}

// A worker with the Protobuf protocol gets the same JSON.
func TestProtobufWorker(t *testing.T) {
	f := &fakeQueues{}
	s := newTestServer(t, newFakeRouter(), withQueue(f, openQueue))
	sess, tr := newTestSession(s, protobufWS)
	for i, c := range []*protocol.Command{
		{Connect: &protocol.ConnectRequest{Token: mustMint(token.Connection{User: "42"})}},
		{Subscribe: &protocol.SubscribeRequest{Channel: "queue:jobs", Data: []byte(`{"credits":2}`)}},
	} {
		c.Id = uint32(i + 1)
		frame, err := protocol.NewProtobufCommandEncoder().Encode(c)
		if err != nil {
			t.Fatal(err)
		}
		sess.onFrame(frame)
	}
	settle(s, sess)
	tr.take()
	f.worker().take(job(1, "\x00"))
	frames := tr.take()
	if len(frames) != 1 {
		t.Fatalf("frames %q", frames)
	}
	reply, err := protocol.NewProtobufReplyDecoder([]byte(frames[0])).Decode()
	if reply == nil || reply.Push == nil || reply.Push.Pub == nil {
		t.Fatalf("reply %v: %v", reply, err)
	}
	var j queueJob
	if err := json.Unmarshal(reply.Push.Pub.Data, &j); err != nil || j.Token != "t1" || string(j.B64Data) != "\x00" {
		t.Errorf("job %+v: %v", j, err)
	}
}

// A token or the server API can make a worker of a client that never asked.
func TestServerSideWorker(t *testing.T) {
	f := &fakeQueues{}
	_, _, tr := play(t, newFakeRouter(), withQueue(f, router.Queue{}), connectAs(token.Connection{User: "42", Channels: []string{"queue:jobs"}}))
	f.worker().take(job(1, "1"))
	got := tr.take()
	if len(got) != 2 || !strings.Contains(got[0], `"subs":{"queue:jobs":{}}`) || !strings.Contains(got[1], `"token":"t1"`) {
		t.Errorf("got %q", got)
	}
}

// FuzzQueueCalls feeds the decoders of everything that clients send to queues.
func FuzzQueueCalls(f *testing.F) {
	for method, data := range map[string]string{
		"queue.push": `{"queue":"jobs","data":{"a":1},"headers":{"a":"b"},"priority":"high","delay":"1s","backoff":{"base":"1s"}}`,
		"queue.ack":  `{"queue":"jobs","token":"t"}`, "queue.nack": `{"queue":"jobs","token":"t","error":"e","delay":"1s"}`,
		"queue.credits": `{"queue":"jobs","credits":5}`, "queue.dead": `{"queue":"jobs","from":1,"limit":5}`,
		"queue.redrive": `{"queue":"jobs","seqs":[1]}`, "subscribe": `{"credits":1}`,
	} {
		f.Add(method, data)
	}
	f.Fuzz(func(t *testing.T, method, data string) {
		if credits, err := decodeCredits([]byte(data)); err == nil && (credits < 0 || credits > maxWorkerCredits) {
			t.Errorf("%d credits of %q", credits, data)
		}
		q := &fakeQueues{}
		srv := newTestServer(t, newFakeRouter(), withQueue(q, openQueue))
		sess, _ := newTestSession(srv, protobufWS)
		sess.connected = true
		sess.info.User = "42"
		call := srv.builtins[method]
		if call == nil {
			return
		}
		result, err := call(t.Context(), sess, []byte(data))
		if err != nil {
			if code := toProtoError(err).code; code == 100 && router.CodeOf(err) != router.CodeInternal {
				t.Errorf("%q: %v", data, err)
			}
			return
		}
		if line, err := encodeLine(result); err != nil || !validJSON(line) {
			t.Errorf("answer %q: %v", line, err)
		}
	})
}

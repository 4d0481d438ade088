package edge

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/edge/token"
	"github.com/headrace/headrace/router"
)

var connectUser = connectAs(token.Connection{User: "42"})

// call plays one rpc of user 42 and returns the reply.
func queueCall(t *testing.T, f *fakeQueues, method, data string) string {
	t.Helper()
	_, _, tr := play(t, newFakeRouter(), withQueue(f, openQueue), connectUser, `{"id":2,"rpc":{"method":"`+method+`","data":`+data+`}}`)
	frames := tr.take()
	return frames[len(frames)-1]
}

func TestQueueCalls(t *testing.T) {
	full := router.Errorf(router.CodeLimit, "the queue is full")
	for does, tc := range map[string]struct {
		method, data string
		fail         error
		asked, want  string // in what the queue is asked, in the reply
	}{
		"a push":                            {"push", `{"queue":"jobs","data":{"n":1}}`, nil, `push jobs {"n":1} user="42"`, `{"id":"id-1"}`},
		"a push with options":               {"push", `{"queue":"jobs","data":1,"priority":"high","delay":"1m30s","max_attempts":2,"idempotency_key":"k"}`, nil, `key="k" prio="high" delay=1m30s max=2`, `{"id":"id-1"}`},
		"a push of bytes":                   {"push", `{"queue":"jobs","b64data":"AP8="}`, nil, "push jobs \x00\xff", `{"id":"id-1"}`},
		"a push that was made before":       {"push", `{"queue":"jobs","data":1,"idempotency_key":"used"}`, nil, "push", `"duplicate":true`},
		"a push into a full queue":          {"push", `{"queue":"jobs","data":1}`, full, "push", `{"code":106,"message":"the queue is full"}`},
		"a push of nothing":                 {"push", `{"queue":"jobs"}`, nil, "", `{"code":107,"message":"data is missing"}`},
		"a push with a misspelt option":     {"push", `{"queue":"jobs","data":1,"priorty":"high"}`, nil, "", `unknown field \"priorty\"`},
		"a push with a priority of its own": {"push", `{"queue":"jobs","data":1,"priority":"urgent"}`, nil, "", `"code":107`},
		"a push to no queue":                {"push", `{"queue":"other","data":1}`, nil, "", `{"code":108,"message":"no queue of that name"}`},

		"an ack":                            {"ack", `{"queue":"jobs","token":"t"}`, nil, "ack jobs t", `"rpc":{"data":{}}`},
		"an ack of another queue":           {"ack", `{"queue":"jobs","token":"foreign"}`, nil, "", `{"code":107,"message":"the job token is not valid"}`},
		"an ack of no queue":                {"ack", `{"queue":"other","token":"t"}`, nil, "", `"code":108`},
		"a nack":                            {"nack", `{"queue":"jobs","token":"t","error":"e","final":true}`, nil, `nack jobs t "e" final=true delay=0s`, `"rpc":{"data":{}}`},
		"a nack with a delay":               {"nack", `{"queue":"jobs","token":"t","delay":"5s"}`, nil, `final=false delay=5s`, `"rpc":{"data":{}}`},
		"a nack with a bad delay":           {"nack", `{"queue":"jobs","token":"t","delay":5}`, nil, "", `"code":107`},
		"an extension":                      {"extend", `{"queue":"jobs","token":"t"}`, nil, "extend jobs t", `"rpc":{"data":{}}`},
		"credits without work":              {"credits", `{"queue":"jobs","credits":5}`, nil, "", `{"code":103,"message":"not subscribed"}`},
		"credits out of bounds":             {"credits", `{"queue":"jobs","credits":1001}`, nil, "", `credits are not within 0 to 1000`},
		"credits that are missing":          {"credits", `{"queue":"jobs"}`, nil, "", `credits are missing`},
		"dead letters without a capability": {"dead", `{"queue":"jobs"}`, nil, "", `"code":103`},
		"a redrive without a capability":    {"redrive", `{"queue":"jobs","all":true}`, nil, "", `"code":103`},
		"no such method":                    {"pop", `{}`, nil, "", `"code":104`},
	} {
		t.Run(does, func(t *testing.T) {
			f := &fakeQueues{fail: tc.fail}
			got := queueCall(t, f, "queue."+tc.method, tc.data)
			asked := strings.Join(f.asked(), "\n")
			if !strings.Contains(asked, tc.asked) || (tc.asked == "") != (asked == "") {
				t.Errorf("asked %q, want %q", asked, tc.asked)
			}
			if !strings.Contains(got, tc.want) {
				t.Errorf("got %s, want %s in it", got, tc.want)
			}
		})
	}
}

// An anonymous client cannot claim the idempotency key of the server API, which has
// no user either, or of another anonymous client (rule W3).
func TestW3AnonymousPushesHaveNoIdempotencyKey(t *testing.T) {
	f := &fakeQueues{}
	rules := router.Queue{AllowPush: true, AllowPushAnonymous: true}
	_, _, tr := play(t, newFakeRouter(), withQueue(f, rules), connectFrame,
		`{"id":2,"rpc":{"method":"queue.push","data":{"queue":"jobs","data":1,"idempotency_key":"k"}}}`,
		`{"id":3,"rpc":{"method":"queue.push","data":{"queue":"jobs","data":1}}}`)
	got := strings.Join(tr.take(), "\n")
	if !strings.Contains(got, `"id":2,"error":{"code":107`) || !strings.Contains(got, `{"id":3,"rpc":`) || len(f.pushed) != 1 {
		t.Errorf("got %s, pushed %v", got, f.pushed)
	}
}

// TestQueueMatrix is who × what: the operations that succeed without a
// subscription, and the outcome of one.
func TestQueueMatrix(t *testing.T) {
	caps := func(allow string) []byte {
		return []byte(`[{"channels":["queue:*"],"match":"wildcard","allow":[` + allow + `]}]`)
	}
	push := router.Queue{AllowPush: true}
	for who, tc := range map[string]struct {
		rules router.Queue
		user  string
		caps  []byte
		sub   []string // operations of a subscription token; nil is no token
		can   string   // of push, dead, redrive
		join  string   // outcome of subscribe
		then  string   // what succeeds afterwards
	}{
		"no rule":                               {router.Queue{}, "42", nil, nil, "", "103", ""},
		"a rule to push":                        {push, "42", nil, nil, "push", "103", ""},
		"a rule to work":                        {router.Queue{AllowWork: true}, "42", nil, nil, "", "ok", ""},
		"rules for users, anonymous":            {openQueue, "", nil, nil, "", "103", ""},
		"anonymous rules":                       {router.Queue{AllowPush: true, AllowPushAnonymous: true, AllowWork: true, AllowWorkAnonymous: true}, "", nil, nil, "push", "ok", "push"},
		"anonymous rules alone open nothing":    {router.Queue{AllowPushAnonymous: true, AllowWorkAnonymous: true}, "", nil, nil, "", "103", ""},
		"a capability to push":                  {router.Queue{}, "42", caps(`"pub"`), nil, "push", "103", ""},
		"a capability to work":                  {router.Queue{}, "42", caps(`"sub"`), nil, "", "ok", ""},
		"a capability for dead letters":         {router.Queue{}, "42", caps(`"dlq"`), nil, "dead redrive", "103", ""},
		"capabilities of channels give nothing": {router.Queue{}, "42", caps(`"hst","prs"`), nil, "", "103", ""},
		"a subscription token":                  {router.Queue{}, "42", nil, []string{}, "", "ok", ""},
		"a subscription token with more":        {router.Queue{}, "42", nil, []string{"pub", "dlq"}, "", "ok", "push dead redrive"},
	} {
		t.Run(who, func(t *testing.T) {
			srv := newTestServer(t, newFakeRouter(), withQueue(&fakeQueues{}, tc.rules))
			c := newMatrixClient(t, srv)
			signer, err := token.NewHMACSigner("secret")
			if err != nil {
				t.Fatal(err)
			}
			if got := c.do("connect", fmt.Sprintf(`{"token":%q}`, must(signer.Connection(token.Connection{User: tc.user}, tc.caps)))); got != "ok" {
				t.Fatalf("connect: %s", got)
			}
			check := func(when, can string) {
				t.Helper()
				for op, data := range map[string]string{"push": `{"queue":"jobs","data":1}`, "dead": `{"queue":"jobs"}`, "redrive": `{"queue":"jobs","all":true}`} {
					want := "103"
					if strings.Contains(can, op) {
						want = "ok"
					}
					if got := c.do("rpc", `{"method":"queue.`+op+`","data":`+data+`}`); got != want {
						t.Errorf("%s %s: %s, want %s", op, when, got, want)
					}
				}
			}
			check("before", tc.can)
			text := ""
			if tc.sub != nil {
				var allow router.Ops
				for _, name := range tc.sub {
					allow |= map[string]router.Ops{"pub": router.OpsOf(router.OpPublish), "dlq": router.OpsOf(router.OpDeadLetters)}[name]
				}
				text = mustMintSub(token.Subscription{User: tc.user, Channel: "queue:jobs", Allow: allow})
			}
			if got := c.do("subscribe", fmt.Sprintf(`{"channel":"queue:jobs","token":%q}`, text)); got != tc.join {
				t.Fatalf("subscribe: %s, want %s", got, tc.join)
			}
			if tc.join == "ok" {
				check("after", tc.then)
			}
		})
	}
}

// What channels can do, queues refuse with a word on what to do instead.
func TestQueueIsNoChannel(t *testing.T) {
	for _, command := range []string{
		`"publish":{"channel":"queue:jobs","data":1}`, `"history":{"channel":"queue:jobs"}`,
		`"presence":{"channel":"queue:jobs"}`, `"presence_stats":{"channel":"queue:jobs"}`,
	} {
		_, _, tr := play(t, newFakeRouter(), withQueue(&fakeQueues{}, openQueue), connectUser, `{"id":2,`+command+`}`)
		frames := tr.take()
		if got := frames[len(frames)-1]; !strings.Contains(got, `"code":108,"message":"this channel is a queue: `) {
			t.Errorf("%s: %s", command, got)
		}
	}
	_, _, tr := play(t, newFakeRouter(), withQueue(&fakeQueues{}, openQueue), connectUser, `{"id":2,"subscribe":{"channel":"queue:other"}}`)
	if got := strings.Join(tr.take(), "\n"); !strings.Contains(got, `"code":108,"message":"no queue of that name"`) {
		t.Error(got)
	}
}

func TestPushesCountForTheUsersLimit(t *testing.T) {
	f, limit := &fakeQueues{}, &userQuota{left: map[string]int{"42": 1}}
	with := withQueue(f, openQueue)
	push := `{"id":2,"rpc":{"method":"queue.push","data":{"queue":"jobs","data":1}}}`
	_, _, tr := play(t, newFakeRouter(), func(c *Config) { with(c); c.UserLimit = limit }, connectUser, push, push)
	if got := strings.Join(tr.take(), "\n"); len(f.pushed) != 1 || !strings.Contains(got, `"code":111`) {
		t.Errorf("pushed %d, got %s", len(f.pushed), got)
	}
}

func TestDrainTakesQueuesBeforeClientsLeave(t *testing.T) {
	f := &fakeQueues{}
	with := withQueue(f, openQueue)
	s, _, tr := play(t, newFakeRouter(), func(c *Config) { with(c); c.DrainWindow = time.Millisecond }, connectUser, subscribeJobs(1))
	f.asked()
	if err := s.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, want := f.asked(), []string{"drain 5.001s", "close 5s"}; !slices.Equal(got, want) || tr.closed() != 3001 {
		t.Errorf("asked %v, want %v; closed %d", got, want, tr.closed())
	}
}

// A token whose time is over is told as such, and nobody works.
func TestExpiredTokenOfAWorker(t *testing.T) {
	text := mustMintSub(token.Subscription{User: "42", Channel: "queue:jobs", ExpireAt: time.Now().Add(-time.Minute).Unix()})
	f := &fakeQueues{}
	_, _, tr := play(t, newFakeRouter(), withQueue(f, openQueue), connectUser, `{"id":2,"subscribe":{"channel":"queue:jobs","token":"`+text+`"}}`)
	if got := strings.Join(tr.take(), "\n"); !strings.Contains(got, `"error":{"code":109,"message":"token expired"`) || len(f.asked()) != 0 {
		t.Error(got)
	}
	ends := time.Now().Add(5 * time.Second)
	text = mustMintSub(token.Subscription{User: "42", Channel: "queue:jobs", ExpireAt: ends.Unix()})
	_, sess, tr := play(t, newFakeRouter(), withQueue(f, openQueue), connectUser, `{"id":2,"subscribe":{"channel":"queue:jobs","token":"`+text+`"}}`)
	f.asked()
	sess.tick(ends.Add(time.Minute))
	if got := strings.Join(tr.take(), "\n"); !strings.Contains(got, `"unsubscribe":{"code":2501`) || !slices.Equal(f.asked(), []string{"close 5s"}) {
		t.Errorf("when the token ends: %s", got)
	}
}

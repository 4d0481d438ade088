package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/headrace/headrace/internal/natstest"
)

// callAPI calls the server API and returns the whole answer.
type callAPI func(t *testing.T, method, body string) string

func overHTTP(url string) callAPI {
	return func(t *testing.T, method, body string) string {
		t.Helper()
		resp, err := http.Post(url+"/api/"+method, "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var b bytes.Buffer
		if _, err := b.ReadFrom(resp.Body); err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(b.String())
	}
}

func overNATS(nc *nats.Conn) callAPI {
	return func(t *testing.T, method, body string) string {
		t.Helper()
		m, err := nc.Request("hr.api."+method, []byte(body), 20*time.Second)
		if err != nil {
			t.Fatalf("%s: %v", method, err)
		}
		return string(m.Data)
	}
}

// taken is what these tests need of a job.
type taken struct {
	ID, Token, Priority string
	Attempt             int
	LastError           string `json:"last_error"`
	Redriven            int
	Data                json.RawMessage
}

// pullJobs takes jobs until it has n of them.
func pullJobs(t *testing.T, url, queue string, n int) []taken {
	t.Helper()
	var all []taken
	for deadline := time.Now().Add(30 * time.Second); len(all) < n; {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d jobs came; stats %s", len(all), n, overHTTP(url)(t, "queue_stats", fmt.Sprintf(`{"queue":%q}`, queue)))
		}
		var answer struct {
			Result struct{ Jobs []taken }
		}
		text := overHTTP(url)(t, "queue_pull", fmt.Sprintf(`{"queue":%q,"max":%d,"wait":"2s"}`, queue, min(n-len(all), 100)))
		if err := json.Unmarshal([]byte(text), &answer); err != nil || answer.Result.Jobs == nil {
			t.Fatalf("pull: %s", text)
		}
		all = append(all, answer.Result.Jobs...)
	}
	return all
}

// serveQueues runs a node with the queues http and nats, for a transport each.
func serveQueues(t *testing.T) (url string, nc *nats.Conn) {
	server := natstest.Run(t, natstest.Listen())
	url = startServe(t, "--insecure", "--nats", server.ClientURL(),
		"--set", `queues=[{"name":"http","backoff":{"base":"10ms","cap":"10ms"}},{"name":"nats","backoff":{"base":"10ms","cap":"10ms"}},{"name":"small","max_jobs":1},{"name":"cli"}]`)
	return url, server.Conn()
}

// queueStep is one call and its answer. JOB in a body is the token of the job taken last.
type queueStep struct {
	method, body, want string
}

const takeJob = "take a job" // instead of a method; want is its payload

var queueSteps = []queueStep{
	{"queue_list", `{}`, `{"result":{"queues":["cli","http","nats","small"]}}`},
	{"queue_push", `{"queue":"Q","data":{"n":1},"idempotency_key":"k","headers":{"a":"b"},"max_attempts":2}`, `{"result":{"id":"ID"}}`},
	{"queue_push", `{"queue":"Q","data":{"n":1},"idempotency_key":"k"}`, `{"result":{"duplicate":true}}`},
	{"queue_push", `{"queue":"Q","b64data":"/w==","delay":"1h","priority":"low"}`, `{"result":{"id":"ID"}}`},
	{"queue_push", `{"queue":"Q"}`, `{"error":{"code":107,"message":"data is missing"}}`},
	{"queue_push", `{"data":1}`, `{"error":{"code":107,"message":"queue is missing"}}`},
	{"queue_push", `{"queue":"nowhere","data":1}`, `{"error":{"code":108,"message":"no queue of that name"}}`},
	{"queue_push", `{"queue":"Q","data":1,"priority":"urgent"}`, `{"error":{"code":107,"message":"priority is neither high, medium nor low"}}`},
	{"queue_push", `{"queue":"Q","data":1,"headers":{"a":"` + strings.Repeat("x", 17000) + `"}}`, `{"error":{"code":106,"message":"the headers of the job are larger than 16384 bytes"}}`},
	{"queue_stats", `{"queue":"Q"}`, `{"result":{"queues":[{"queue":"Q","depth":{"high":0,"low":0,"medium":1},"in_flight":{"high":0,"low":0,"medium":0},"scheduled":1,"dead":0,"oldest_seconds":N,"paused":false}]}}`},
	{"queue_stats", `{"queue":"nowhere"}`, `{"error":{"code":108,"message":"no queue of that name"}}`},
	{takeJob, ``, `{"n":1}`},
	{"queue_extend", `{"queue":"Q","token":"JOB"}`, `{"result":{}}`},
	{"queue_extend", `{"queue":"Q","token":"x"}`, `{"error":{"code":107,"message":"the job token is not valid"}}`},
	{"queue_ack", `{"queue":"small","token":"JOB"}`, `{"error":{"code":107,"message":"the job token is not valid"}}`},
	{"queue_nack", `{"queue":"Q","token":"JOB","error":"no paper","delay":"soon"}`, `{"error":{"code":107,"message":"delay is not a duration such as 500ms or 1m30s"}}`},
	{"queue_nack", `{"queue":"Q","token":"JOB","error":"no paper","idempotency_key":"Q"}`, `{"result":{}}`},
	{"queue_nack", `{"queue":"Q","token":"JOB","error":"no paper","idempotency_key":"Q"}`, `{"result":{}}`},
	{takeJob, ``, `{"n":1}`},
	{"queue_nack", `{"queue":"Q","token":"JOB","error":"no ink"}`, `{"result":{}}`},
	{"dlq_list", `{"queue":"Q"}`, `{"result":{"dead":[{"seq":1,"id":"ID","priority":"medium","time":"T","reason":"attempts","error":"no ink","attempts":2,"data":{"n":1},"headers":{"a":"b"},"origin":{"subject":"hr.job.Q.medium","seq":1,"time":"T"}}],"next":2}}`},
	{"dlq_list", `{"queue":"Q","from":2}`, `{"result":{"dead":[]}}`},
	{"dlq_list", `{"queue":"Q","limit":1001}`, `{"error":{"code":107,"message":"limit is not within 1 to 1000"}}`},
	{"dlq_show", `{"queue":"Q","seq":1}`, `{"result":{"seq":1,"id":"ID","priority":"medium","time":"T","reason":"attempts","error":"no ink","attempts":2,"data":{"n":1},"headers":{"a":"b"},"origin":{"subject":"hr.job.Q.medium","seq":1,"time":"T"}}}`},
	{"dlq_show", `{"queue":"Q","seq":9}`, `{"error":{"code":107,"message":"no such dead letter"}}`},
	{"dlq_show", `{"queue":"Q"}`, `{"error":{"code":107,"message":"seq is missing"}}`},
	{"dlq_redrive", `{"queue":"Q"}`, `{"error":{"code":107,"message":"either seqs or all is needed"}}`},
	{"dlq_redrive", `{"queue":"Q","seqs":[1],"limit":5}`, `{"error":{"code":107,"message":"from and limit belong to all"}}`},
	{"dlq_redrive", `{"queue":"Q","seqs":[1,7]}`, `{"result":{"redriven":1}}`},
	{"dlq_redrive", `{"queue":"Q","seqs":[1,7]}`, `{"result":{"redriven":0}}`},
	{takeJob, ``, `{"n":1}`},
	{"queue_nack", `{"queue":"Q","token":"JOB","error":"not so","final":true}`, `{"result":{}}`},
	{"dlq_purge", `{"queue":"Q","all":true,"seqs":[1]}`, `{"error":{"code":107,"message":"either seqs or all is needed"}}`},
	{"dlq_purge", `{"queue":"Q","all":true}`, `{"result":{"purged":1,"next":3}}`},
	{"dlq_purge", `{"queue":"Q","all":true,"from":3}`, `{"result":{"purged":0}}`},
	{"queue_pause", `{"queue":"Q"}`, `{"result":{}}`},
	{"queue_stats", `{"queue":"Q"}`, `{"result":{"queues":[{"queue":"Q","depth":{"high":0,"low":0,"medium":0},"in_flight":{"high":0,"low":0,"medium":0},"scheduled":1,"dead":0,"oldest_seconds":N,"paused":true}]}}`},
	{"queue_nack", `{"queue":"Q","token":"JOB","error":"no paper"}`, `{"error":{"code":105,"message":"the job was ended before"}}`},
	{"queue_resume", `{"queue":"Q"}`, `{"result":{}}`},
	{"queue_resume", `{}`, `{"error":{"code":107,"message":"queue is missing"}}`},
	{"queue_push", `{"queue":"Q","data":"ack me"}`, `{"result":{"id":"ID"}}`},
	{takeJob, ``, `"ack me"`},
	{"queue_ack", `{"queue":"Q","token":"JOB"}`, `{"result":{}}`},
	{"queue_ack", `{"queue":"Q","token":"JOB"}`, `{"result":{}}`},
	{"batch", `{"commands":[{"queue_push":{"queue":"Q","data":1,"delay":"1h"}},{"queue_pull":{"queue":"Q"}},{"queue_push":{"queue":"Q","prio":1}}]}`,
		`{"result":{"replies":[{"queue_push":{"id":"ID"}},{"error":{"code":107,"message":"a queue_pull within a batch"}},{"error":{"code":107,"message":"request: unknown field \"prio\""}}]}}`},
}

var queueVolatile = []struct{ re, with string }{
	{`"id":"[^"]+"`, `"id":"ID"`}, {`"time":"[^"]+"`, `"time":"T"`}, {`"oldest_seconds":[0-9.]+`, `"oldest_seconds":N`},
}

// Every method, over both transports.
func TestQueueAPI(t *testing.T) {
	url, nc := serveQueues(t)
	for queue, call := range map[string]callAPI{"http": overHTTP(url), "nats": overNATS(nc)} {
		t.Run(queue, func(t *testing.T) {
			token := ""
			for _, step := range queueSteps {
				if step.method == takeJob {
					job := pullJobs(t, url, queue, 1)[0]
					if token = job.Token; string(job.Data) != step.want {
						t.Errorf("took %s, want %s", job.Data, step.want)
					}
					continue
				}
				body := strings.NewReplacer(`"Q"`, `"`+queue+`"`, "JOB", token).Replace(step.body)
				answer := call(t, step.method, body)
				for _, v := range queueVolatile {
					answer = regexp.MustCompile(v.re).ReplaceAllString(answer, v.with)
				}
				if want := strings.NewReplacer(`"Q"`, `"`+queue+`"`, ".Q.", "."+queue+".").Replace(step.want); answer != want {
					t.Errorf("%s %s\nanswered %s\nwant     %s", step.method, step.body, answer, want)
				}
			}
		})
	}
}

// A full queue is a clear error over HTTP, where the status of a mistake differs too.
func TestQueueAPIRefusals(t *testing.T) {
	url, nc := serveQueues(t)
	call := overHTTP(url)
	for _, step := range []queueStep{
		{"queue_push", `{"queue":"small","data":1}`, `"id"`},
		{"queue_push", `{"queue":"small","data":2}`, `{"error":{"code":106,"message":"the queue is full"}}`},
		{"queue_push", `{"queue":"small","delay":7}`, `{"error":{"code":400,"message":"field \"delay\" at byte 26 must be a string, not a number"}}`},
		{"queue_pull", `{"queue":"small","max":101}`, `max is not within 1 to 100`},
		{"queue_pull", `{"queue":"small","wait":"1m"}`, `wait is longer than 20s`},
		{"queue_pull", `{"queue":"small","hold":"1ms"}`, `hold is not within 100ms to 24h0m0s`},
		{"queue_pull", `{"queue":"small","hold":"x"}`, `hold is not a duration`},
		{"queue_pull", `{"queue":"nowhere"}`, `{"error":{"code":108,"message":"no queue of that name"}}`},
		{"queue_pull", `{"queue":"cli","wait":"0s"}`, `{"result":{"jobs":[]}}`},
	} {
		if got := call(t, step.method, step.body); !strings.Contains(got, step.want) {
			t.Errorf("%s %s\nanswered %s\nwant     %s", step.method, step.body, got, step.want)
		}
	}
	if _, err := nc.Request("hr.api.queue_pull", []byte(`{"queue":"small"}`), time.Second); err == nil {
		t.Error("queue_pull is offered on NATS")
	}
}

package edge

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/headrace/headrace/router"
)

func TestQueuePushRequest(t *testing.T) {
	for name, tt := range map[string]struct{ body, want string }{ // want is the error
		"everything":               {`{"queue":"jobs","data":{"n":1},"headers":{"a":"b"},"priority":"high","delay":"1m30s","idempotency_key":"k","max_attempts":2,"backoff":{"base":"2s","factor":3,"cap":"1m","jitter":0}}`, ""},
		"a due time":               {`{"queue":"jobs","data":1,"at":"2026-11-21T10:00:00.5Z"}`, ""},
		"other bytes":              {`{"queue":"jobs","b64data":"AAE="}`, ""},
		"no bytes":                 {`{"queue":"jobs","b64data":""}`, ""},
		"no payload":               {`{"queue":"jobs"}`, "data is missing"},
		"two payloads":             {`{"queue":"jobs","data":1,"b64data":"AAE="}`, "data and b64data exclude each other"},
		"a number for a delay":     {`{"queue":"jobs","data":1,"delay":5}`, `field "delay" at byte 34 must be a string, not a number`},
		"a delay without unit":     {`{"queue":"jobs","data":1,"delay":"5"}`, "delay is not a duration such as 500ms or 1m30s"},
		"a negative delay":         {`{"queue":"jobs","data":1,"delay":"-5s"}`, "delay is not a duration such as 500ms or 1m30s"},
		"a bad time":               {`{"queue":"jobs","data":1,"at":"tomorrow"}`, "at is not a time such as 2030-01-31T08:00:00Z"},
		"a bad base":               {`{"queue":"jobs","data":1,"backoff":{"base":"x"}}`, "backoff.base is not a duration such as 500ms or 1m30s"},
		"a bad cap":                {`{"queue":"jobs","data":1,"backoff":{"cap":"x"}}`, "backoff.cap is not a duration such as 500ms or 1m30s"},
		"an unknown field":         {`{"queue":"jobs","data":1,"prio":"high"}`, `request: unknown field "prio"`},
		"an unknown field, nested": {`{"queue":"jobs","data":1,"backoff":{"max":"1s"}}`, `request: unknown field "max"`},
		"something after it":       {`{"queue":"jobs","data":1} {}`, "request: there is something after the JSON"},
		"no JSON":                  {`{"queue"`, "request: unexpected EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			var r queuePushRequest
			err := strictJSON([]byte(tt.body), &r)
			if err == nil {
				_, err = r.job("u")
			}
			switch {
			case tt.want == "" && err != nil:
				t.Error(err)
			case tt.want != "" && (err == nil || apiFailure(err).Message != tt.want || apiFailure(err).Code != 107):
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

func TestQueuePushRequestSaysWhatItMeans(t *testing.T) {
	var r queuePushRequest
	body := `{"queue":"q","data": {"n": 1},"headers":{"a":"b"},"priority":"high","delay":"1m30s","idempotency_key":"k","max_attempts":2,"backoff":{"base":"1m","jitter":0}}`
	if err := strictJSON([]byte(body), &r); err != nil {
		t.Fatal(err)
	}
	got, err := r.job("u")
	want := router.NewJob{
		User: "u", Payload: []byte(`{"n": 1}`), Headers: map[string]string{"a": "b"}, Priority: router.PriorityHigh, Delay: 90 * time.Second,
		IdempotencyKey: "k", MaxAttempts: 2, Backoff: &router.Backoff{Base: time.Minute, Cap: time.Minute, Factor: 2},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v, %v\nwant %+v", got, err, want)
	}
}

func TestQueueJSON(t *testing.T) {
	at := time.Date(2026, 11, 21, 10, 0, 0, 5, time.UTC)
	origin := router.Origin{Subject: "hr.job.q.high", Seq: 7, Time: at}
	const originText = `"origin":{"subject":"hr.job.q.high","seq":7,"time":"2026-11-21T10:00:00.000000005Z"}`
	for name, tt := range map[string]struct {
		v    any
		want string
	}{
		"a job": {
			toQueueJob(&router.Job{ID: "i", Queue: "q", Priority: "high", Attempt: 2, MaxAttempts: 4, Token: "t", Payload: []byte("{\n}"),
				Headers: map[string]string{"a": "b"}, Origin: origin, LastError: "e", Redriven: 1}),
			`{"id":"i","queue":"q","priority":"high","attempt":2,"max_attempts":4,"token":"t","data":{},"headers":{"a":"b"},` + originText + `,"last_error":"e","redriven":1}`,
		},
		"a job of other bytes": {
			toQueueJob(&router.Job{ID: "i", Queue: "q", Priority: "high", Attempt: 1, MaxAttempts: 4, Token: "t", Payload: []byte("\"\xff\""), Origin: origin}),
			`{"id":"i","queue":"q","priority":"high","attempt":1,"max_attempts":4,"token":"t","b64data":"Iv8i",` + originText + `}`,
		},
		"a dead letter": {
			toQueueDead(&router.DeadLetter{Seq: 3, ID: "i", Priority: "low", Time: at, Reason: router.DeadFinal, Error: "e", Attempts: 1, Payload: []byte(`1`), Origin: origin}),
			`{"seq":3,"id":"i","priority":"low","time":"2026-11-21T10:00:00.000000005Z","reason":"final","error":"e","attempts":1,"data":1,` + originText + `}`,
		},
		"stats": {
			toQueueStats("q", &router.QueueStats{Depth: map[router.Priority]uint64{"high": 1}, Oldest: 1500 * time.Millisecond, Dead: 2}),
			`{"queue":"q","depth":{"high":1},"in_flight":null,"scheduled":0,"dead":2,"oldest_seconds":1.5,"paused":false}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := json.Marshal(tt.v); err != nil || string(got) != tt.want {
				t.Errorf("got  %s, %v\nwant %s", got, err, tt.want)
			}
		})
	}
}

func FuzzQueuePushRequest(f *testing.F) {
	f.Add([]byte(`{"queue":"jobs","data":{"n":1},"headers":{"a":"b"},"delay":"1s","at":"2026-11-21T10:00:00Z","backoff":{"base":"2s","factor":3}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var r queuePushRequest
		if strictJSON(body, &r) != nil {
			return
		}
		j, err := r.job("")
		if err == nil && (j.Payload == nil || j.Delay < 0) {
			t.Errorf("%s became %+v", body, j)
		}
	})
}

package webhook

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// answer returns a receiver that answers with a status and headers.
func answer(status int, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, "because\x1b[31m\r\nof  this")
	}
}

// hijacked returns one that sends text and closes the connection.
func hijacked(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			panic(err)
		}
		_, _ = io.WriteString(c, text)
		c.Close()
	}
}

func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// drip returns one whose body never ends, a byte at a time.
func drip(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(status)
		for r.Context().Err() == nil {
			_, _ = w.Write([]byte("x"))
			w.(http.Flusher).Flush()
			time.Sleep(100 * time.Millisecond) // virtual: the drip
		}
	}
}

func huge(w http.ResponseWriter, r *http.Request) {
	w.WriteHeader(http.StatusInternalServerError)
	for b := make([]byte, 1<<20); r.Context().Err() == nil; {
		if _, err := w.Write(b); err != nil {
			return
		}
	}
}

type answerCase struct {
	h     http.HandlerFunc
	want  string // of the error, "" is an ack
	final bool
	delay time.Duration
	took  time.Duration // at most
}

// TestAnswers is the table of docs/queue.md, over the wire.
func TestAnswers(t *testing.T) {
	for name, tt := range map[string]answerCase{
		"200":                         {h: answer(200)},
		"204":                         {h: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }},
		"202 with a slow drip":        {h: drip(202), took: 2 * time.Second},
		"408":                         {h: answer(408), want: "408 Request Timeout: because?[31m??of this"},
		"425":                         {h: answer(425), want: "425 Too Early"},
		"429":                         {h: answer(429), want: "429 Too Many Requests"},
		"429 with Retry-After":        {h: answer(429, "Retry-After", "7"), want: "429", delay: 7 * time.Second},
		"503 with a date":             {h: answer(503, "Retry-After", "Sat, 01 Jan 2000 00:00:50 GMT"), want: "503", delay: 50 * time.Second},
		"503 with a date gone by":     {h: answer(503, "Retry-After", "Sat, 01 Jan 1999 00:00:50 GMT"), want: "503"},
		"500 with Retry-After":        {h: answer(500, "Retry-After", "7"), want: "500", delay: 7 * time.Second},
		"503 with a huge Retry-After": {h: answer(503, "Retry-After", "99999999999999999999"), want: "503", delay: time.Hour},
		"500":                         {h: answer(500), want: "the endpoint answered 500 Internal Server Error"},
		"599":                         {h: answer(599), want: "answered 599"},
		"400":                         {h: answer(400), want: "400 Bad Request", final: true},
		"404":                         {h: answer(404), want: "404 Not Found", final: true},
		"410":                         {h: answer(410), want: "410 Gone", final: true},
		"400 with Retry-After":        {h: answer(400, "Retry-After", "7"), want: "400", final: true},
		"redirect":                    {h: answer(302, "Location", "http://169.254.169.254/"), want: "302 Found: redirects are not followed", final: true},
		"hangs":                       {h: hang, want: "did not answer within 10s", took: 11 * time.Second},
		"cut before the answer":       {h: hijacked(""), want: "connection to the endpoint broke"},
		"cut in the header":           {h: hijacked("HTTP/1.1 200 O"), want: "connection to the endpoint broke"},
		"no HTTP":                     {h: hijacked("hello there\r\n\r\n"), want: "connection to the endpoint broke"},
		"cut in the body of a 200":    {h: hijacked("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nxx")},
		"huge header":                 {h: hijacked("HTTP/1.1 200 OK\r\nA: " + strings.Repeat("x", 1<<20)), want: "connection to the endpoint broke"},
		"huge body":                   {h: huge, want: "500 Internal Server Error"},
		"500 with a slow drip":        {h: drip(500), want: "500 Internal Server Error: xx", took: 2 * time.Second},
	} {
		t.Run(name, func(t *testing.T) { synctest.Test(t, tt.run) })
	}
}

func (tt *answerCase) run(t *testing.T) {
	r, q := serve(t, tt.h), newFakeQueue()
	_, stop := work(t, q, testEndpoint(), r.dial)
	began := time.Now()
	q.put(testJob("1"))
	e := q.next(t)
	took := time.Since(began)
	stop()
	r.stop()
	if took > max(tt.took, time.Second) {
		t.Errorf("took %v", took)
	}
	if tt.want == "" || e.nack == nil {
		if (tt.want == "") != (e.nack == nil) {
			t.Errorf("ended as %+v, want %q", e.nack, tt.want)
		}
		return
	}
	if !strings.Contains(e.nack.Error, tt.want) || len(e.nack.Error) > 1024 || e.nack.Final != tt.final || e.nack.Delay != tt.delay {
		t.Errorf("ended as %+v", e.nack)
	}
}

func FuzzRetryAfter(f *testing.F) {
	for _, s := range []string{"", "0", "120", "-1", "1.5", "99999999999999999999", "Sat, 01 Jan 2000 00:00:50 GMT", "Saturday, 01-Jan-00 00:00:50 GMT", "Sat Jan  1 00:00:50 2000"} {
		f.Add(s, int64(946684800))
	}
	f.Fuzz(func(t *testing.T, s string, unix int64) {
		now := time.Unix(unix%(1<<33), 0)
		d, ok := parseRetryAfter(s, now)
		if ok != (d > 0) || d > 365*24*time.Hour {
			t.Errorf("%q is %v %v", s, d, ok)
		}
		for _, status := range []int{429, 500, 503} {
			if o := judge(status, s, now); o.delay < 0 || o.delay > maxRetryAfter || o.pause > maxPause || ok && o.delay == 0 {
				t.Errorf("%d %q: %+v", status, s, o)
			}
		}
	})
}

func TestRetryAfterForms(t *testing.T) {
	now := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	for s, want := range map[string]time.Duration{
		"": 0, "0": 0, "-1": 0, "1.5": 0, "soon": 0, "1": time.Second, " 120 ": 2 * time.Minute, "007": 7 * time.Second,
		"Sat, 01 Jan 2000 00:00:50 GMT": 50 * time.Second, "Saturday, 01-Jan-00 00:00:50 GMT": 50 * time.Second,
		"Sat Jan  1 00:00:50 2000": 50 * time.Second, "Fri, 31 Dec 1999 23:59:59 GMT": 0,
	} {
		if d, ok := parseRetryAfter(s, now); d != want || ok != (want > 0) {
			t.Errorf("%q is %v", s, d)
		}
	}
}

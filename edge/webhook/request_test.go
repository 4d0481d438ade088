package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headrace/headrace/router"
)

// verify is a receiver's side of Standard Webhooks 1.0.0, written from its text
// and sharing nothing with sign.
func verify(h http.Header, body, key []byte) bool {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(strings.Join([]string{h.Get("webhook-id"), h.Get("webhook-timestamp"), string(body)}, ".")))
	want := mac.Sum(nil)
	return slices.ContainsFunc(strings.Split(h.Get("webhook-signature"), " "), func(s string) bool {
		version, text, _ := strings.Cut(s, ",")
		got, err := base64.StdEncoding.DecodeString(text)
		return version == "v1" && err == nil && hmac.Equal(got, want)
	})
}

func TestRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type seen struct {
			*http.Request
			body []byte
		}
		got := make(chan seen, 10)
		r := serve(t, func(_ http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			got <- seen{r, body}
		})
		q := newFakeQueue()
		_, stop := work(t, q, testEndpoint(), r.dial)
		j := testJob("abc-7")
		j.Redriven, j.Origin = 1, router.Origin{Subject: "hr.job.q.medium", Seq: 7, Time: time.Unix(5, 6)}
		j.Headers = map[string]string{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "Host": "evil\r\nX: y", "ü": "é"}
		q.put(j)
		s := <-got
		q.next(t)
		for _, key := range []string{"my-very-secret-key-of-32-bytes!!", testPrevious} {
			if !verify(s.Header, s.body, []byte(key)) || verify(s.Header, append(s.body, ' '), []byte(key)) {
				t.Errorf("signature %s does not verify with %s", s.Header.Get("Webhook-Signature"), key)
			}
		}
		if verify(s.Header, s.body, []byte("another key, which is not known")) {
			t.Error("the signature verifies with any key")
		}
		for name, want := range map[string]string{
			"Content-Type": "application/json", "Webhook-Id": "abc-7", "Webhook-Timestamp": "946684800", "Headrace-Queue": "q",
			"Headrace-Job-Id": "abc-7", "Headrace-Attempt": "2", "Headrace-Max-Attempts": "4", "Headrace-Priority": "medium",
			"Headrace-Origin-Subject": "hr.job.q.medium", "Headrace-Origin-Sequence": "7", "Headrace-Origin-Time": "1970-01-01T00:00:05.000000006Z",
			"Headrace-Redriven": "1", "X-Key": "header-secret", "Traceparent": j.Headers["traceparent"], "Authorization": "Basic dXNlcjpsb2dpbi1zZWNyZXQ=",
			"User-Agent": "Headrace", "Accept-Encoding": "", "X": "",
		} {
			if s.Header.Get(name) != want {
				t.Errorf("%s is %q, want %q", name, s.Header.Get(name), want)
			}
		}
		if h, err := router.DecodeJobHeaders([]byte(s.Header.Get("Headrace-Headers"))); err != nil || h["ü"] != "é" || h["Host"] != j.Headers["Host"] {
			t.Errorf("job headers %q: %v", h, err)
		}
		if s.Method != http.MethodPost || s.Host != "jobs.example" || s.URL.RequestURI() != "/hook?x=1" || string(s.body) != string(j.Payload) {
			t.Errorf("%s %s %s %s", s.Method, s.Host, s.URL, s.body)
		}
		j = testJob("2")
		j.Payload = []byte{0, 255}
		q.put(j)
		if s := <-got; s.Header.Get("Content-Type") != "application/octet-stream" || string(s.body) != "\x00\xff" {
			t.Errorf("binary: %s %q", s.Header.Get("Content-Type"), s.body)
		}
		q.next(t)
		stop()
		r.stop()
	})
}

func TestEndpointsAreChecked(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*Endpoint)
		want   []string // none: fine
	}{
		"as in the tests":   {func(*Endpoint) {}, nil},
		"https":             {func(e *Endpoint) { e.URL = "https://a:8443" }, nil},
		"no secret":         {func(e *Endpoint) { e.Secret = "" }, []string{"webhook.secret is missing", "openssl"}},
		"short":             {func(e *Endpoint) { e.Secret = "0123456789-0123456789-0" }, []string{"webhook.secret is shorter than 24 bytes"}},
		"short in base64":   {func(e *Endpoint) { e.Secret = "whsec_MDEyMzQ1Njc4OS0wMTIzNDU2Nzg5LTA=" }, []string{"webhook.secret is not 24 to 64 bytes"}},
		"no base64":         {func(e *Endpoint) { e.Previous = "whsec_%%%" }, []string{"webhook.previous_secret is not base64"}},
		"other scheme":      {func(e *Endpoint) { e.URL = "ftp://u:login-secret@a" }, []string{"webhook.url is no http"}},
		"unreadable":        {func(e *Endpoint) { e.URL = "http://u:login-secret@a:%%%" }, []string{"webhook.url is no http"}},
		"no host":           {func(e *Endpoint) { e.URL = "http:///x" }, []string{"webhook.url has no host"}},
		"fragment":          {func(e *Endpoint) { e.URL = "http://a/#x" }, []string{"webhook.url has a fragment"}},
		"concurrency":       {func(e *Endpoint) { e.Concurrency = 0 }, []string{"webhook.concurrency 0 is not within 1 to 1000"}},
		"timeout":           {func(e *Endpoint) { e.Timeout = 2 * time.Hour }, []string{"webhook.timeout 2h0m0s is not within"}},
		"idle":              {func(e *Endpoint) { e.MaxIdle, e.IdleTimeout = -1, 0 }, []string{"webhook.max_idle", "webhook.idle_timeout"}},
		"header of ours":    {func(e *Endpoint) { e.Headers = []string{"webhook-id: header-secret"} }, []string{"webhook.headers entry 1 (Webhook-Id)"}},
		"header of framing": {func(e *Endpoint) { e.Headers = []string{"A: b", "content-length: 3"} }, []string{"webhook.headers entry 2 (Content-Length)"}},
		"header of nothing": {func(e *Endpoint) { e.Headers = []string{"header-secret"} }, []string{`webhook.headers entry 1 is not "Name: value"`}},
		"header injection":  {func(e *Endpoint) { e.Headers = []string{"A: b\r\nC: d"} }, []string{"webhook.headers entry 1 (A)"}},
		"no CA file":        {func(e *Endpoint) { e.CA = "no-such-file.pem" }, []string{"webhook.ca open no-such-file.pem"}},
		"no CA":             {func(e *Endpoint) { e.CA = "sign.go" }, []string{"webhook.ca sign.go holds no PEM"}},
	} {
		e := testEndpoint()
		tt.change(&e)
		err := e.Validate()
		if len(tt.want) == 0 && err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, want := range tt.want {
			if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "-secret") {
				t.Errorf("%s: %v, want %q", name, err, want)
			}
		}
	}
}

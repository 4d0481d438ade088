package webui

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
)

func TestPageAndItsFilesAreServed(t *testing.T) {
	h := Handler(nil, nil)
	for _, path := range []string{"/", "/app.js", "/style.css", "/queue.html", "/queue.js", "/queue.css", "/vendor/centrifuge.js", "/vendor/LICENSE.centrifuge"} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != http.StatusOK || w.Body.Len() == 0 {
			t.Errorf("GET %s = %d with %d bytes", path, w.Code, w.Body.Len())
		}
		if w.Header().Get("Content-Security-Policy") == "" {
			t.Errorf("GET %s has no content policy", path)
		}
	}
}

func TestPageLoadsNothingFromElsewhere(t *testing.T) {
	external := regexp.MustCompile(`(src|href)="(https?:)?//|import .*https?://|url\((https?:)?//|sourceMappingURL`)
	err := fs.WalkDir(static, "static", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(static, path)
		if m := external.Find(data); m != nil {
			t.Errorf("%s refers to %s", path, m)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestTokens(t *testing.T) {
	var minted []string
	h := Handler(func(user string, info []byte) (string, error) {
		minted = append(minted, user+" "+string(info))
		return "signed", nil
	}, nil)
	const good = `{"device":"0123456789abcdef","name":" Ada ","color":"#112233"}`
	for name, tt := range map[string]struct {
		body, contentType string
		want              int
	}{
		"good":              {good, "application/json", 200},
		"again":             {good, "application/json; charset=utf-8", 200},
		"a form":            {good, "text/plain", 415},
		"no JSON":           {"x", "application/json", 400},
		"no name":           {`{"device":"0123456789abcdef","name":" ","color":"#112233"}`, "application/json", 400},
		"guessable device":  {`{"device":"a","name":"Ada","color":"#112233"}`, "application/json", 400},
		"color with markup": {`{"device":"0123456789abcdef","name":"Ada","color":"red;x:y"}`, "application/json", 400},
		"too long":          {`{"device":"` + strings.Repeat("x", maxTokenRequest) + `"}`, "application/json", 400},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodPost, "/demo/token", strings.NewReader(tt.body))
			r.Header.Set("Content-Type", tt.contentType)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != tt.want {
				t.Errorf("status %d, want %d: %s", w.Code, tt.want, w.Body)
			}
		})
	}
	if len(minted) != 2 || minted[0] != minted[1] || !strings.Contains(minted[0], `"name":"Ada"`) {
		t.Errorf("minted %q, want the same user twice", minted)
	}
}

func TestStateOfQueues(t *testing.T) {
	asked, fail := 0, true
	h := Handler(nil, func(context.Context) ([]QueueState, error) {
		if asked++; fail {
			return nil, errors.New("secret detail")
		}
		return []QueueState{{Queue: "jobs", High: 1, OldestSeconds: 1.5}}, nil
	})
	get := func() *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/demo/queues", nil))
		return w
	}
	if w := get(); w.Code != http.StatusServiceUnavailable || strings.Contains(w.Body.String(), "secret") {
		t.Errorf("without an answer: %d %s", w.Code, w.Body)
	}
	fail = false
	for range 3 {
		want := `{"queues":[{"queue":"jobs","high":1,"medium":0,"low":0,"in_flight":0,"scheduled":0,"dead":0,"oldest_seconds":1.5,"paused":false}]}`
		if w := get(); w.Code != http.StatusOK || w.Body.String() != want {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	}
	if asked != 2 {
		t.Errorf("the queues were asked %d times, want once for three pages", asked)
	}
}

package webui

import (
	"io/fs"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
)

func TestPageAndItsFilesAreServed(t *testing.T) {
	h := Handler(nil)
	for _, path := range []string{"/", "/app.js", "/style.css", "/vendor/centrifuge.js", "/vendor/LICENSE.centrifuge"} {
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
	})
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

package router

import (
	"encoding/json"
	"strings"
	"testing"
)

func FuzzEncodeToken(f *testing.F) {
	for _, s := range []string{"", "a", "a.b", "..", "%", "%2E", "a b", "é", "\xff", "*.>"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		token := EncodeToken(s)
		if token == "" || strings.ContainsAny(token, ". *>\r\n\t\x00") {
			t.Fatalf("%q is %q, which is not one token", s, token)
		}
		if back, err := DecodeToken(token); err != nil || back != s {
			t.Fatalf("%q came back as %q: %v", s, back, err)
		}
		if back, err := DecodeToken(s); err == nil && EncodeToken(back) != s {
			t.Fatalf("%q and %q mean %q", s, EncodeToken(back), back)
		}
	})
}

func FuzzDecodeCustomAnswer(f *testing.F) {
	for _, s := range []string{`{"data":1}`, `{"data":null}`, `{"reject":"no"}`, `{"remove":true}`, `{"b64data":"AA=="}`, `{}`, `{"data":1,"remove":true}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := decodeCustomAnswer(data)
		if err == nil && a.Data == nil && a.B64Data == nil && a.Reject == "" && !a.Remove {
			t.Fatalf("%s decides nothing", data)
		}
	})
}

func FuzzMergePatch(f *testing.F) {
	f.Add([]byte(`{"a":{"b":1}}`), []byte(`{"a":{"b":null,"c":[1]}}`))
	f.Fuzz(func(t *testing.T, target, patch []byte) {
		if !json.Valid(patch) || len(target) > 0 && !json.Valid(target) {
			return
		}
		got, err := mergePatch(target, patch)
		if err != nil || !json.Valid(got) {
			t.Fatalf("%s patched with %s: %s %v", target, patch, got, err)
		}
	})
}

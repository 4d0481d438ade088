package token

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"
)

// provider is a JWKS endpoint whose answers a test decides. It answers without a
// socket, so that virtual time works.
type provider struct {
	mu     sync.Mutex // guards the fields below
	keys   jose.JSONWebKeySet
	status int
	body   string        // instead of keys when set
	gate   chan struct{} // when set, answers wait for it
	asked  atomic.Int32
}

func (p *provider) RoundTrip(r *http.Request) (*http.Response, error) {
	p.asked.Add(1)
	p.mu.Lock()
	gate := p.gate
	p.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	w := httptest.NewRecorder()
	if p.status != 0 {
		w.WriteHeader(p.status)
	}
	if p.body != "" {
		w.WriteString(p.body)
	} else {
		check(json.NewEncoder(w).Encode(p.keys))
	}
	return w.Result(), nil
}

func (p *provider) set(keys ...jose.JSONWebKey) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keys.Keys = keys
}

func (p *provider) fail(status int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status = status
}

func jwk(id string, k crypto.Signer) jose.JSONWebKey {
	return jose.JSONWebKey{Key: k.Public(), KeyID: id, Use: "sig"}
}

func (p *provider) verifier(t testing.TB) *Verifier {
	return newTestVerifier(t, Options{JWKSEndpoint: "https://idp.test/jwks", Transport: p})
}

// connect does what a session does.
func connect(v *Verifier, text string) error {
	_, err := v.Connection(text)
	var unknown *UnknownKeyError
	if errors.As(err, &unknown) {
		if err = unknown.Fetch(context.Background()); err == nil {
			_, err = v.Connection(text)
		}
	}
	return err
}

func es256(kid, key string) string {
	return sign(jwt.SigningMethodES256, testKeys()[key], jwt.MapClaims{"sub": "42"}, "kid", kid)
}

func TestKeyRotation(t *testing.T) {
	first, second := testKeys()["P-256"], testKeys()["P-384"]
	old := es256("a", "P-256")
	fresh := sign(jwt.SigningMethodES384, second, jwt.MapClaims{"sub": "42"}, "kid", "b")
	forged := sign(jwt.SigningMethodES384, second, jwt.MapClaims{"sub": "42"}, "kid", "a")
	synctest.Test(t, func(t *testing.T) {
		p := &provider{}
		p.set(jwk("a", first))
		v := p.verifier(t)
		want := func(what, text string, want error) {
			t.Helper()
			if err := connect(v, text); !errors.Is(err, want) || (err == nil) != (want == nil) {
				t.Errorf("%s: %v, want %v", what, err, want)
			}
		}
		want("the first token fetches its key", old, nil)
		want("an invented id, just after a fetch", es256("x", "P-256"), ErrUnavailable)
		time.Sleep(fetchEvery) // virtual
		want("an invented id", es256("x", "P-256"), ErrInvalid)
		want("another key with a known id", forged, ErrInvalid)
		p.set(jwk("a", first), jwk("b", second))
		want("a new key, just after a fetch", fresh, ErrUnavailable)
		time.Sleep(fetchEvery) // virtual
		want("a new key", fresh, nil)
		want("the old key meanwhile", old, nil)
		p.fail(http.StatusBadGateway)
		time.Sleep(fetchEvery) // virtual
		want("an unknown id while the endpoint is down", es256("x", "P-256"), ErrUnavailable)
		want("known keys while the endpoint is down", fresh, nil)
		p.fail(0)
		p.set(jwk("b", second))
		time.Sleep(fetchEvery) // virtual
		want("an unknown id", es256("x", "P-256"), ErrInvalid)
		want("a key that was removed", old, ErrUnavailable)
		time.Sleep(fetchEvery) // virtual
		want("a key that was removed, later", old, ErrInvalid)
	})
}

// Run drops removed keys within the interval and keeps them while the endpoint is
// down or answers nonsense.
func TestKeysAreKeptFresh(t *testing.T) {
	text := es256("a", "P-256")
	synctest.Test(t, func(t *testing.T) {
		p := &provider{}
		p.set(jwk("a", testKeys()["P-256"]))
		v := p.verifier(t)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { v.Run(ctx); close(done) }()
		synctest.Wait()
		known := func(want bool) {
			t.Helper()
			if _, err := v.Connection(text); (err == nil) != want {
				t.Errorf("known: %v, want %v", err, want)
			}
		}
		known(true)
		for _, body := range []string{"{}", `{"keys":[]}`, "<html>", strings.Repeat(" ", maxJWKSBytes+1), `{"keys":[{"kty":"oct","kid":"a","k":"c2VjcmV0"}]}`} {
			p.mu.Lock()
			p.body = body
			p.mu.Unlock()
			time.Sleep(DefaultInterval + DefaultInterval/9) // virtual
			known(true)
		}
		if n := p.asked.Load(); n > 100 {
			t.Errorf("a broken endpoint was asked %d times in an hour", n)
		}
		p.mu.Lock()
		p.body = ""
		p.mu.Unlock()
		p.set(jwk("b", testKeys()["P-256"]))
		time.Sleep(2*DefaultInterval + DefaultInterval/9) // virtual: the pause had grown
		known(false)
		cancel()
		<-done
	})
}

// Many wait for one fetch, and none longer than it may take.
func TestOneFetchForMany(t *testing.T) {
	text := es256("a", "P-256")
	synctest.Test(t, func(t *testing.T) {
		p := &provider{gate: make(chan struct{})}
		p.set(jwk("a", testKeys()["P-256"]))
		v := p.verifier(t)
		errs := make(chan error, 100)
		for range cap(errs) {
			go func() { errs <- connect(v, text) }()
		}
		synctest.Wait()
		close(p.gate)
		for range cap(errs) {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		if p.asked.Load() != 1 {
			t.Errorf("%d fetches", p.asked.Load())
		}
		p.mu.Lock()
		p.gate = make(chan struct{}) // hangs
		p.mu.Unlock()
		time.Sleep(fetchEvery) // virtual
		start := time.Now()
		if err := connect(v, es256("x", "P-256")); !errors.Is(err, ErrUnavailable) || time.Since(start) > fetchTimeout {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

func TestKeysOfASetThatAreNotUsed(t *testing.T) {
	encode := func(k jose.JSONWebKey) string { return asJSON(&k) }
	private := jose.JSONWebKey{Key: testKeys()["RSA"], KeyID: "a"}
	encryption := jwk("a", testKeys()["RSA"])
	encryption.Use = "enc"
	bound := jwk("a", testKeys()["RSA"])
	bound.Algorithm = "RS512"
	confused := jwk("a", testKeys()["RSA"])
	confused.Algorithm = "HS256"
	for name, tt := range map[string]struct {
		key  string
		want string // algorithm that works
	}{
		"RSA":                {encode(jwk("a", testKeys()["RSA"])), "RS256"},
		"bound to RS512":     {encode(bound), "RS512"},
		"Ed25519":            {encode(jwk("a", testKeys()["Ed25519"])), "EdDSA"},
		"for encryption":     {encode(encryption), ""},
		"with HS256":         {encode(confused), ""},
		"private":            {encode(private), ""},
		"symmetric":          {`{"kty":"oct","kid":"a","k":"c2VjcmV0"}`, ""},
		"without id":         {encode(jwk("", testKeys()["RSA"])), ""},
		"point not on curve": {`{"kty":"EC","kid":"a","crv":"P-256","x":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE","y":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE"}`, ""},
		"not an object":      {`1`, ""},
	} {
		keys, skipped, err := parseKeySet([]byte(`{"keys":[` + tt.key + `]}`))
		if tt.want == "" {
			if err == nil || len(skipped) != 1 || strings.Contains(skipped[0], "c2VjcmV0") {
				t.Errorf("%s: %v, %q", name, err, skipped)
			}
			continue
		}
		if err != nil || len(keys["a"]) != 1 || !keys["a"][0].fits(tt.want) {
			t.Errorf("%s: %+v, %v", name, keys, err)
		}
		if name == "bound to RS512" && keys["a"][0].fits("RS256") {
			t.Error("the key fits other algorithms than its own")
		}
	}
}

func TestRedirects(t *testing.T) {
	hops := 0
	v := newTestVerifier(t, Options{JWKSEndpoint: "https://idp.test/jwks?key=hunter2", Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
		hops++
		w := httptest.NewRecorder()
		w.Header().Set("Location", "http://idp.test/jwks")
		w.WriteHeader(http.StatusFound)
		resp := w.Result()
		resp.Request = r
		return resp, nil
	})})
	err := v.remote.fetch(t.Context())
	if err == nil || hops != 1 || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("%d hops, %v", hops, err)
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

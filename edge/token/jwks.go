package token

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Bounds of a key set, far above what identity providers publish.
const (
	maxJWKSBytes = 512 << 10
	maxJWKSKeys  = 100
	maxRedirects = 3
	// fetchTimeout bounds one fetch, body included.
	fetchTimeout = 5 * time.Second
	// fetchEvery is the least time between two fetches, retryEvery after a failed
	// one: tokens with invented key ids must not become a flood at the provider.
	fetchEvery = 5 * time.Second
	retryEvery = time.Second
)

// ErrUnavailable means that a key may exist but could not be had now: the token
// is neither good nor bad, and the client may try again.
var ErrUnavailable = errors.New("token keys are unavailable")

// keySet is the keys of a JWKS endpoint (RFC 7517), by key id. What was fetched
// stays in use until a later fetch replaces it as a whole, so it outlives an
// endpoint that is down.
type keySet struct {
	url     string
	client  *http.Client
	every   time.Duration
	log     *slog.Logger
	fetched func(error) // tells of every fetch; may be nil

	keys atomic.Pointer[map[string][]key]

	mu     sync.Mutex // guards the fields below
	flight *flight    // the fetch under way, nil when none is
	began  time.Time  // when the last fetch began
	failed bool       // the last fetch
}

// flight is one fetch that many wait for.
type flight struct {
	done chan struct{}
	err  error // set before done is closed
}

func newKeySet(o Options) (*keySet, error) {
	u, err := url.Parse(o.JWKSEndpoint)
	if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") {
		return nil, errors.New("JWKS endpoint is no http or https URL")
	}
	if u.User != nil {
		return nil, errors.New("JWKS endpoint has a password in it; keys are public, serve them without")
	}
	s := &keySet{url: o.JWKSEndpoint, every: o.JWKSInterval, log: o.Log, fetched: o.Fetched}
	if o.Transport == nil {
		o.Transport = &http.Transport{
			Proxy: http.ProxyFromEnvironment, MaxConnsPerHost: 1, IdleConnTimeout: 30 * time.Second,
			TLSHandshakeTimeout: fetchTimeout, ForceAttemptHTTP2: true,
		}
	}
	s.client = &http.Client{
		Timeout: fetchTimeout, Transport: o.Transport,
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if len(via) > maxRedirects || (u.Scheme == "https" && r.URL.Scheme != "https") {
				return errors.New("redirect refused")
			}
			return nil
		},
	}
	s.keys.Store(&map[string][]key{})
	return s, nil
}

// lookup returns the keys with id kid, and whether the set has any.
func (s *keySet) lookup(kid string) ([]key, bool) {
	keys, ok := (*s.keys.Load())[kid]
	return keys, ok
}

// find fetches the set if kid is not in it. It returns nil when kid is known then,
// ErrInvalid when the set has been fetched and does not have it, ErrUnavailable
// when it could not be fetched or was too short a while ago. It waits fetchTimeout
// at most.
func (s *keySet) find(ctx context.Context, kid string) error {
	if _, ok := s.lookup(kid); ok {
		return nil
	}
	if err := s.fetch(ctx); err != nil {
		return fmt.Errorf("%w: %v", ErrUnavailable, err)
	}
	if _, ok := s.lookup(kid); !ok {
		return fmt.Errorf("%w: the key set has no key with its id", ErrInvalid)
	}
	return nil
}

// fetch replaces the set, in the goroutine of the first that asks; others wait.
func (s *keySet) fetch(ctx context.Context) error {
	s.mu.Lock()
	if f := s.flight; f != nil {
		s.mu.Unlock()
		select {
		case <-f.done:
			return f.err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	least := fetchEvery
	if s.failed {
		least = retryEvery
	}
	if age := time.Since(s.began); age < least && !s.began.IsZero() {
		s.mu.Unlock()
		return fmt.Errorf("tried %v ago", age.Round(time.Millisecond))
	}
	f := &flight{done: make(chan struct{})}
	s.flight, s.began = f, time.Now()
	s.mu.Unlock()

	keys, err := s.get(ctx)
	if err == nil {
		s.keys.Store(&keys)
	}
	if s.fetched != nil {
		s.fetched(err)
	}
	f.err = err
	s.mu.Lock()
	s.flight, s.failed = nil, err != nil
	s.mu.Unlock()
	close(f.done)
	return err
}

// get makes one request.
func (s *keySet) get(ctx context.Context) (map[string][]key, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url, nil)
	if err != nil {
		return nil, withoutURL(err)
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, withoutURL(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %d", resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxJWKSBytes+1))
	if err != nil {
		return nil, withoutURL(err)
	}
	keys, skipped, err := parseKeySet(body)
	if len(skipped) > 0 {
		s.log.Warn("keys of the JWKS endpoint are not used", "reasons", skipped)
	}
	return keys, err
}

// withoutURL drops the address from an error of package http: it may have a
// password in it.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// parseKeySet reads a key set. Keys that are for something else are skipped, with
// the reasons; a set without a usable one is an error.
func parseKeySet(body []byte) (keys map[string][]key, skipped []string, err error) {
	if len(body) > maxJWKSBytes {
		return nil, nil, fmt.Errorf("key set has more than %d bytes", maxJWKSBytes)
	}
	var set struct{ Keys []json.RawMessage }
	if err := json.Unmarshal(body, &set); err != nil {
		return nil, nil, fmt.Errorf("key set is not JSON: %w", err)
	}
	if len(set.Keys) > maxJWKSKeys {
		return nil, nil, fmt.Errorf("key set has %d keys, more than %d", len(set.Keys), maxJWKSKeys)
	}
	keys = make(map[string][]key, len(set.Keys))
	for i, raw := range set.Keys {
		id, k, err := parseJWK(raw)
		if err != nil {
			skipped = append(skipped, fmt.Sprintf("key %d: %v", i, err))
			continue
		}
		keys[id] = append(keys[id], k)
	}
	if len(keys) == 0 {
		return nil, skipped, errors.New("key set has no key to verify signatures with")
	}
	return keys, skipped, nil
}

// KeySet is a key set to be published. It has public keys only.
type KeySet struct{ set jose.JSONWebKeySet }

// Add adds the public key of a PEM file, or text, as kid.
func (s *KeySet) Add(kid, source string) error {
	keys, err := publicKeys(source)
	if err != nil {
		return err
	}
	if len(keys) != 1 {
		return fmt.Errorf("there are %d keys in it; give each its own id", len(keys))
	}
	s.set.Keys = append(s.set.Keys, jose.JSONWebKey{Key: keys[0].verify, KeyID: kid, Use: "sig"})
	return nil
}

// MarshalJSON implements json.Marshaler.
func (s *KeySet) MarshalJSON() ([]byte, error) { return json.Marshal(s.set) }

func parseJWK(raw []byte) (id string, k key, err error) {
	var jwk jose.JSONWebKey
	if err := jwk.UnmarshalJSON(raw); err != nil {
		return "", key{}, errors.New("cannot be read") // the library's text may quote it
	}
	switch {
	case jwk.KeyID == "":
		return "", key{}, errors.New("has no kid")
	case jwk.Use != "" && jwk.Use != "sig":
		return "", key{}, errors.New("is not for signatures")
	}
	k, err = publicKey(jwk.Key) // refuses private and symmetric keys
	if err != nil || jwk.Algorithm == "" {
		return jwk.KeyID, k, err
	}
	if !slices.Contains(k.algorithms, jwk.Algorithm) {
		return "", key{}, errors.New("names an algorithm that is not for its type")
	}
	k.algorithms = []string{jwk.Algorithm}
	return jwk.KeyID, k, nil
}

// run fetches the set now and then until ctx ends: at once, after failures with
// growing pauses, and every interval, so that removed keys go out of use.
func (s *keySet) run(ctx context.Context) {
	defer s.client.CloseIdleConnections()
	pause := retryEvery
	for {
		err := s.fetch(ctx)
		if ctx.Err() != nil {
			return
		}
		wait := s.every
		if err != nil {
			s.log.Warn("token keys could not be fetched; those known stay in use", "err", err, "retry", pause)
			wait = pause
			pause = min(2*pause, s.every)
		} else {
			pause = retryEvery
		}
		// Jitter: the edges of a cluster shall not ask in step.
		timer := time.NewTimer(wait + rand.N(wait/10+time.Millisecond))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

package token

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testKeys are one private key of each kind.
var testKeys = sync.OnceValue(func() map[string]crypto.Signer {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	check(err)
	keys := map[string]crypto.Signer{"RSA": rsaKey}
	for name, curve := range map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()} {
		keys[name], err = ecdsa.GenerateKey(curve, rand.Reader)
		check(err)
	}
	_, keys["Ed25519"], err = ed25519.GenerateKey(rand.Reader)
	check(err)
	return keys
})

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func publicPEM(k crypto.Signer) string {
	der, err := x509.MarshalPKIXPublicKey(k.Public())
	check(err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func privatePEM(k crypto.Signer) []byte {
	der, err := x509.MarshalPKCS8PrivateKey(k)
	check(err)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func sign(m jwt.SigningMethod, key any, c jwt.MapClaims, header ...string) string {
	t := jwt.NewWithClaims(m, c)
	for i := 0; i+1 < len(header); i += 2 {
		t.Header[header[i]] = header[i+1]
	}
	s, err := t.SignedString(key)
	check(err)
	return s
}

func newTestVerifier(t testing.TB, o Options) *Verifier {
	t.Helper()
	v, err := NewVerifier(o)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestConnection(t *testing.T) {
	now := time.Now()
	secret := []byte("secret")
	good := func(more ...any) jwt.MapClaims {
		c := jwt.MapClaims{"sub": "42", "aud": "app", "iss": "me"}
		for i := 0; i < len(more); i += 2 {
			c[more[i].(string)] = more[i+1]
		}
		return c
	}
	hs := func(c jwt.MapClaims) string { return sign(jwt.SigningMethodHS256, secret, c) }
	for name, tt := range map[string]struct {
		token string
		want  error
	}{
		"HS256":                       {hs(good()), nil},
		"HS512":                       {sign(jwt.SigningMethodHS512, secret, good()), nil},
		"a list of audiences":         {hs(good("aud", []string{"other", "app"})), nil},
		"issued within the leeway":    {hs(good("iat", now.Add(5*time.Second).Unix(), "nbf", now.Add(5*time.Second).Unix())), nil},
		"expired":                     {hs(good("exp", now.Add(-time.Minute).Unix())), ErrExpired},
		"expired within the leeway":   {hs(good("exp", now.Add(-2*time.Second).Unix())), ErrExpired},
		"not yet valid":               {hs(good("nbf", now.Add(time.Hour).Unix())), ErrExpired},
		"issued tomorrow":             {hs(good("iat", now.Add(24*time.Hour).Unix())), ErrExpired},
		"other secret":                {sign(jwt.SigningMethodHS256, []byte("x"), good()), ErrInvalid},
		"other audience":              {hs(good("aud", "else")), ErrInvalid},
		"no audience":                 {hs(jwt.MapClaims{"sub": "42", "iss": "me"}), ErrInvalid},
		"other issuer":                {hs(good("iss", "else")), ErrInvalid},
		"expired and other issuer":    {hs(good("iss", "else", "exp", 1)), ErrInvalid},
		"expired and forged":          {sign(jwt.SigningMethodHS256, []byte("x"), good("exp", 1)), ErrInvalid},
		"no signature":                {sign(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, good()), ErrInvalid},
		"a critical extension":        {sign(jwt.SigningMethodHS256, secret, good(), "crit", "b64"), ErrInvalid},
		"signature cut off":           {hs(good())[:60], ErrInvalid},
		"channel token":               {hs(good("channel", "a")), ErrInvalid},
		"a user that is a number":     {hs(good("sub", 42)), ErrInvalid},
		"exp that is a text":          {hs(good("exp", "tomorrow")), ErrInvalid},
		"caps with an unknown word":   {hs(good("caps", []any{map[string]any{"channels": []string{"a"}, "allow": []string{"all"}}})), ErrInvalid},
		"caps with an unknown key":    {hs(good("caps", []any{map[string]any{"channel": "a", "allow": []string{"sub"}}})), ErrInvalid},
		"caps with a broken pattern":  {hs(good("caps", []any{map[string]any{"channels": []string{"("}, "match": "regex"}})), ErrInvalid},
		"caps that are no list":       {hs(good("caps", "sub")), ErrInvalid},
		"info that is no base64":      {hs(good("b64info", "?")), ErrInvalid},
		"an option of subs is broken": {hs(good("subs", map[string]any{"a": map[string]any{"b64data": "?"}})), ErrInvalid},
		"oversized":                   {hs(good("info", strings.Repeat("x", MaxBytes))), ErrInvalid},
		"empty":                       {"", ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			v := newTestVerifier(t, Options{HMACSecret: "secret", Audience: "app", Issuer: "me", Leeway: DefaultLeeway})
			c, err := v.Connection(tt.token)
			if !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
			if err == nil && c.User != "42" {
				t.Errorf("user %q", c.User)
			}
		})
	}
}

// Every algorithm verifies with its key, and no key with the algorithms of another.
func TestKeysAreBoundToTheirAlgorithms(t *testing.T) {
	keyOf := map[string]string{
		"RS256": "RSA", "RS384": "RSA", "RS512": "RSA", "PS256": "RSA", "PS384": "RSA", "PS512": "RSA",
		"ES256": "P-256", "ES384": "P-384", "ES512": "P-521", "EdDSA": "Ed25519",
	}
	for algorithm, name := range keyOf {
		text := sign(jwt.GetSigningMethod(algorithm), testKeys()[name], jwt.MapClaims{"sub": "42"})
		for other, k := range testKeys() {
			v := newTestVerifier(t, Options{PublicKeys: []string{publicPEM(k)}})
			_, err := v.Connection(text)
			if (err == nil) != (other == name) {
				t.Errorf("%s with the key %s: %v", algorithm, other, err)
			}
		}
	}
}

// The classic forgery: a public key, which everybody has, used as HMAC secret.
func TestPublicKeyIsNoHMACSecret(t *testing.T) {
	rsaPEM := publicPEM(testKeys()["RSA"])
	der, err := x509.MarshalPKIXPublicKey(testKeys()["RSA"].Public())
	check(err)
	for name, o := range map[string]Options{
		"only the public key":   {PublicKeys: []string{rsaPEM}},
		"and another secret":    {PublicKeys: []string{rsaPEM}, HMACSecret: "secret"},
		"and a key set":         {PublicKeys: []string{rsaPEM}, JWKSEndpoint: "http://127.0.0.1:1/"},
		"of an elliptic curve":  {PublicKeys: []string{publicPEM(testKeys()["P-256"])}},
		"and none, and key set": {JWKSEndpoint: "http://127.0.0.1:1/"},
	} {
		v := newTestVerifier(t, o)
		for _, secret := range []string{rsaPEM, strings.TrimSpace(rsaPEM), string(der), publicPEM(testKeys()["P-256"])} {
			for _, m := range []jwt.SigningMethod{jwt.SigningMethodHS256, jwt.SigningMethodHS512} {
				text := sign(m, []byte(secret), jwt.MapClaims{"sub": "42"}, "kid", "a")
				if _, err := v.Connection(text); !errors.Is(err, ErrInvalid) {
					t.Errorf("%s: %v", name, err)
				}
			}
		}
		none := sign(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, jwt.MapClaims{"sub": "42"}, "kid", "a")
		if _, err := v.Connection(none); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: none: %v", name, err)
		}
	}
	if _, err := NewVerifier(Options{HMACSecret: rsaPEM}); err == nil {
		t.Error("a PEM key was taken for a secret")
	}
}

func TestKeyMistakesAreTold(t *testing.T) {
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	check(err)
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	check(err)
	path := filepath.Join(t.TempDir(), "key.pem")
	check(os.WriteFile(path, []byte(publicPEM(testKeys()["RSA"])), 0o600))
	for name, tt := range map[string]struct{ key, want string }{
		"a file":           {path, ""},
		"no such file":     {path + ".x", "no such file"},
		"a private key":    {string(privatePEM(testKeys()["RSA"])), "is a private key"},
		"too few bits":     {publicPEM(weak), "1024 bits"},
		"unusual curve":    {publicPEM(p224), "P-224"},
		"another block":    {"-----BEGIN X-----\n-----END X-----\n", `"X" is no public key`},
		"cut off":          {publicPEM(testKeys()["RSA"])[:100], "no PEM public key"},
		"garbage in block": {"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "asn1"},
	} {
		_, err := NewVerifier(Options{PublicKeys: []string{tt.key}})
		if (err == nil) != (tt.want == "") || (err != nil && !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

func TestClaims(t *testing.T) {
	v := newTestVerifier(t, Options{HMACSecret: "secret"})
	at := time.Now().Add(time.Hour).Unix()
	c, err := v.Connection(sign(jwt.SigningMethodHS256, []byte("secret"), jwt.MapClaims{
		"sub": "42", "exp": at, "expire_at": 0, "info": map[string]int{"a": 1}, "meta": map[string]string{"plan": "pro"},
		"channels": []string{"news"},
		"subs":     map[string]any{"a": map[string]any{"b64data": "aGk=", "override": map[string]any{"presence": map[string]bool{"value": false}}}},
		"caps":     []any{map[string]any{"channels": []string{"chat:*"}, "match": "wildcard", "allow": []string{"sub", "hst"}}},
	}))
	if err != nil {
		t.Fatal(err)
	}
	sub := c.Subs["a"]
	if c.ExpireAt != 0 || string(c.Info) != `{"a":1}` || string(c.Meta) != `{"plan":"pro"}` || len(c.Channels) != 1 ||
		string(sub.Data) != "hi" || sub.Override.Presence == nil || *sub.Override.Presence || sub.Override.JoinLeave != nil {
		t.Errorf("%+v", c)
	}
	if got := c.Caps.Allowed("chat:1"); got != opNames["sub"]|opNames["hst"] {
		t.Errorf("caps %b", got)
	}
	s, err := v.Subscription(sign(jwt.SigningMethodHS256, []byte("secret"), jwt.MapClaims{
		"sub": "42", "channel": "a", "client": "c1", "expire_at": at, "exp": at + 5, "allow": []string{"pub"},
		"data": nil, "override": map[string]any{"force_recovery": map[string]bool{"value": true}},
	}))
	if err != nil || s.Client != "c1" || s.ExpireAt != at || s.Data != nil || s.Allow != opNames["pub"] || !*s.Override.ForceRecovery {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := v.Subscription(mustMint(t, Connection{User: "42"})); !errors.Is(err, ErrInvalid) {
		t.Errorf("a connection token is a subscription token: %v", err)
	}
}

// The secret before counts until it is taken away.
func TestPreviousSecret(t *testing.T) {
	text := mustMint(t, Connection{User: "42"})
	for want, o := range map[bool]Options{true: {HMACSecret: "new", HMACPrevious: "secret"}, false: {HMACSecret: "new"}} {
		if _, err := newTestVerifier(t, o).Connection(text); (err == nil) != want {
			t.Errorf("%v, want %v", err, want)
		}
	}
}

func mustMint(t testing.TB, c Connection) string {
	t.Helper()
	s, err := MintConnection("secret", c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestMintedTokensVerify(t *testing.T) {
	yes := true
	conn := Connection{User: "42", ExpireAt: time.Now().Add(time.Hour).Unix(), Info: []byte{0xff}, Meta: []byte(`{"a":1}`), Channels: []string{"x"},
		Subs: map[string]SubscribeOptions{"a": {Info: []byte("1"), Override: Override{Presence: &yes}}}}
	sub := Subscription{User: "42", Channel: "a", Client: "c", Data: []byte("raw"), Allow: opNames["pub"], Override: Override{JoinLeave: &yes}}
	for name, k := range testKeys() {
		s, err := NewKeySigner(privatePEM(k))
		if err != nil {
			t.Fatal(err)
		}
		s.Audience, s.Issuer = "app", "me"
		v := newTestVerifier(t, Options{PublicKeys: []string{publicPEM(k)}, Audience: "app", Issuer: "me"})
		text, err := s.Connection(conn, []byte(`[{"channels":["a"],"allow":["sub"]}]`))
		if err != nil {
			t.Fatal(err)
		}
		got, err := v.Connection(text)
		if err != nil || got.Caps.Allowed("a") == 0 {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		got.Caps = nil
		if a, b := asJSON(got), asJSON(conn); a != b {
			t.Errorf("%s: got %s, want %s", name, a, b)
		}
		text, err = s.Subscription(sub)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := v.Subscription(text); err != nil || asJSON(got) != asJSON(sub) {
			t.Errorf("%s: got %s, want %s (%v)", name, asJSON(got), asJSON(sub), err)
		}
	}
}

func asJSON(v any) string {
	b, err := json.Marshal(v)
	check(err)
	return string(b)
}

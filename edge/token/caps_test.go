package token

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/headrace/headrace/router"
)

func TestCapabilities(t *testing.T) {
	const claim = `[
		{"channels": ["news", "chat:lobby"], "allow": ["sub"]},
		{"channels": ["chat:team-*"], "match": "wildcard", "allow": ["sub", "pub"]},
		{"channels": ["^game:[0-9]+$"], "match": "regex", "allow": ["prs"]},
		{"channels": ["*"], "match": "wildcard", "allow": ["hst"]}
	]`
	caps, err := ParseCapabilities([]byte(claim))
	if err != nil {
		t.Fatal(err)
	}
	for channel, want := range map[string]string{
		"news":        "sub hst",
		"news2":       "hst",
		"chat:lobby":  "sub hst",
		"chat:team-":  "sub pub hst",
		"chat:team-7": "sub pub hst",
		"xchat:team-": "hst",
		"game:12":     "prs hst",
		"game:12x":    "hst",
		"":            "hst",
	} {
		var words router.Ops
		for w := range strings.FieldsSeq(want) {
			words |= opNames[w]
		}
		if got := caps.Allowed(channel); got != words {
			t.Errorf("%q: %b, want %b (%s)", channel, got, words, want)
		}
	}
	if (*Capabilities)(nil).Allowed("news") != 0 {
		t.Error("no capabilities allow something")
	}
}

func TestCapabilityMistakesAreTold(t *testing.T) {
	for claim, want := range map[string]string{
		`{}`: "caps", `[{"channels":["a"],"allow":["subscribe"]}]`: `"subscribe" is not one of`,
		`[{"channels":["a"],"match":"glob"}]`:                                    `"glob" is neither`,
		`[{"channels":["("],"match":"regex"}]`:                                   "missing closing",
		`[{"chanels":["a"]}]`:                                                    "unknown field",
		`[{"channels":["` + strings.Repeat("a", 513) + `"]}]`:                    "more than 512",
		`[{"match":"regex","channels":[` + strings.Repeat(`"a",`, 16) + `"a"]}]`: "more than 16",
		`[{"channels":[` + strings.Repeat(`"a",`, 256) + `"a"]}]`:                "more than 256",
	} {
		if _, err := ParseCapabilities([]byte(claim)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: %v, want %q", claim, err, want)
		}
	}
}

// Sessions of tokens with the same claim share what was parsed.
func TestCapabilitiesAreShared(t *testing.T) {
	v := newTestVerifier(t, Options{HMACSecret: "secret"})
	s, err := NewHMACSigner("secret")
	check(err)
	parse := func(user string) *Capabilities {
		text, err := s.Connection(Connection{User: user}, []byte(`[{"channels":["a"],"allow":["sub"]}]`))
		check(err)
		c, err := v.Connection(text)
		check(err)
		return c.Caps
	}
	if parse("1") != parse("2") {
		t.Error("two of them")
	}
}

// FuzzWildcard compares with a regular expression.
func FuzzWildcard(f *testing.F) {
	f.Add("chat:*", "chat:1")
	f.Add("*a*b*", "xxaxxbxx")
	f.Add("**", "")
	f.Add("a*a", "a")
	f.Fuzz(func(t *testing.T, pattern, s string) {
		if len(pattern) > 64 || len(s) > 256 {
			return
		}
		want := regexp.MustCompile(`(?s)^` + strings.ReplaceAll(regexp.QuoteMeta(strings.ToValidUTF8(pattern, "")), `\*`, `.*`) + `$`).MatchString(strings.ToValidUTF8(s, ""))
		if strings.ToValidUTF8(pattern, "") != pattern || strings.ToValidUTF8(s, "") != s {
			wildcard(pattern, s) // must end
			return
		}
		if got := wildcard(pattern, s); got != want {
			t.Errorf("%q matches %q: %v, want %v", pattern, s, got, want)
		}
	})
}

// FuzzCapabilities: whatever parses can be matched.
func FuzzCapabilities(f *testing.F) {
	f.Add([]byte(`[{"channels":["a*"],"match":"wildcard","allow":["sub","pub","hst","prs"]}]`), "ab")
	f.Add([]byte(`[{"channels":["a+"],"match":"regex","allow":["sub"]}]`), "aa")
	f.Fuzz(func(t *testing.T, claim []byte, channel string) {
		caps, err := ParseCapabilities(claim)
		if err == nil && caps.Allowed(channel) >= 16 {
			t.Error("an operation that does not exist")
		}
	})
}

// FuzzClaims signs whatever claims: the verifier refuses or reads them.
func FuzzClaims(f *testing.F) {
	for _, s := range []string{
		`{"sub":"42","exp":4102444800,"caps":[{"channels":["a"],"allow":["sub"]}]}`,
		`{"sub":"42","channel":"a","client":"c","allow":["pub"],"override":{"presence":{"value":true}}}`,
		`{"subs":{"a":{"b64info":"aGk="}},"channels":["b"],"meta":{},"expire_at":0,"aud":["x","y"]}`,
		`{"nbf":1e400,"iat":-1,"exp":1.5}`, `{"exp":9223372036854775807}`, `{"aud":null,"info":null}`, `[]`,
	} {
		f.Add([]byte(s))
	}
	v := newTestVerifier(f, Options{HMACSecret: "secret"})
	f.Fuzz(func(t *testing.T, payload []byte) {
		part := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{})
		head, err := part.SigningString()
		check(err)
		text := head[:strings.IndexByte(head, '.')+1] + part.EncodeSegment(payload)
		sig, err := part.Method.Sign(text, []byte("secret"))
		check(err)
		text += "." + part.EncodeSegment(sig)
		c, err := v.Connection(text)
		if s, err2 := v.Subscription(text); err == nil && err2 == nil {
			t.Errorf("both a connection token and a subscription token: %+v %+v", c, s)
		}
		if err == nil && c.ExpireAt < 0 {
			t.Errorf("ends at %d", c.ExpireAt)
		}
	})
}

// FuzzVerify mutates tokens: none but the signed ones are accepted.
func FuzzVerify(f *testing.F) {
	good := mustMint(f, Connection{User: "42", Info: []byte(`{"a":1}`)})
	sub, err := MintSubscription("secret", Subscription{Channel: "a", User: "42", ExpireAt: time.Now().Add(time.Hour).Unix()})
	check(err)
	f.Add(good)
	f.Add(sub)
	f.Add("eyJhbGciOiJub25lIn0.eyJzdWIiOiI0MiJ9.")
	v := newTestVerifier(f, Options{HMACSecret: "secret", PublicKeys: []string{publicPEM(testKeys()["RSA"])}, JWKSEndpoint: "http://127.0.0.1:1/"})
	f.Fuzz(func(t *testing.T, s string) {
		if _, err := v.Connection(s); err == nil && s != good {
			t.Fatalf("%q was accepted", s)
		}
		if _, err := v.Subscription(s); err == nil && s != sub {
			t.Fatalf("%q was accepted", s)
		}
	})
}

// FuzzKeySet: key sets come from another party.
func FuzzKeySet(f *testing.F) {
	f.Add([]byte(`{"keys":[{"kty":"oct","kid":"a","k":"c2VjcmV0"}]}`))
	k := jwk("a", testKeys()["RSA"])
	f.Add([]byte(`{"keys":[` + asJSON(&k) + `]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		keys, _, err := parseKeySet(body)
		for _, l := range keys {
			for _, k := range l {
				if _, secret := k.verify.([]byte); secret || err != nil {
					t.Fatal("a secret from a key set")
				}
			}
		}
	})
}

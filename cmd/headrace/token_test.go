package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/edge/token"
)

const tokenSecret = "a-secret-of-thirty-two-characters"

// writeFile writes a file of a test's own and returns its path.
func writeFile(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const tokenConfig = `
client:
  token:
    hmac_secret_key: ` + tokenSecret + `
    audience: app
  subscription_token:
    hmac_secret_key: another-secret-of-its-own-here
namespaces:
  - name: chat
`

func TestTokenIsMintedAndVerified(t *testing.T) {
	conf := writeFile(t, "headrace.yaml", tokenConfig)
	verifier, err := token.NewVerifier(token.Options{HMACSecret: tokenSecret, Audience: "app"})
	if err != nil {
		t.Fatal(err)
	}
	code, out, stderr := execute(t, "", "token", "-c", conf, "--user", "42", "--info", `{"name":"Ada"}`, "--meta", `{"plan":"pro"}`,
		"--channels", "news,chat:a", "--subs", `{"b":{"data":1}}`, "--caps", `[{"channels":["chat:*"],"match":"wildcard","allow":["sub"]}]`)
	if code != exitOK || stderr != "" || strings.Count(out, "\n") != 1 {
		t.Fatalf("%d %q %q", code, out, stderr)
	}
	c, err := verifier.Connection(strings.TrimSpace(out))
	if err != nil || c.User != "42" || string(c.Info) != `{"name":"Ada"}` || string(c.Meta) != `{"plan":"pro"}` || len(c.Channels) != 2 ||
		string(c.Subs["b"].Data) != "1" || c.Caps.Allowed("chat:x") == 0 {
		t.Errorf("%+v, %v", c, err)
	}
	if left := time.Until(time.Unix(c.ExpireAt, 0)); left < token.DefaultTTL-time.Minute || left > token.DefaultTTL {
		t.Errorf("it lives for %v", left)
	}
	code, said, stderr := execute(t, "", "token", "verify", "-c", conf, strings.TrimSpace(out))
	if code != exitOK || !strings.Contains(said, "good    a connection token, until 20") || strings.Contains(said+stderr, tokenSecret) {
		t.Errorf("verify: %d %q %q", code, said, stderr)
	}
	_, out, _ = execute(t, "", "token", "-c", conf, "--user", "42", "--channel", "chat:a", "--allow", "pub,hst", "--ttl", "0")
	if _, err := verifier.Subscription(strings.TrimSpace(out)); err == nil {
		t.Error("the subscription token is signed with the key of connection tokens")
	}
	code, said, stderr = execute(t, out, "token", "verify", "-c", conf, "-")
	if code != exitOK || !strings.Contains(said, "good    a subscription token, without end") || !strings.Contains(said, `"allow":["pub","hst"]`) {
		t.Errorf("verify: %d %q %q", code, said, stderr)
	}
}

// With a private key here and the public one on an endpoint.
func TestTokenWithKeySet(t *testing.T) {
	k, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	private := writeFile(t, "private.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	if der, err = x509.MarshalPKIXPublicKey(k.Public()); err != nil {
		t.Fatal(err)
	}
	public := writeFile(t, "public.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})))
	code, set, stderr := execute(t, "", "token", "jwks", "a="+public)
	if code != exitOK {
		t.Fatal(stderr)
	}
	if code, _, stderr := execute(t, "", "token", "jwks", "a="+private); code != exitUsage || !strings.Contains(stderr, "private key") {
		t.Errorf("a private key was published: %d %q", code, stderr)
	}
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(set)) })) //nolint:errcheck // a test
	defer endpoint.Close()
	defer http.DefaultClient.CloseIdleConnections()
	_, out, stderr := execute(t, "", "token", "--key-file", private, "--kid", "a", "--user", "42")
	code, said, stderr2 := execute(t, "", "token", "verify", "--set", "client.token.jwks_endpoint="+endpoint.URL, strings.TrimSpace(out))
	if code != exitOK || !strings.Contains(said, `"alg":"ES384"`) {
		t.Errorf("%d %q %q %q", code, said, stderr, stderr2)
	}
	_, out, _ = execute(t, "", "token", "--key-file", private, "--kid", "b", "--user", "42")
	if code, _, stderr := execute(t, "", "token", "verify", "--set", "client.token.jwks_endpoint="+endpoint.URL, strings.TrimSpace(out)); code != exitFailed || !strings.Contains(stderr, "no key with its id") {
		t.Errorf("%d %q", code, stderr)
	}
}

func TestTokenMistakesAreTold(t *testing.T) {
	conf := writeFile(t, "headrace.yaml", tokenConfig)
	mint := func(args ...string) string {
		_, out, _ := execute(t, "", append([]string{"token", "--hmac-secret-file", writeFile(t, "s", tokenSecret+"\n")}, args...)...)
		return strings.TrimSpace(out)
	}
	for name, tt := range map[string]struct {
		args []string
		code int
		want string
	}{
		"no key":                    {[]string{"token", "--user", "42"}, exitUsage, "--hmac-secret-file"},
		"two keys":                  {[]string{"token", "--key-file", "a", "--hmac-secret-file", "b"}, exitUsage, "alternatives"},
		"no such file":              {[]string{"token", "--key-file", "/nonexistent"}, exitUsage, "no such file"},
		"a secret as private key":   {[]string{"token", "--key-file", conf}, exitUsage, "no PEM private key"},
		"info that is no JSON":      {[]string{"token", "-c", conf, "--info", "Ada"}, exitUsage, "quote it"},
		"caps that are wrong":       {[]string{"token", "-c", conf, "--caps", `[{"channel":"a"}]`}, exitUsage, "unknown field"},
		"subs that are wrong":       {[]string{"token", "-c", conf, "--subs", `["a"]`}, exitUsage, "object by channel"},
		"caps and a channel":        {[]string{"token", "-c", conf, "--channel", "a", "--caps", "[]"}, exitUsage, "--caps does not go"},
		"allow without channel":     {[]string{"token", "-c", conf, "--allow", "pub"}, exitUsage, "--allow does not go"},
		"a word that is no right":   {[]string{"token", "-c", conf, "--channel", "a", "--allow", "all"}, exitUsage, `"all" is not one of`},
		"a negative life":           {[]string{"token", "-c", conf, "--ttl", "-1h"}, exitUsage, "negative"},
		"verify nothing":            {[]string{"token", "verify", "-c", conf, "abc"}, exitFailed, "1 parts"},
		"verify without a key":      {[]string{"token", "verify", mint("--user", "42")}, exitUsage, "no key to verify"},
		"verify with another key":   {[]string{"token", "verify", "--set", "client.token.hmac_secret_key=x", mint()}, exitFailed, "another key"},
		"verify, other audience":    {[]string{"token", "verify", "-c", conf, mint("--audience", "x")}, exitFailed, "client.token.audience"},
		"verify, expired":           {[]string{"token", "verify", "-c", conf, mint("--audience", "app", "--ttl", "1ns")}, exitFailed, "compare the clocks"},
		"a broken public key":       {[]string{"config", "check", "--set", "client.token.public_keys=/nonexistent.pem"}, exitUsage, "--set: client.token.public_keys: public key 1"},
		"a public key as secret":    {[]string{"config", "check", "--set", "client.token.hmac_secret_key=-----BEGIN PUBLIC KEY-----"}, exitUsage, "known to everybody"},
		"an endpoint with password": {[]string{"config", "check", "--set", "client.token.jwks_endpoint=https://u:hunter2@x/"}, exitUsage, "without a password"},
		"an audience alone":         {[]string{"config", "check", "--set", "client.subscription_token.audience=x"}, exitUsage, "has no effect"},
	} {
		code, out, stderr := execute(t, "", tt.args...)
		if code != tt.code || !strings.Contains(stderr, tt.want) {
			t.Errorf("%s: %d %q, want %d %q", name, code, stderr, tt.code, tt.want)
		}
		if strings.Contains(out+stderr, tokenSecret) || strings.Contains(out+stderr, "hunter2") {
			t.Errorf("%s: a secret is printed: %q %q", name, out, stderr)
		}
	}
}

// What docs/security.md tells to do works: a client with a token gets in, others
// do not, and neither tokens nor secrets are in the log.
func TestServeWithTokens(t *testing.T) {
	conf := writeFile(t, "headrace.yaml", tokenConfig+"    allow_publish_for_subscriber: true\nhttp_api:\n  key: key-of-the-api\n")
	url := startServe(t, "-c", conf, "--log-level", "debug")
	_, out, _ := execute(t, "", "token", "-c", conf, "--user", "42", "--caps", `[{"channels":["chat:a"],"allow":["sub"]}]`)
	good := strings.TrimSpace(out)
	for name, tt := range map[string]struct{ channel, token, want string }{
		"another channel":   {"chat:b", good, "permission denied"},
		"no token":          {"chat:a", "", "3501"},
		"a changed token":   {"chat:a", good[:len(good)-3] + "abc", "3500"},
		"no such namespace": {"nowhere:b", good, "102"},
	} {
		code, out, stderr := execute(t, "", "sub", tt.channel, "--url", url, "--token", tt.token)
		if code != exitFailed || !strings.Contains(stderr, tt.want) {
			t.Errorf("%s: %d %q %q, want %q", name, code, out, stderr, tt.want)
		}
	}
	followed, notes := newOutput(), newOutput()
	done := make(chan int, 1)
	go func() {
		done <- run(t.Context(), []string{"sub", "chat:a", "--url", url, "--token", good, "--count", "1"}, nil, strings.NewReader(""), followed, notes)
	}()
	notes.find(t, `(subscribed)`)
	if code, _, stderr := execute(t, "", "pub", "chat:a", "1", "--url", url, "--api-key", "key-of-the-api"); code != exitOK {
		t.Fatal(stderr)
	}
	if code := <-done; code != exitOK || !strings.Contains(followed.String(), `"data":1`) {
		t.Errorf("sub ended with %d: %s", code, notes)
	}
}

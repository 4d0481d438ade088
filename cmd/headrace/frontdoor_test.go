package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/nats-io/nats-server/v2/server"

	"github.com/headrace/headrace/edge/token"
	"github.com/headrace/headrace/internal/certs/certstest"
	"github.com/headrace/headrace/internal/config"
	"github.com/headrace/headrace/internal/natstest"
)

// running is a node of which a test sees everything.
type running struct {
	clients, internal string // addresses, without the last slash
	stdout, stderr    *output
	stop              func() int // ends it; returns the exit code
}

// startNode runs a node with a configuration file and an internal listener.
func startNode(t *testing.T, file string) *running {
	t.Helper()
	path := filepath.Join(t.TempDir(), "h.yaml")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	r := &running{stdout: newOutput(), stderr: newOutput()}
	done := make(chan int, 1)
	go func() {
		args := []string{"serve", "--config", path, "--addr", "127.0.0.1:0", "--data", t.TempDir(), "--set", "internal.address=127.0.0.1:0"}
		done <- run(ctx, args, nil, strings.NewReader(""), r.stdout, r.stderr)
		done <- exitOK // for the second call of stop
	}()
	r.stop = func() int { stop(); return <-done }
	t.Cleanup(func() { r.stop() })
	r.clients = r.stdout.find(t, `listens on (https?://[^/]+)/`)
	r.internal = r.stdout.find(t, `API are on (https?://[^/]+)/`)
	return r
}

const chatNamespace = "namespaces: [{name: chat, history_size: 10, allow_subscribe: true, allow_publish: true}]\n"

func TestInternalListenerKeepsThingsApart(t *testing.T) {
	const key = "0123456789abcdef-old"
	r := startNode(t, "http_api: {key: 0123456789abcdef-new, keys: ["+key+"]}\n"+chatNamespace)
	natstest.Eventually(t, 20*time.Second, "readiness", func() bool { // it listens a little earlier
		status, _ := get(t, r.clients+"/health")
		return status == 200
	})
	for name, tt := range map[string]struct {
		url    string
		status int
		want   string
	}{
		"clients' health tells nothing":   {r.clients + "/health", 200, "{}\n"},
		"clients get no metrics":          {r.clients + "/metrics", 404, ""},
		"clients get no pprof":            {r.clients + "/debug/pprof/", 404, ""},
		"clients get no API":              {r.clients + "/api/info", 404, "the API is on the internal listener"},
		"clients get no readiness":        {r.clients + "/health/ready", 404, ""},
		"internal health":                 {r.internal + "/health", 200, "{}\n"},
		"internal readiness":              {r.internal + "/health/ready", 200, `{"ready":true,"clients":0}`},
		"internal liveness":               {r.internal + "/health/live", 200, "{}\n"},
		"internal metrics":                {r.internal + "/metrics", 200, "headrace_build_info"},
		"internal pprof":                  {r.internal + "/debug/pprof/", 200, "goroutine"},
		"no command line in pprof":        {r.internal + "/debug/pprof/cmdline", 404, ""},
		"internal API wants a key":        {r.internal + "/api/info", 401, "API key"},
		"internal listener, no transport": {r.internal + "/connection/websocket", 404, ""},
	} {
		if status, body := get(t, tt.url); status != tt.status || !strings.Contains(body, tt.want) {
			t.Errorf("%s: GET %s = %d %q, want %d and %q", name, tt.url, status, body, tt.status, tt.want)
		}
	}
	for _, key := range []string{key, "0123456789abcdef-new"} {
		if code, _, stderr := execute(t, "", "pub", "chat:a", "1", "--url", r.internal, "--api-key", key); code != exitOK {
			t.Errorf("pub with %s: %s", key, stderr)
		}
	}
	for _, key := range []string{"", "0123456789abcdef", key + "x"} {
		if code, _, stderr := execute(t, "", "pub", "chat:a", "1", "--url", r.internal, "--api-key", key); code != exitFailed || !strings.Contains(stderr, "401") {
			t.Errorf("pub with key %q: %s", key, stderr)
		}
	}
	if code, _, stderr := execute(t, "", "pub", "chat:a", "1", "--url", r.clients, "--api-key", key); code != exitFailed || !strings.Contains(stderr, "http_api.external") {
		t.Errorf("pub to the clients' address: %s", stderr)
	}
}

func TestExternalAPI(t *testing.T) {
	r := startNode(t, "http_api: {key: 0123456789abcdef, external: true}\nclient: {allowed_origins: [\"https://app.example\"]}\n"+chatNamespace)
	if code, _, stderr := execute(t, "", "pub", "chat:a", "1", "--url", r.clients, "--api-key", "0123456789abcdef"); code != exitOK {
		t.Error(stderr)
	}
	ask := func(method, path, origin string, status int) http.Header {
		t.Helper()
		req, err := http.NewRequest(method, r.clients+path, strings.NewReader(`{}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-API-Key", "0123456789abcdef")
		req.Header.Set("Origin", origin)
		if method == "OPTIONS" {
			req.Header.Set("Access-Control-Request-Method", "POST")
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != status || resp.Header.Get("Vary") != "Origin" {
			t.Errorf("%s %s from %s: status %d, Vary %q", method, path, origin, resp.StatusCode, resp.Header.Get("Vary"))
		}
		return resp.Header
	}
	for _, path := range []string{"/api/info", "/connection/websocket"} {
		h := ask("OPTIONS", path, "https://app.example", 204)
		if h.Get("Access-Control-Allow-Origin") != "https://app.example" || h.Get("Access-Control-Allow-Credentials") != "true" || !strings.Contains(h.Get("Access-Control-Allow-Headers"), "X-API-Key") {
			t.Errorf("%s: answer to a preflight: %v", path, h)
		}
		if h := ask("OPTIONS", path, "https://evil.example", 403); h.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s: another origin is allowed: %v", path, h)
		}
	}
	if h := ask("POST", "/api/info", "https://app.example", 200); h.Get("Access-Control-Allow-Origin") != "https://app.example" {
		t.Errorf("the page may not read the answer: %v", h)
	}
	ask("POST", "/api/info", "https://evil.example", 403) // with a valid key, too
}

// A drain can be watched from outside: readiness first, connections refused, a
// client told to go, and the internal listener there until the end.
func TestDrainAsSeenFromOutside(t *testing.T) {
	r := startNode(t, "client: {allow_anonymous: true, drain_window: 6s}\n"+chatNamespace)
	ws := make([]*websocket.Conn, 2)
	for i := range ws {
		ws[i] = connectWS(t, websocket.DefaultDialer, r.clients)
	}
	ended := make(chan int, 1)
	go func() { ended <- r.stop() }()
	if _, _, err := ws[0].ReadMessage(); !websocket.IsCloseError(err, 3001) {
		t.Fatalf("first client: %v, want close 3001", err)
	}
	// The second is due half a window later.
	if status, body := get(t, r.internal+"/health/ready"); status != 503 || !strings.Contains(body, `"reason":"shutting down"`) {
		t.Errorf("readiness = %d %s", status, body)
	}
	resp, err := http.Get(r.clients + "/health")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode != 503 || string(body) != "unavailable\n" || !resp.Close {
		t.Errorf("health = %d %q, kept alive: %v", resp.StatusCode, body, !resp.Close)
	}
	_, refused, err := websocket.DefaultDialer.Dial(wsURL(r.clients), nil)
	if err == nil || refused == nil || refused.StatusCode != 503 || refused.Header.Get("Retry-After") == "" {
		t.Errorf("a new connection: %v %v", err, refused)
	}
	if _, _, err := ws[1].ReadMessage(); !websocket.IsCloseError(err, 3001) {
		t.Errorf("second client: %v, want close 3001", err)
	}
	if code := <-ended; code != exitOK {
		t.Errorf("ended with %d: %s", code, r.stderr)
	}
}

func wsURL(base string) string {
	return strings.Replace(base, "http", "ws", 1) + "/connection/websocket"
}

// connectWS makes a client connection past its connect reply.
func connectWS(t *testing.T, d *websocket.Dialer, base string) *websocket.Conn {
	t.Helper()
	ws, _, err := d.Dial(wsURL(base), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ws.Close() })
	exchange(t, ws, `{"id":1,"connect":{}}`, `"connect"`)
	return ws
}

// exchange sends a frame and reads until one contains want.
func exchange(t *testing.T, ws *websocket.Conn, frame, want string) {
	t.Helper()
	if err := ws.WriteMessage(websocket.TextMessage, []byte(frame)); err != nil {
		t.Fatal(err)
	}
	ws.SetReadDeadline(time.Now().Add(20 * time.Second)) //nolint:errcheck // never fails in gorilla
	for {
		_, data, err := ws.ReadMessage()
		if err != nil {
			t.Fatalf("waiting for %s: %v", want, err)
		}
		if strings.Contains(string(data), want) {
			return
		}
	}
}

func TestTLSCertificateIsRotatedWhileAClientStays(t *testing.T) {
	dir := t.TempDir()
	certPath, keyPath := filepath.Join(dir, "c.pem"), filepath.Join(dir, "k.pem")
	first := certstest.WriteSelfSigned(t, certPath, keyPath, "first")
	r := startNode(t, fmt.Sprintf("client: {allow_anonymous: true}\ntls: {cert: %q, key: %q}\ninternal: {tls: {cert: %q, key: %q}}\n", certPath, keyPath, certPath, keyPath)+
		"namespaces: [{name: chat, allow_subscribe: true, allow_subscribe_for_anonymous: true, allow_publish_for_subscriber: true}]\n")
	if !strings.HasPrefix(r.clients, "https://") || !strings.HasPrefix(r.internal, "https://") {
		t.Fatalf("listens on %s and %s", r.clients, r.internal)
	}
	trusting := func(pool *x509.CertPool) *websocket.Dialer {
		return &websocket.Dialer{TLSClientConfig: &tls.Config{RootCAs: pool}}
	}
	stays := connectWS(t, trusting(first), r.clients)
	exchange(t, stays, `{"id":2,"subscribe":{"channel":"chat:a"}}`, `"subscribe"`)
	big := strings.Repeat("x", 60_000)
	exchange(t, stays, `{"id":3,"publish":{"channel":"chat:a","data":"`+big+`"}}`, big)

	second := certstest.WriteSelfSigned(t, certPath, keyPath, "second")
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) { // a poll with a deadline
		ws, _, err := trusting(second).Dial(wsURL(r.clients), nil)
		if err == nil {
			ws.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the new certificate is not served: %v", err)
		}
	}
	exchange(t, stays, `{"id":4,"publish":{"channel":"chat:a","data":"still here"}}`, `still here`)
	if _, _, err := trusting(first).Dial(wsURL(r.clients), nil); err == nil {
		t.Error("the old certificate is still served")
	}
	old := &tls.Config{RootCAs: second, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}
	if c, err := tls.Dial("tcp", strings.TrimPrefix(r.clients, "https://"), old); err == nil {
		c.Close()
		t.Error("TLS 1.1 was accepted")
	}
	web := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: second}}}
	defer web.CloseIdleConnections()
	resp, err := web.Get(r.internal + "/health/ready")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	go r.stop()
	for err = nil; err == nil; { // the reply to the publication may come first
		_, _, err = stays.ReadMessage()
	}
	if !websocket.IsCloseError(err, 3001) {
		t.Errorf("at the end: %v, want close 3001", err)
	}
}

// Nothing that a node says in a debug-level run holds a secret of its
// configuration or a client's token.
func TestSecretsAreNeverTold(t *testing.T) {
	nats := natstest.Run(t, natstest.Listen(), natstest.With(func(o *server.Options) {
		o.Users = []*server.User{{Username: "edge", Password: "secret-of-nats-1"}}
	}))
	address := strings.TrimPrefix(nats.ClientURL(), "nats://")
	file := fmt.Sprintf("log: {level: debug}\nnats: {url: %q, user: edge, password: secret-of-nats-1, replicas: 1}\n", "nats://edge:secret-of-nats-1@"+address) +
		"client: {token: {hmac_secret_key: secret-of-tokens, hmac_previous_secret_key: secret-of-tokens-before}, subscription_token: {hmac_secret_key: secret-of-subscriptions}}\nhttp_api: {key: secret-of-the-api-1, keys: [secret-of-the-api-2]}\n" + chatNamespace +
		`queues: [{name: q, webhook: {url: "http://u:secret-of-the-hook-1@127.0.0.1:1/", secret: secret-of-the-signature-now, previous_secret: secret-of-the-signature-before, headers: ["X-Key: secret-of-the-hook-2"]}}]`
	path := filepath.Join(t.TempDir(), "h.yaml")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(config.Source{File: path})
	if err != nil {
		t.Fatal(err)
	}
	secrets := config.Secrets(cfg)
	if len(secrets) < 11 {
		t.Fatalf("only %d secrets in the configuration", len(secrets))
	}
	r := startNode(t, file)
	good, err := token.MintConnection("secret-of-tokens", token.Connection{User: "42", ExpireAt: time.Now().Add(time.Hour).Unix()})
	if err != nil {
		t.Fatal(err)
	}
	bad, err := token.MintConnection("another-secret", token.Connection{User: "42"})
	if err != nil {
		t.Fatal(err)
	}
	secrets = append(secrets, good, bad)
	var said strings.Builder
	for _, args := range [][]string{
		{"pub", "chat:a", "1", "--url", r.internal, "--api-key", "secret-of-the-api-1"},
		{"pub", "nowhere:a", "1", "--url", r.internal, "--api-key", "secret-of-the-api-2"},
		{"pub", "chat:a", "1", "--url", r.internal, "--api-key", "secret-of-the-api-3"},
		{"sub", "chat:a", "--url", r.clients, "--token", bad},
		{"sub", "chat:a", "--url", r.clients, "--token", good, "--since", "0:x", "--count", "1"},
		{"config", "print", "--config", path},
		{"config", "check", "--config", path},
		{"config", "check", "--config", path, "--set", "http_api.keys=secret-of-the-api-2,short"},
		{"serve", "--config", path, "--addr", "127.0.0.1:0", "--set", "nats.open_timeout=300ms", "--set", "nats.password=secret-of-nats-2", "--set", "nats.url=nats://edge:secret-of-nats-2@" + address},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		out := newOutput()
		run(ctx, args, nil, strings.NewReader(""), out, out)
		cancel()
		said.WriteString(out.String())
	}
	for _, path := range []string{"/metrics", "/health/ready", "/debug/pprof/goroutine?debug=2"} {
		_, body := get(t, r.internal+path)
		said.WriteString(body)
	}
	r.stop()
	said.WriteString(r.stdout.String() + r.stderr.String())
	if !strings.Contains(said.String(), "level=DEBUG") && !strings.Contains(said.String(), "level=INFO") {
		t.Error("nothing was logged")
	}
	for _, secret := range append(secrets, "secret-of-nats-2") {
		if i := strings.Index(said.String(), secret); i >= 0 {
			t.Errorf("%s is told: …%s…", secret, said.String()[max(i-200, 0):min(i+100, said.Len())])
		}
	}
}

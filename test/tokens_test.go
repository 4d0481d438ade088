package test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	centrifuge "github.com/centrifugal/centrifuge-go"
	"github.com/go-jose/go-jose/v4"

	"github.com/headrace/headrace/edge"
	"github.com/headrace/headrace/edge/token"
	"github.com/headrace/headrace/internal/natstest"
	"github.com/headrace/headrace/persistence"
	"github.com/headrace/headrace/router"
)

// application is what makes tokens and publishes their keys.
type application struct {
	mu      sync.Mutex // guards the fields below
	set     jose.JSONWebKeySet
	signer  *token.Signer
	calls   map[string]int // tokens made, by kind
	started time.Time
	rotated int // tokens made after the rotation
}

// rotate makes a new key and keeps the ones before published.
func (a *application) rotate() {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		panic(err)
	}
	a.signer, err = token.NewKeySigner(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	if err != nil {
		panic(err)
	}
	a.signer.KeyID = fmt.Sprint("k", len(a.set.Keys))
	a.set.Keys = append(a.set.Keys, jose.JSONWebKey{Key: k.Public(), KeyID: a.signer.KeyID, Use: "sig"})
}

func (a *application) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	json.NewEncoder(w).Encode(a.set) //nolint:errcheck // a test
}

// mint makes tokens that live for two seconds. The key is another one once edges
// may fetch the set again.
func (a *application) mint(kind, channel string) (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if time.Since(a.started) > 6*time.Second && len(a.set.Keys) == 1 {
		a.rotate()
	}
	a.calls[kind]++
	if len(a.set.Keys) > 1 {
		a.rotated++
	}
	end := time.Now().Add(2 * time.Second).Unix()
	if channel != "" {
		return a.signer.Subscription(token.Subscription{User: "42", Channel: channel, ExpireAt: end})
	}
	return a.signer.Connection(token.Connection{User: "42", ExpireAt: end}, nil)
}

// TestA1SDKKeepsItsConnection: the unmodified Go SDK comes with an expired token,
// brings another, refreshes both kinds while the keys rotate, and stays connected.
func TestA1SDKKeepsItsConnection(t *testing.T) {
	app := &application{calls: make(map[string]int), started: time.Now()}
	app.rotate()
	idp := httptest.NewServer(app)
	defer idp.Close()
	url, node := startTokenEdge(t, idp.URL)

	expired, err := app.signer.Connection(token.Connection{User: "42", ExpireAt: 1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	client := centrifuge.NewJsonClient(url, centrifuge.Config{
		Token:    expired,
		GetToken: func(centrifuge.ConnectionTokenEvent) (string, error) { return app.mint("connection", "") },
	})
	defer client.Close()
	events := make(chan string, 100)
	client.OnConnected(func(centrifuge.ConnectedEvent) { events <- "connected" })
	client.OnDisconnected(func(e centrifuge.DisconnectedEvent) { events <- fmt.Sprint("disconnected ", e.Code) })
	sub, err := client.NewSubscription("room:a", centrifuge.SubscriptionConfig{
		GetToken: func(e centrifuge.SubscriptionTokenEvent) (string, error) { return app.mint("subscription", e.Channel) },
	})
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan string, 10)
	sub.OnSubscribed(func(centrifuge.SubscribedEvent) { events <- "subscribed" })
	sub.OnSubscribing(func(e centrifuge.SubscribingEvent) {
		if e.Code != 0 {
			events <- fmt.Sprint("subscribing ", e.Code)
		}
	})
	sub.OnPublication(func(e centrifuge.PublicationEvent) { got <- string(e.Data) })
	if err := client.Connect(); err != nil {
		t.Fatal(err)
	}
	if err := sub.Subscribe(); err != nil {
		t.Fatal(err)
	}
	enough := func() bool {
		app.mu.Lock()
		defer app.mu.Unlock()
		return app.rotated >= 4 && app.calls["connection"] >= 4 && app.calls["subscription"] >= 4
	}
	for deadline := time.Now().Add(time.Minute); !enough(); time.Sleep(10 * time.Millisecond) { // a poll with a deadline
		if time.Now().After(deadline) {
			t.Fatalf("after a minute: %v tokens, %d after the rotation", app.calls, app.rotated)
		}
	}
	node.Publish(router.PublishRequest{Channel: "room:a", Data: []byte(`"still here"`)}, func(_ router.Position, err error) {
		if err != nil {
			t.Error(err)
		}
	})
	select {
	case data := <-got:
		if data != `"still here"` {
			t.Errorf("got %s", data)
		}
	case <-time.After(natstest.Patience(10 * time.Second)):
		t.Error("nothing arrives any more")
	}
	var all []string
	for range len(events) {
		all = append(all, <-events)
	}
	if s := strings.Join(all, ", "); s != "connected, subscribed" {
		t.Errorf("the client saw: %s", s)
	}
}

// startTokenEdge runs one edge that takes tokens with keys of the set at jwks only.
func startTokenEdge(t *testing.T, jwks string) (url string, node *router.Node) {
	namespaces := []router.Namespace{{Name: "room", Payload: router.PayloadJSON}}
	server := natstest.Run(t)
	store, err := persistence.Open(t.Context(), server.Conn(persistence.ConnectOptions()...), persistence.Config{Namespaces: namespaces, Replicas: 1})
	if err != nil {
		t.Fatal(err)
	}
	sessions := edge.NewSessions()
	node, err = router.New(router.Config{NodeID: "n1", Namespaces: namespaces, Core: server.Conn(persistence.ConnectOptions()...), Store: store, Sessions: sessions})
	if err != nil {
		t.Fatal(err)
	}
	cfg := edge.DefaultConfig()
	cfg.Tokens = token.Options{JWKSEndpoint: jwks, Leeway: token.DefaultLeeway}
	srv, err := edge.New(cfg, node, sessions)
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(srv.Handler())
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, run := range []func(context.Context) error{store.Run, node.Run, srv.Run} {
		running.Go(func() { run(ctx) }) //nolint:errcheck // it ends with the test
	}
	t.Cleanup(func() {
		cancel()
		running.Wait()
		web.Close()
	})
	for deadline := time.Now().Add(30 * time.Second); node.Ready() != nil; time.Sleep(time.Millisecond) { // a poll with a deadline
		if time.Now().After(deadline) {
			t.Fatal(node.Ready())
		}
	}
	return strings.Replace(web.URL, "http", "ws", 1) + "/connection/websocket", node
}

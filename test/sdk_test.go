package test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	centrifuge "github.com/centrifugal/centrifuge-go"

	"github.com/headrace/headrace/edge"
	"github.com/headrace/headrace/edge/token"
	"github.com/headrace/headrace/internal/natstest"
)

// serverSideJS is the channel that the JavaScript clients' token subscribes to.
const serverSideJS = "h:server-js"

// TestT2CentrifugeJS runs the unmodified npm package against three edges.
func TestT2CentrifugeJS(t *testing.T) {
	needNode(t)
	h := newQueueHarness(t, 1, 3, testQueues(1), compressed)
	backends(t, h.connect())
	runJS(t, h, "clients.test.mjs", token.Connection{User: "js", Channels: []string{serverSideJS}})
}

// compressed makes edges compress nearly everything for clients that offer it.
func compressed(c *edge.Config) { c.Compression, c.CompressionMinBytes = true, 64 }

// needNode skips a test of the JavaScript clients where there is no node or npm;
// HEADRACE_REQUIRE_NODE=1 makes their absence a failure.
func needNode(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("npm"); err != nil {
		if os.Getenv("HEADRACE_REQUIRE_NODE") != "" {
			t.Fatal("npm is not installed")
		}
		t.Skip("npm is not installed; install Node 20 or later to run the JavaScript clients")
	}
	if _, err := os.Stat(filepath.Join("js", "node_modules", "centrifuge")); err != nil {
		install := exec.CommandContext(t.Context(), "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
		install.Dir = "js"
		if out, err := install.CombinedOutput(); err != nil {
			t.Fatalf("npm ci: %v\n%s", err, out)
		}
	}
}

// runJS runs a file of tests with the JavaScript clients against the edges of h.
func runJS(t *testing.T, h *harness, file string, user token.Connection) {
	t.Helper()
	var urls []string
	for _, e := range h.list() {
		urls = append(urls, e.url)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", "--test", "--test-reporter=spec", file)
	cmd.Dir = "js"
	cmd.Env = append(os.Environ(), "HEADRACE_EDGES="+strings.Join(urls, ","),
		"HEADRACE_TOKEN="+mint(t, user))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("node --test: %v\n%s", err, out)
	}
	t.Logf("%s", out)
}

// TestT2CentrifugeGo loses its edge and goes on at another one with nothing
// missed, with the unmodified Go SDK in both encodings.
func TestT2CentrifugeGo(t *testing.T) {
	for kind, newClient := range map[string]func(string, centrifuge.Config) *centrifuge.Client{
		"json": centrifuge.NewJsonClient, "protobuf": centrifuge.NewProtobufClient,
	} {
		t.Run(kind, func(t *testing.T) {
			h := newHarness(t, 1, 2, compressed)
			b := newBalancer(t, h)
			defer b.Close()
			client := newClient(b.url(), centrifuge.Config{EnableCompression: true, MinReconnectDelay: 10 * time.Millisecond, MaxReconnectDelay: 100 * time.Millisecond})
			defer client.Close()
			sub, err := client.NewSubscription("h:go", centrifuge.SubscriptionConfig{Recoverable: true, Delta: centrifuge.DeltaTypeFossil})
			if err != nil {
				t.Fatal(err)
			}
			got := make(chan string, 100)
			subscribed := make(chan centrifuge.SubscribedEvent, 10)
			sub.OnPublication(func(e centrifuge.PublicationEvent) { got <- string(e.Data) })
			sub.OnSubscribed(func(e centrifuge.SubscribedEvent) { subscribed <- e })
			if err := client.Connect(); err != nil {
				t.Fatal(err)
			}
			if err := sub.Subscribe(); err != nil {
				t.Fatal(err)
			}
			within(t, subscribed, "subscribed")
			var seen []string
			for n := range 20 {
				payload := fmt.Sprintf(`{"n":%d,"text":"what all of them have in common"}`, n)
				if _, err := publish(h.list()[1].node, "h:go", payload, []byte(payload)); err != nil {
					t.Fatal(err)
				}
				if n%5 == 4 {
					h.replace(0) // the client's edge dies; the balancer leads to the next
				}
			}
			for len(seen) < 20 {
				seen = append(seen, within(t, got, "publication"))
			}
			var want []string
			for n := range 20 {
				want = append(want, fmt.Sprintf(`{"n":%d,"text":"what all of them have in common"}`, n))
			}
			if !slices.Equal(seen, want) {
				t.Errorf("saw %v", seen)
			}
		})
	}
}

func within[T any](t *testing.T, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(natstest.Patience(20 * time.Second)):
		t.Fatalf("no %s", what)
		panic("unreachable")
	}
}

// TestT2ServerSideGo: the Go SDK recovers what its token subscribes it to when its
// edge dies, and calls back ends, in both encodings.
func TestT2ServerSideGo(t *testing.T) {
	for kind, newClient := range map[string]func(string, centrifuge.Config) *centrifuge.Client{
		"json": centrifuge.NewJsonClient, "protobuf": centrifuge.NewProtobufClient,
	} {
		t.Run(kind, func(t *testing.T) {
			h := newHarness(t, 1, 2)
			backends(t, h.connect())
			b := newBalancer(t, h)
			defer b.Close()
			client := newClient(b.url(), centrifuge.Config{
				Token:             mint(t, token.Connection{User: "go", Channels: []string{"h:server-go"}}),
				MinReconnectDelay: 10 * time.Millisecond, MaxReconnectDelay: 100 * time.Millisecond,
			})
			defer client.Close()
			got := make(chan string, 100)
			subscribed := make(chan centrifuge.ServerSubscribedEvent, 10)
			client.OnSubscribed(func(e centrifuge.ServerSubscribedEvent) { subscribed <- e })
			client.OnPublication(func(e centrifuge.ServerPublicationEvent) { got <- e.Channel + " " + string(e.Data) })
			if err := client.Connect(); err != nil {
				t.Fatal(err)
			}
			if e := within(t, subscribed, "subscribed"); e.Channel != "h:server-go" || !e.Recoverable {
				t.Fatalf("subscribed %+v", e)
			}
			for n := range 20 {
				payload := fmt.Sprint(n)
				if _, err := publish(h.list()[1].node, "h:server-go", payload, []byte(payload)); err != nil {
					t.Fatal(err)
				}
				if n%5 == 4 {
					h.replace(0) // the client's edge dies; the balancer leads to the next
				}
			}
			for n := range 20 {
				if s := within(t, got, "publication"); s != fmt.Sprint("h:server-go ", n) {
					t.Fatalf("got %s, want %d", s, n)
				}
			}
			goRPC(t, kind, client)
		})
	}
}

func goRPC(t *testing.T, kind string, client *centrifuge.Client) {
	t.Helper()
	res, err := client.RPC(t.Context(), "echo", []byte(`{"n":1}`))
	if err != nil || string(res.Data) != `{"n":1}` {
		t.Errorf("echo: %s, %v", res.Data, err)
	}
	var failed *centrifuge.Error
	if _, err := client.RPC(t.Context(), "shop.buy", nil); !errors.As(err, &failed) || failed.Code != 402 || failed.Message != "Payment Required" {
		t.Errorf("shop.buy: %v", err)
	}
	res, err = client.RPC(t.Context(), "binary", nil)
	if binary := kind == "protobuf"; binary != (err == nil) || binary && string(res.Data) != "\xff\x00" {
		t.Errorf("binary answer: %q, %v", res.Data, err)
	}
}

// runScript runs a JavaScript client that ends with status 0 when all is well, and
// calls on with each line it prints. What on returns is the script's input.
func runScript(t *testing.T, file string, on func(line string) string, env ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", file)
	cmd.Dir = "js"
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	in, inErr := cmd.StdinPipe()
	if err = errors.Join(err, inErr); err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		t.Log(lines.Text())
		if answer := on(lines.Text()); answer != "" {
			fmt.Fprintln(in, answer)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%s: %v", file, err)
	}
}

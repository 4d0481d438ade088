package edge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headrace/headrace/router"
)

func TestOnceCache(t *testing.T) {
	ctx := context.Background()
	calls := 0
	count := func() (any, error) { calls++; return calls, nil }
	call := func(t *testing.T, c *onceCache, key, want string) {
		t.Helper()
		got, err := c.do(ctx, key, count)
		if s := fmt.Sprintf("%s", got); err != nil || s != want {
			t.Errorf("%s: got %s (%v), want %s", key, s, err, want)
		}
	}
	for name, f := range map[string]func(t *testing.T){
		"a repeated key is answered with the first result, for a while": func(t *testing.T) {
			c := newOnceCache(10, 1000, time.Minute)
			call(t, c, "a", "1")
			call(t, c, "b", "2")
			time.Sleep(59 * time.Second) // virtual
			call(t, c, "a", "1")
			time.Sleep(2 * time.Second) // virtual
			call(t, c, "a", "3")
		},
		"a failure is not kept": func(t *testing.T) {
			c := newOnceCache(10, 1000, time.Minute)
			if _, err := c.do(ctx, "a", func() (any, error) { return nil, errors.New("failed") }); err == nil {
				t.Error("no error")
			}
			call(t, c, "a", "1")
		},
		"above the bound the oldest is forgotten": func(t *testing.T) {
			c := newOnceCache(2, 1000, time.Minute)
			for i, key := range []string{"a", "b", "c"} {
				call(t, c, key, fmt.Sprint(i+1))
			}
			call(t, c, "a", "4")
			call(t, c, "c", "3")
		},
		"and above the bytes too": func(t *testing.T) {
			c := newOnceCache(100, 1000, time.Minute)
			for i := range 50 {
				c.do(ctx, fmt.Sprint(i), func() (any, error) { return strings.Repeat("x", 98), nil }) //nolint:errcheck // cannot fail
			}
			if n := c.entries.Len(); n != 10 || c.bytes != 1000 {
				t.Errorf("%d entries, %d bytes", n, c.bytes)
			}
		},
		"a call under way is waited for": func(t *testing.T) {
			c := newOnceCache(10, 1000, time.Minute)
			first := make(chan struct{})
			for range 3 {
				go call(t, c, "a", "1")
			}
			go c.do(ctx, "b", func() (any, error) { <-first; return nil, errors.New("failed") }) //nolint:errcheck // not ours
			synctest.Wait()
			hurry, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			if _, err := c.do(hurry, "b", count); router.CodeOf(err) != router.CodeUnavailable {
				t.Errorf("while b is under way: %v", err)
			}
			close(first)
			call(t, c, "b", "2") // after its failure
		},
	} {
		t.Run(name, func(t *testing.T) { calls = 0; synctest.Test(t, f) })
	}
}

// A repeated idempotency key has no second effect, whatever the method.
func TestIdempotencyKeysOfTheAPI(t *testing.T) {
	f := newFakeRouter()
	rpcs := 0
	f.rpc = func(router.RPCRequest) ([]byte, error) { rpcs++; return fmt.Append(nil, rpcs), nil }
	s := newTestServer(t, f, nil)
	call := func(method, body string) string {
		return string(s.callNATS(t.Context(), method, router.APICall{Body: []byte(body)}).Body)
	}
	for range 2 {
		for _, tt := range []struct{ method, body, want string }{
			{"rpc", `{"method":"x","idempotency_key":"k"}`, `{"result":{"data":1}}`},
			{"publish", `{"channel":"a","data":1,"idempotency_key":"k"}`, `{"result":{}}`},
			{"publish", `{"channel":"b","data":1,"idempotency_key":"k"}`, `{"result":{}}`},
			{"broadcast", `{"channels":["a","c"],"data":1,"idempotency_key":"k"}`, `{"result":{"responses":[{"result":{}},{"result":{}}]}}`},
			{"batch", `{"idempotency_key":"k","commands":[{"publish":{"channel":"d","data":1}}]}`, ``},
			{"rpc", `{"method":"x","idempotency_key":"` + strings.Repeat("k", 257) + `"}`, `{"error":{"code":107,"message":"idempotency_key is longer than 256 bytes"}}`},
			{"publish", `{"channel":"a","data":1,"idempotency_key":"` + strings.Repeat("k", 257) + `"}`, `{"error":{"code":107,"message":"idempotency_key is longer than 256 bytes"}}`},
		} {
			if got := call(tt.method, tt.body); tt.want != "" && got != tt.want {
				t.Errorf("%s %s\ngot  %s\nwant %s", tt.method, tt.body, got, tt.want)
			}
		}
	}
	if got := strings.Join(f.asked(), ", "); got != "publish a, publish b, publish c, publish d" || rpcs != 1 {
		t.Errorf("%d rpcs, and the router was asked %s", rpcs, got)
	}
}

func TestBatch(t *testing.T) {
	s := newTestServer(t, newFakeRouter(), nil)
	for _, parallel := range []bool{false, true} {
		var commands []string
		for i := range 100 {
			commands = append(commands, fmt.Sprintf(`{"publish":{"channel":"c%d","data":1}}`, i), `{"publish":{"channel":"a"}}`)
		}
		body := fmt.Sprintf(`{"parallel":%t,"commands":[%s]}`, parallel, strings.Join(commands, ","))
		var answer struct {
			Result struct {
				Replies []map[string]json.RawMessage `json:"replies"`
			} `json:"result"`
		}
		if err := json.Unmarshal(s.callNATS(t.Context(), "batch", router.APICall{Body: []byte(body)}).Body, &answer); err != nil {
			t.Fatal(err)
		}
		for i, r := range answer.Result.Replies {
			if want := []string{"publish", "error"}[i%2]; len(r) != 1 || r[want] == nil {
				t.Fatalf("reply %d is %s, want %s", i, r, want)
			}
		}
		if n := len(answer.Result.Replies); n != 200 {
			t.Errorf("%d replies", n)
		}
	}
	for name, body := range map[string]string{
		"empty":     `{"commands":[]}`,
		"too large": `{"commands":[` + strings.Repeat(`{"info":{}},`, 1000) + `{"info":{}}]}`,
	} {
		a := s.callNATS(t.Context(), "batch", router.APICall{Body: []byte(body)})
		if a.Code != 106 {
			t.Errorf("%s: %s", name, a.Body)
		}
	}
}

// Above the bound calls are answered at once and clearly.
func TestE10APIIsBounded(t *testing.T) {
	f := newFakeRouter()
	begun, end := make(chan struct{}), make(chan struct{})
	f.rpc = func(router.RPCRequest) ([]byte, error) { close(begun); <-end; return nil, nil }
	s := newTestServer(t, f, func(c *Config) { c.APIInsecure, c.APIMaxInflight = true, 1 })
	done := make(chan string)
	go func() { done <- postAPI(s, "rpc", `{"method":"x"}`) }()
	<-begun
	want := `503 {"error":{"code":111,"message":"the API is exhausted: too many calls are under way on this node"}}`
	if got := postAPI(s, "info", ``); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	close(end)
	if got := <-done; got != `200 {"result":{}}` {
		t.Errorf("got %s", got)
	}
}

// postAPI calls the HTTP API and returns status and answer.
func postAPI(s *Server, method, body string) string {
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/api/"+method, strings.NewReader(body)))
	return fmt.Sprint(w.Code, " ", strings.TrimSpace(w.Body.String()))
}

package edge

import (
	"net/http/httptest"
	"testing"

	tokens "github.com/headrace/headrace/edge/token"
)

// What it takes to see the codes of limits, for TestEveryCodeIsReached.
func init() {
	codeScenarios["more connections of a user than allowed"] = func(t *testing.T, seen map[int]bool) {
		connect := connectAs(tokens.Connection{User: "42"})
		s, _, _ := play(t, newFakeRouter(), func(c *Config) { c.Limits.ConnectionsPerUser = 1 }, connect)
		second, tr := newTestSession(s, jsonWS)
		second.onFrame([]byte(connect))
		reached(seen, tr)
	}
	codeScenarios["commands that go on above the rate"] = func(t *testing.T, seen map[int]bool) {
		s := newTestServer(t, newFakeRouter(), func(c *Config) { c.Limits.CommandRate = 0.001 })
		sess, tr := newTestSession(s, jsonWS)
		sess.seat, _ = s.turnstile.enter(httptest.NewRequest("GET", "/", nil))
		sess.onFrame([]byte(connectFrame))
		for i := 0; i <= maxRefusedInRow+1; i++ {
			sess.onFrame([]byte(subscribeA))
		}
		reached(seen, tr)
	}
}

package edge

import (
	"context"
	"strings"
	"testing"

	"github.com/headrace/headrace/edge/token"
	"github.com/headrace/headrace/router"
)

func TestBuiltinMethods(t *testing.T) {
	type request struct {
		Name string `json:"name"`
		N    int    `json:"n"`
	}
	for does, tc := range map[string]struct{ method, data, want string }{
		"a known method answers":                       {"queue.echo", `{"name":"a<b","n":1}`, `"rpc":{"data":{"name":"a<b","n":1}}`},
		"no data is an empty request":                  {"queue.echo", ``, `"rpc":{"data":{"name":"","n":0}}`},
		"no result is an empty object":                 {"queue.nothing", `{}`, `"rpc":{"data":{}}`},
		"a field that there is not is named":           {"queue.echo", `{"nmae":"a"}`, `"error":{"code":107,"message":"request: unknown field \"nmae\""}`},
		"a field of another type is named":             {"queue.echo", `{"n":"1"}`, `field \"n\" at byte`},
		"a reserved method never reaches a back end":   {"queue.unknown", `{}`, `"error":{"code":104,"message":"method not found"}`},
		"another method does":                          {"queues", `{}`, `"rpc":{"data":"from the back end"}`},
		"an error has its code":                        {"queue.fail", `{}`, `"error":{"code":106,"message":"the queue is full"}`},
		"rules for back ends do not apply to built-in": {"queue.secret", `{}`, `"rpc":{"data":{}}`},
	} {
		t.Run(does, func(t *testing.T) {
			f := newFakeRouter()
			f.rpc = func(router.RPCRequest) ([]byte, error) { return []byte(`"from the back end"`), nil }
			srv := newTestServer(t, f, nil)
			nothing := func(context.Context, *session, []byte) (any, error) { return nil, nil }
			srv.builtins = map[string]builtin{
				"queue.echo": typed(func(_ context.Context, _ *session, r *request) (*request, error) { return r, nil }),
				"queue.fail": func(context.Context, *session, []byte) (any, error) {
					return nil, router.Errorf(router.CodeLimit, "the queue is full")
				},
				"queue.nothing": nothing, "queue.secret": nothing,
			}
			sess, tr := newTestSession(srv, jsonWS)
			sess.onFrame([]byte(connectAs(token.Connection{User: "42"})))
			tr.take()
			frame := `{"id":2,"rpc":{"method":"` + tc.method + `"}}`
			if tc.data != "" {
				frame = `{"id":2,"rpc":{"method":"` + tc.method + `","data":` + tc.data + `}}`
			}
			sess.onFrame([]byte(frame))
			settle(srv, sess)
			if got := strings.Join(tr.take(), "\n"); !strings.Contains(got, tc.want) {
				t.Errorf("got %s, want %s in it", got, tc.want)
			}
		})
	}
}

package edge

import (
	"encoding/json"
	"testing"

	"github.com/centrifugal/protocol"

	"github.com/headrace/headrace/router"
)

// FuzzJSONFrames feeds frames to a connected session: whatever comes, it answers
// or closes, and never panics.
func FuzzJSONFrames(f *testing.F) {
	for _, s := range []string{
		`{"id":2,"subscribe":{"channel":"a","recover":true,"offset":1,"epoch":"e"}}`,
		`{"id":2,"publish":{"channel":"a","data":{"n":1}}}` + "\n" + `{}`,
		`{"id":3,"history":{"channel":"a","since":{"offset":1}}}`, `{"id":4,"presence":{"channel":"a"}}`,
		`{"id":5,"refresh":{"token":"x"}}`, `{"id":6,"sub_refresh":{"channel":"a","token":"x"}}`,
		`{"id":7,"rpc":{"method":"m"}}`, `{"send":{}}`, "\n", `{"id":1}`, `[]`, `{"id":2,"unsubscribe":{"channel":"a"}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, frame []byte) { fuzzFrame(t, jsonWS, frame) })
}

// FuzzProtobufFrames does the same in Protobuf.
func FuzzProtobufFrames(f *testing.F) {
	for _, cmd := range []*protocol.Command{
		{Id: 2, Subscribe: &protocol.SubscribeRequest{Channel: "a", Recover: true}},
		{Id: 3, Publish: &protocol.PublishRequest{Channel: "a", Data: []byte("1")}},
		{Id: 4, History: &protocol.HistoryRequest{Channel: "a", Since: &protocol.StreamPosition{Offset: 1}}},
		{Id: 5, Refresh: &protocol.RefreshRequest{Token: "x"}},
		{},
	} {
		b, err := protocol.NewProtobufCommandEncoder().Encode(cmd)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01})
	f.Fuzz(func(t *testing.T, frame []byte) { fuzzFrame(t, protobufWS, frame) })
}

// FuzzMapFrames does so where channels are maps.
func FuzzMapFrames(f *testing.F) {
	for _, s := range []string{
		`{"id":2,"subscribe":{"channel":"m","type":1,"phase":2,"limit":1}}`,
		`{"id":2,"subscribe":{"channel":"m","type":1,"phase":2,"limit":1,"cursor":"k00","offset":1,"epoch":"e"}}`,
		`{"id":2,"subscribe":{"channel":"m","type":1,"phase":1,"offset":1,"epoch":"empty","recover":true,"tf":{"op":"not","nodes":[{"key":"a","cmp":"ex"}]}}}`,
		`{"id":2,"subscribe":{"channel":"m","type":1}}` + "\n" + `{"id":3,"publish":{"channel":"m","type":1,"key":"k","removed":true}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		maps := newFakeMaps(router.MapOptions{Mode: router.MapPersistent, ClientKey: router.ClientKeyClient, RemoveOnUnsubscribe: true})
		maps.fill(3)
		fuzzOn(t, maps, jsonWS, frame)
	})
}

func fuzzFrame(t *testing.T, k kind, frame []byte) { fuzzOn(t, newFakeRouter(), k, frame) }

func fuzzOn(t *testing.T, r Router, k kind, frame []byte) {
	s := newTestServer(t, r, nil)
	sess, tr := newTestSession(s, k)
	sess.connected = true
	alive := sess.onFrame(frame)
	settle(s, sess)
	if alive != (tr.closed() == 0) {
		t.Fatalf("onFrame said %v, and the connection was closed with %d", alive, tr.closed())
	}
	sess.ended(disconnectClosed)
	if s.sessions.Count() != 0 {
		t.Fatal("the session is still there")
	}
}

// FuzzAPI calls every method of the server API with any body: it answers JSON of
// the one shape, and never panics.
func FuzzAPI(f *testing.F) {
	for _, s := range []string{
		`{"channel":"a","data":1,"idempotency_key":"k"}`, `{"channels":["a"],"b64data":"AQ=="}`, `{"user":"u","channel":"a","recover_since":{"offset":1}}`,
		`{"user":"u","disconnect":{"code":4000}}`, `{"commands":[{"publish":{"channel":"a"}},{"x":1},{}],"parallel":true}`, `{"method":"m"}`, `[]`, ``, `null`,
		`{"channel":"map","key":"k","data":1,"expect":{"version":0},"ttl":"1s"}`, `{"channel":"map","changes":[{"key":"k","remove":true}]}`, `{"channel":"map","cursor":"1","limit":-1}`, "{\"data\":\n1}",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		s := newTestServer(t, newFakeRouter(), nil)
		for name := range s.methods {
			a := s.callNATS(t.Context(), name, router.APICall{Body: body})
			var answer struct {
				Result json.RawMessage `json:"result"`
				Error  *apiErrorBody   `json:"error"`
			}
			if err := json.Unmarshal(a.Body, &answer); err != nil || (answer.Result == nil) == (answer.Error == nil) || (a.Code == 0) != (answer.Error == nil) {
				t.Errorf("%s %q: answered %d %q (%v)", name, body, a.Code, a.Body, err)
			}
		}
	})
}

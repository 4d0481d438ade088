package edge

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/router"
)

// reductions are the ways in which a client can get fewer bytes.
var reductions = []struct {
	name, header, subscribe string
}{
	{"plain", "", ""},
	{"deflate", "Sec-WebSocket-Extensions: permessage-deflate\r\n", ""},
	{"delta", "", `,"delta":"fossil"`},
	{"delta and deflate", "Sec-WebSocket-Extensions: permessage-deflate\r\n", `,"delta":"fossil"`},
}

func reducingServer(b *testing.B) (f *fakeRouter, addr string) {
	f = newFakeRouter()
	f.ns.DeltaTypes = []string{router.DeltaFossil}
	url := serve(b, newTestServer(b, f, withCompression))
	return f, strings.TrimSuffix(strings.TrimPrefix(url, "ws://"), "/connection/websocket")
}

// BenchmarkIdle reports what an idle connection with one channel costs the
// process, the client's end in it not counted: it is a raw socket.
func BenchmarkIdle(b *testing.B) {
	const n = 2000
	for _, how := range reductions {
		b.Run(how.name, func(b *testing.B) {
			for b.Loop() {
				_, addr := reducingServer(b)
				conns := make([]net.Conn, 0, n)
				before := memory()
				for i := range n {
					conns = append(conns, rawConnectAs(b, addr, how.header, fmt.Sprintf(`{"id":2,"subscribe":{"channel":"room%d"%s}}`, i, how.subscribe)))
				}
				after := memory()
				b.ReportMetric(float64(after-before)/n, "B/conn")
				for _, c := range conns {
					c.Close()
				}
			}
		})
	}
}

// BenchmarkDeliverSockets is one publication to 100 real sockets, written and
// read; one operation is the publication, of which a few bytes differ from the last.
func BenchmarkDeliverSockets(b *testing.B) {
	for _, size := range []int{128, 2_000, 20_000} {
		for _, how := range reductions {
			b.Run(byteSize(size)+" "+how.name, func(b *testing.B) {
				f, addr := reducingServer(b)
				const n = 100
				for range n {
					c := rawConnectAs(b, addr, how.header, `{"id":2,"subscribe":{"channel":"room1"`+how.subscribe+`}}`)
					go func() {
						buf := make([]byte, 64<<10)
						for {
							if _, err := c.Read(buf); err != nil {
								return
							}
						}
					}()
					b.Cleanup(func() { c.Close() })
				}
				doc := document(size)
				pubs := make([]*router.Publication, 2)
				for i := range pubs {
					pubs[i] = &router.Publication{Data: []byte(strings.Replace(string(doc), `"id":1,`, fmt.Sprintf(`"id":%d,`, 100+i), 1))}
				}
				i := 0
				b.ReportAllocs()
				for b.Loop() {
					i++
					f.deliver("room1", pubs[i%2])
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/delivery")
			})
		}
	}
}

// BenchmarkDeliver is the same without sockets: what of it is ours.
func BenchmarkDeliver(b *testing.B) {
	for _, how := range reductions {
		b.Run(how.name, func(b *testing.B) {
			s := newTestServer(b, newFakeRouter(), withCompression)
			ns := &router.Namespace{Payload: router.PayloadJSON}
			var subs []router.Subscriber
			for range 1000 {
				sess := newSession(s, jsonWS, nowhere{}, time.Time{})
				sess.deflate = how.header != ""
				subs = append(subs, sess.subscriber(&invitation{ns: ns, delta: how.subscribe != ""}))
			}
			doc := document(2000)
			pubs := []*router.Publication{{Data: doc}, {Data: []byte(strings.Replace(string(doc), `"id":1,`, `"id":11,`, 1))}}
			i := 0
			b.ReportAllocs()
			for b.Loop() {
				i++
				batch := &router.Batch{Channel: "a", Pushes: []router.Push{{Pub: pubs[i%2]}}}
				for _, sub := range subs {
					sub.Deliver(nil, batch)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/delivery")
		})
	}
}

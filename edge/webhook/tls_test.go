package webhook

import (
	"encoding/pem"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestPrivateCA calls an endpoint whose certificate only a private CA vouches for.
func TestPrivateCA(t *testing.T) {
	protocol := make(chan string, 10)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { protocol <- r.Proto }))
	srv.EnableHTTP2 = true
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	defer srv.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	if err := os.WriteFile(ca, block, 0o600); err != nil {
		t.Fatal(err)
	}
	dial := (&net.Dialer{}).DialContext
	e := testEndpoint()
	e.URL, e.CA = srv.URL, ca
	q := newFakeQueue()
	_, stop := work(t, q, e, dial)
	q.put(testJob("1"))
	if end := q.next(t); end.nack != nil || <-protocol != "HTTP/1.1" {
		t.Errorf("ended as %+v", end.nack)
	}
	stop()

	e.CA = "" // the system's
	call, err := newCaller(&e)
	if err != nil {
		t.Fatal(err)
	}
	transport, err := newTransport(&e, dial)
	if err != nil {
		t.Fatal(err)
	}
	r, err := call.request(t.Context(), testJob("2"), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	_, err = transport.RoundTrip(r)
	if o := failed(t.Context(), err, time.Second); o.result != unreachable || !strings.Contains(o.text, "certificate") {
		t.Errorf("without the CA: %+v", o)
	}
}

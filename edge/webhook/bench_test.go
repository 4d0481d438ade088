package webhook

import (
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/natstest"
	"github.com/headrace/headrace/persistence"
	"github.com/headrace/headrace/router"
)

// cpu is the processor time of this process, which holds all that takes part.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkJob measures a job of 128 bytes from stored to done, the receiver, NATS
// on R1 file and loopback TCP included; pushing is not.
func BenchmarkJob(b *testing.B) {
	srv := natstest.Run(b)
	s, end := openQueue(b, srv.Conn(persistence.ConnectOptions()...))
	defer end()
	left := make(chan struct{}, b.N+16)
	hook := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { left <- struct{}{} }))
	defer hook.Close()
	for range b.N {
		if _, err := s.Push(b.Context(), "q", router.NewJob{Payload: make([]byte, 128)}); err != nil {
			b.Fatal(err)
		}
	}
	e := testEndpoint()
	e.URL, e.Concurrency, e.MaxIdle = hook.URL, 32, 32
	runtime.GC()
	before := cpu(b)
	b.ResetTimer()
	_, stop := work(b, s, e, (&net.Dialer{}).DialContext)
	for range b.N {
		<-left
	}
	b.StopTimer()
	b.ReportMetric(float64((cpu(b)-before).Microseconds())/float64(b.N), "cpu-µs/job")
	stop()
}

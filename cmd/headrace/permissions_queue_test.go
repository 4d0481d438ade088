package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Plain NATS clients push and work under what is printed for them, and a pusher can
// take nothing, nor a worker push.
func TestPlainQueueClientsRunUnderThePrintedPermissions(t *testing.T) {
	path := filepath.Join(t.TempDir(), "h.yaml")
	if err := os.WriteFile(path, []byte("queues: [{name: mail}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	url := natsWithPrinted(t, path).ClientURL()
	if code, _, stderr := execute(t, "", "provision", "--config", path, "--nats", url, "--set", "nats.user=provision", "--set", "nats.password=provision", "--set", "nats.replicas=1"); code != exitOK {
		t.Fatal(stderr)
	}
	as := func(user string) (*nats.Conn, jetstream.JetStream) {
		nc, err := nats.Connect(url, nats.UserInfo(user, user))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		return nc, js
	}
	pusher, push := as("pusher")
	worker, work := as("worker")
	ctx := t.Context()
	if _, err := push.Publish(ctx, "hr.job.mail.high", []byte("1")); err != nil {
		t.Fatal(err)
	}
	jobs := 0
	for _, stream := range []string{"HR_JOBS_mail", "HR_RETRY_mail"} {
		c, err := work.Consumer(ctx, stream, "high")
		if err != nil {
			t.Fatalf("%s: %v", stream, err)
		}
		batch, err := c.Fetch(1, jetstream.FetchMaxWait(500*time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
		for m := range batch.Messages() {
			jobs++
			err = errors.Join(err, m.InProgress(), m.DoubleAck(ctx))
		}
		if err = errors.Join(err, worker.Flush(), worker.LastError()); err != nil {
			t.Errorf("as a worker on %s: %v", stream, err)
		}
	}
	if jobs != 1 {
		t.Errorf("the worker got %d jobs", jobs)
	}
	denied := func(nc *nats.Conn, subject string) {
		t.Helper()
		if err := errors.Join(nc.Publish(subject, nil), nc.Flush()); err != nil {
			t.Fatal(err)
		}
		if err := nc.LastError(); !errors.Is(err, nats.ErrPermissionViolation) || !strings.Contains(err.Error(), subject) {
			t.Errorf("%s is not denied: %v", subject, err)
		}
	}
	denied(pusher, "$JS.API.CONSUMER.MSG.NEXT.HR_JOBS_mail.high")
	denied(pusher, "hr.retry.mail.x")
	denied(worker, "hr.job.mail.high")
	denied(worker, "hr.dead.mail.1")
	denied(worker, "$JS.API.STREAM.MSG.DELETE.HR_JOBS_mail")
}

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/headrace/headrace/test/check"
)

// hook is an endpoint that gets the jobs of hookQueue as webhooks.
type hook struct {
	r      *run
	server *http.Server
	url    string
}

// listen makes the endpoint, so that the edges' configuration can name it.
func (r *run) listen() (*hook, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	h := &hook{r: r, url: "http://" + l.Addr().String() + "/jobs"}
	h.server = &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	go h.server.Serve(l) //nolint:errcheck // ends with Close
	return h, nil
}

// ServeHTTP does a job. What the edge makes of the answer nobody tells.
func (h *hook) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	payload, err := io.ReadAll(req.Body)
	if err != nil {
		return
	}
	e := h.taken(req.Header, payload)
	answer := func(a check.Answer, status int) {
		e.Kind, e.Job = check.Settle, &check.Job{Take: e.Job.Take, Answer: a}
		if a != check.AckJob {
			e.Job.Error = check.TakeError(e.Job.Take, "no")
		}
		h.r.history.Add(e)
		w.WriteHeader(status)
		io.WriteString(w, e.Job.Error) //nolint:errcheck // as the edge likes
	}
	switch deed := deedOf(payload); {
	case deed == doPoison, deed == doFlaky && e.Job.Attempt == 1, deed == doStuck && e.Job.Attempt <= 3:
		answer(check.NackJob, http.StatusTooEarly) // which is about this job alone
	case deed == doFinal:
		answer(check.FinalJob, http.StatusUnprocessableEntity)
	case deed == doKiller:
		panic(http.ErrAbortHandler) // the connection breaks
	case deed == doSlow:
		time.Sleep(100*time.Millisecond + rand.N(time.Second)) // the work
		answer(check.AckJob, http.StatusOK)
	case deed == doExtend:
		time.Sleep(ackWait + 2*time.Second) // the work: the edge keeps the job meanwhile
		answer(check.AckJob, http.StatusOK)
	default:
		answer(check.AckJob, http.StatusNoContent)
	}
}

// taken notes a delivery.
func (h *hook) taken(header http.Header, payload []byte) check.Event {
	number := func(name string) int {
		n, _ := strconv.Atoi(header.Get("Headrace-" + name)) //nolint:errcheck // 0 when absent
		return n
	}
	at, _ := time.Parse(time.RFC3339Nano, header.Get("Headrace-Origin-Time")) //nolint:errcheck // zero is seen
	headers := make(map[string]string)
	json.Unmarshal([]byte(header.Get("Headrace-Headers")), &headers) //nolint:errcheck // a job without
	e := check.Event{
		Kind: check.Taken, Who: "hook", Channel: "queue:" + header.Get("Headrace-Queue"), Payload: string(payload), Began: h.r.history.At(at),
		Job: &check.Job{
			ID: header.Get("Webhook-Id"), Priority: header.Get("Headrace-Priority"), Attempt: number("Attempt"), Max: number("Max-Attempts"),
			Redriven: number("Redriven"), Headers: spell(headers), Take: int(h.r.takes.Add(1)), Unlinked: true,
			Origin: fmt.Sprint(header.Get("Headrace-Origin-Subject"), " ", header.Get("Headrace-Origin-Sequence"), " ", at.UTC().Format(time.RFC3339Nano)),
		},
	}
	h.r.history.Add(e)
	return e
}

package webhook

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// result says how a request ended. The set is closed.
type result string

const (
	done        result = "done"        // 2xx
	retried     result = "retried"     // an answer after which the same may succeed later
	refused     result = "refused"     // an answer after which it never will
	timedOut    result = "timeout"     // no answer in time
	cut         result = "cut"         // the connection broke, or what came was not HTTP
	unreachable result = "unreachable" // no connection: the endpoint never saw the job
	abandoned   result = "abandoned"   // this node stopped
)

var results = []result{done, retried, refused, timedOut, cut, unreachable, abandoned}

// outcome is a result with what to do about it.
type outcome struct {
	result result
	sick   bool          // says that the endpoint fails, rather than the job
	empty  bool          // a gateway says that there is nothing behind it
	text   string        // error for people, "" when done
	delay  time.Duration // asked for by the receiver for this job; 0: the queue's backoff
	pause  time.Duration // asked for by the receiver for everything
}

// Bounds of what an answer can bring about.
const (
	maxRetryAfter = time.Hour       // delay of a job
	maxPause      = 5 * time.Minute // pause of the endpoint
	maxErrorBody  = 512             // bytes of a body that go into the error
	maxDrain      = 64 << 10        // bytes read so that the connection can be used again
	bodyTime      = time.Second     // how long that may take
)

// judge reads an answer: the table of docs/queue.md. It does not read the body.
func judge(status int, retryAfter string, now time.Time) outcome {
	text := "the endpoint answered " + strconv.Itoa(status)
	if s := http.StatusText(status); s != "" {
		text += " " + s
	}
	o := outcome{result: refused, text: text}
	switch {
	case status >= 200 && status < 300:
		return outcome{result: done}
	case status >= 300 && status < 400:
		o.text += ": redirects are not followed, change the url of the webhook"
		return o
	case status == http.StatusRequestTimeout, status == http.StatusTooEarly, status == http.StatusTooManyRequests:
		o.result, o.sick = retried, status == http.StatusTooManyRequests
	case status >= 500:
		o.result, o.sick = retried, true
		o.empty = status == http.StatusBadGateway || status == http.StatusServiceUnavailable || status == http.StatusGatewayTimeout
	}
	if o.result != retried {
		return o
	}
	after, ok := parseRetryAfter(retryAfter, now)
	if !ok {
		return o
	}
	o.delay = min(after, maxRetryAfter)
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		o.pause, o.sick = min(after, maxPause), status == http.StatusServiceUnavailable
	}
	return o
}

// parseRetryAfter reads the header (RFC 9110, 10.2.3): seconds or a date. What is
// over or malformed is not ok.
func parseRetryAfter(s string, now time.Time) (d time.Duration, ok bool) {
	s = strings.TrimSpace(s)
	if s != "" && strings.Trim(s, "0123456789") == "" {
		n, err := strconv.ParseUint(s, 10, 63)
		if err != nil || n > uint64(365*24*time.Hour/time.Second) {
			return 365 * 24 * time.Hour, true // so many digits are much
		}
		return time.Duration(n) * time.Second, n > 0
	}
	at, err := http.ParseTime(s)
	if err != nil || !at.After(now) {
		return 0, false
	}
	return min(at.Sub(now), 365*24*time.Hour), true
}

// unreachableError is that no connection came about.
type unreachableError struct{ err error }

func (e *unreachableError) Error() string { return e.err.Error() }
func (e *unreachableError) Unwrap() error { return e.err }

// errStopped is the cause with which a stop ends requests.
var errStopped = errors.New("the node stops")

// failed reads the error of a request without an answer.
func failed(ctx context.Context, err error, timeout time.Duration) outcome {
	var never *unreachableError
	switch {
	case errors.Is(context.Cause(ctx), errStopped):
		return outcome{result: abandoned}
	case errors.As(err, &never):
		return outcome{result: unreachable, sick: true, text: "the endpoint cannot be reached: " + errorText(err)}
	case ctx.Err() != nil:
		return outcome{result: timedOut, sick: true, text: fmt.Sprintf("the endpoint did not answer within %v", timeout)}
	default:
		return outcome{result: cut, sick: true, text: "the connection to the endpoint broke: " + errorText(err)}
	}
}

func errorText(err error) string {
	s := err.Error()
	return printable(s[:min(len(s), maxErrorBody)])
}

// readError adds the first bytes of a body to the text of o.
func readError(o *outcome, body io.Reader) {
	b := make([]byte, maxErrorBody)
	n, _ := io.ReadFull(body, b) // what there is counts
	if s := strings.Join(strings.Fields(printable(string(b[:n]))), " "); s != "" {
		o.text += ": " + s
	}
}

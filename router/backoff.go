package router

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Backoff says how long a job waits after a failed attempt: Base after the
// first, multiplied by Factor after each further one, at most Cap. A random part
// of up to Jitter (0 to 1) of the wait is taken off, so that jobs which failed
// together do not come back together; the wait never exceeds Cap.
type Backoff struct {
	Base, Cap time.Duration
	Factor    float64
	Jitter    float64
}

// DefaultBackoff waits about 1 s, 2 s, 4 s … and at most 30 s.
var DefaultBackoff = Backoff{Base: time.Second, Cap: 30 * time.Second, Factor: 2, Jitter: 0.2}

// MaxBackoff bounds Backoff.Cap and the delay of a job.
const MaxBackoff = 365 * 24 * time.Hour

// Delay returns the wait after attempt (1, 2 …) failed. random returns a number
// in [0, 1).
func (b Backoff) Delay(attempt int, random func() float64) time.Duration {
	d := float64(b.Base) * math.Pow(b.Factor, float64(max(attempt, 1)-1))
	d = min(d, float64(b.Cap)) // +Inf included
	return time.Duration(d - d*b.Jitter*random())
}

// Validate reports every problem of b at once.
func (b Backoff) Validate() error {
	var errs []error
	if b.Base <= 0 || b.Base > MaxBackoff {
		errs = append(errs, fmt.Errorf("backoff base %v is not within 0 to %v", b.Base, MaxBackoff))
	}
	if b.Cap < b.Base || b.Cap > MaxBackoff {
		errs = append(errs, fmt.Errorf("backoff cap %v is not within base and %v", b.Cap, MaxBackoff))
	}
	if !(b.Factor >= 1 && b.Factor <= 100) { // NaN is not either
		errs = append(errs, fmt.Errorf("backoff factor %v is not within 1 to 100", b.Factor))
	}
	if !(b.Jitter >= 0 && b.Jitter <= 1) {
		errs = append(errs, fmt.Errorf("backoff jitter %v is not within 0 to 1", b.Jitter))
	}
	return errors.Join(errs...)
}

// String returns b as ParseBackoff reads it: base, cap, factor and jitter.
func (b Backoff) String() string {
	f := func(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }
	return b.Base.String() + " " + b.Cap.String() + " " + f(b.Factor) + " " + f(b.Jitter)
}

// ParseBackoff is the inverse of Backoff.String. What it returns is valid.
func ParseBackoff(s string) (b Backoff, err error) {
	parts := strings.Split(s, " ")
	if len(parts) != 4 {
		return b, errors.New("backoff: want base, cap, factor and jitter")
	}
	var errs [4]error
	b.Base, errs[0] = time.ParseDuration(parts[0])
	b.Cap, errs[1] = time.ParseDuration(parts[1])
	b.Factor, errs[2] = strconv.ParseFloat(parts[2], 64)
	b.Jitter, errs[3] = strconv.ParseFloat(parts[3], 64)
	if err := errors.Join(errs[:]...); err != nil {
		return Backoff{}, fmt.Errorf("backoff: %w", err)
	}
	if err := b.Validate(); err != nil {
		return Backoff{}, err
	}
	return b, nil
}

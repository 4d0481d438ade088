package persistence

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/time/rate"

	"github.com/headrace/headrace/persistence/internal/jet"
	"github.com/headrace/headrace/router"
)

// UserLimitConfig is how many publications a user may make in any Window.
type UserLimitConfig struct {
	Messages int
	Window   time.Duration
}

// UserLimit counts publications per user over all edges, exactly: the store is a
// stream in memory that keeps one empty message per publication for Window and
// takes no more than Messages of a subject. So the count and the decision are one
// step of the stream's leader, and a refused publication is not counted
// (docs/decisions/0013-user-limits.md).
//
// While the stream does not answer, each edge counts for itself: a limit that
// fails open protects nobody, one that fails closed stops the chat.
type UserLimit struct {
	cfg     UserLimitConfig
	s       *Store
	subject string // "hr.rate."; a hash of the user follows
	local   *lru.Cache[string, *rate.Limiter]
	refused *lru.Cache[string, time.Time] // until when there is no use in asking
	down    atomic.Int64                  // Unix nanoseconds until which the stream is not asked
}

const (
	// userLimitBytes bounds the stream. A publication takes 56 bytes of it and 0.3 KB
	// of the server's memory, so this is 600,000 within a window and 180 MB. Above it
	// edges count for themselves.
	userLimitBytes = 32 << 20
	// userLimitTimeout bounds one question to the stream.
	userLimitTimeout = time.Second
	// userLimitPause is how long a stream that did not answer is left alone.
	userLimitPause = time.Second
	// userLimitRepeat is how long a refused user is refused without a question: a
	// flood costs the stream five a second.
	userLimitRepeat = 200 * time.Millisecond
	// userLimitUsers bounds the users remembered by the edge itself.
	userLimitUsers = 1 << 16
)

// userLimitResult says who decided.
type userLimitResult string

const (
	userLimitAllowed  userLimitResult = "allowed"
	userLimitRefused  userLimitResult = "refused"
	userLimitRepeated userLimitResult = "repeated" // refused again, without a question
	userLimitLocal    userLimitResult = "local"    // the stream did not answer
)

// UserLimit provisions the store of user limits. All edges should have the same
// cfg; the last one started decides.
func (s *Store) UserLimit(ctx context.Context, cfg UserLimitConfig) (*UserLimit, error) {
	if cfg.Messages < 1 || cfg.Window < time.Second {
		return nil, fmt.Errorf("persistence: user limit of %d messages in %v is below 1 in 1s", cfg.Messages, cfg.Window)
	}
	u := &UserLimit{cfg: cfg, s: s, subject: s.cfg.Prefix + ".rate."}
	// Both fail for sizes below 1 only.
	u.local, _ = lru.New[string, *rate.Limiter](userLimitUsers)
	u.refused, _ = lru.New[string, time.Time](userLimitUsers)
	want := jetstream.StreamConfig{
		Name: userLimitStream(s.cfg.Prefix), Description: "Headrace: publications by user, to limit them",
		Subjects: []string{u.subject + "*"}, Storage: jetstream.MemoryStorage, Replicas: s.cfg.Replicas,
		MaxAge: cfg.Window, MaxMsgsPerSubject: int64(cfg.Messages), MaxBytes: userLimitBytes,
		Discard: jetstream.DiscardNew, DiscardNewPerSubject: true, Duplicates: min(cfg.Window, 100*time.Millisecond),
	}
	have, err := s.provision.EnsurePlain(ctx, want)
	if err != nil {
		return nil, err
	}
	if have.MaxMsgsPerSubject == want.MaxMsgsPerSubject && have.MaxAge == want.MaxAge {
		return u, nil
	}
	have.MaxMsgsPerSubject, have.MaxAge = want.MaxMsgsPerSubject, want.MaxAge
	have.Duplicates = want.Duplicates
	if _, err := s.js.UpdateStream(ctx, have); err != nil {
		return nil, fmt.Errorf("persistence: change the user limit: %w", err)
	}
	s.cfg.Log.Info("user limit changed", "stream", want.Name, "messages", cfg.Messages, "window", cfg.Window)
	return u, nil
}

func userLimitStream(prefix string) string { return strings.ToUpper(prefix) + "_RATE" }

// Take counts one publication of user, or returns a CodeTooMany error when the
// user has made Messages within Window. It waits for the stream, at most
// userLimitTimeout.
func (u *UserLimit) Take(ctx context.Context, user string) error {
	now := time.Now()
	// Users are not written down: a hash counts as well.
	sum := sha256.Sum256([]byte(user))
	key := hex.EncodeToString(sum[:16])
	if until, ok := u.refused.Get(key); ok && now.Before(until) {
		return u.refuse(userLimitRepeated)
	}
	if now.UnixNano() < u.down.Load() {
		return u.takeLocal(key)
	}
	ctx, cancel := context.WithTimeout(ctx, userLimitTimeout)
	defer cancel()
	err := u.store(ctx, key)
	var refusal *jet.APIError
	switch {
	case err == nil:
		u.s.metrics.userLimit.Add(userLimitAllowed)
		return nil
	case errors.As(err, &refusal) && strings.Contains(refusal.Text, "per subject"):
		u.refused.Add(key, now.Add(userLimitRepeat))
		return u.refuse(userLimitRefused)
	}
	// Told once, not every time that the pause is over.
	if u.down.Swap(time.Now().Add(userLimitPause).UnixNano()) < now.Add(-10*userLimitPause).UnixNano() {
		u.s.cfg.Log.Warn("user limits are counted by this node alone", "err", err)
	}
	return u.takeLocal(key)
}

// store asks the stream to take one message of the user.
func (u *UserLimit) store(ctx context.Context, key string) error {
	m, err := u.s.req.Do(ctx, &nats.Msg{Subject: u.subject + key})
	if err != nil {
		return err
	}
	var ack pubAck
	if err := json.Unmarshal(m.Data, &ack); err != nil {
		return fmt.Errorf("decode ack: %w", err)
	}
	if ack.Error != nil {
		return ack.Error
	}
	return nil
}

// takeLocal counts with a bucket that holds Messages and fills up in Window. It
// is full at first: what the stream had counted is not known.
func (u *UserLimit) takeLocal(key string) error {
	fresh := rate.NewLimiter(rate.Limit(float64(u.cfg.Messages)/u.cfg.Window.Seconds()), u.cfg.Messages)
	l, known, _ := u.local.PeekOrAdd(key, fresh)
	if !known {
		l = fresh
	}
	if !l.Allow() {
		return u.refuse(userLimitRefused)
	}
	u.s.metrics.userLimit.Add(userLimitLocal)
	return nil
}

func (u *UserLimit) refuse(why userLimitResult) error {
	u.s.metrics.userLimit.Add(why)
	return router.Errorf(router.CodeTooMany, "more than %d messages in %v", u.cfg.Messages, u.cfg.Window)
}

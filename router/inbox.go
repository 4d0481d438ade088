package router

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// Bounds of inboxes.
const (
	// MaxInboxUser and MaxDevice bound a user id and a device id in bytes: both
	// become subject tokens, in which a byte may take three.
	MaxInboxUser = 128
	MaxDevice    = 64
	// MaxMessageType bounds the type of a message in bytes.
	MaxMessageType = 64
	// MaxInboxDevices bounds InboxConfig.MaxDevices: the cursors of a user are read
	// with one request.
	MaxInboxDevices = 500
)

// TagType is the tag of a message that carries its type.
const TagType = "type"

// InboxConfig says how inboxes work.
type InboxConfig struct {
	// Namespace has the inboxes: that of user 42 is the log of the channel #42, and
	// the number of a message is its offset. It must be among Config.Namespaces.
	Namespace string
	// MaxMessageBytes bounds the data of a message.
	MaxMessageBytes int
	// MaxDevices bounds the cursors of a user. One more and the device whose cursor
	// was written longest ago is forgotten.
	MaxDevices int
	// DeviceTTL is how long the cursor of a device that is not heard of is kept.
	DeviceTTL time.Duration
	Cursors   CursorStore
}

// InboxNamespace returns a namespace fit for inboxes: a numbered log per user that
// the user may subscribe to, and into which no client publishes.
func InboxNamespace(name string, size int, retention time.Duration, partitions int, memory bool) Namespace {
	return Namespace{
		Name: name, HistorySize: size, HistoryTTL: retention, Partitions: partitions, MemoryStorage: memory,
		// Longer, so that numbers go on when all messages of a quiet inbox are gone.
		Retention: 2 * retention,
		Payload:   PayloadJSON, Recover: true,
		UserLimited: true, ChannelRegex: userBoundary + `[^` + userBoundary + userSeparator + `]+`,
	}
}

func (c *InboxConfig) validate(namespaces map[string]*Namespace) error {
	ns := namespaces[c.Namespace]
	switch {
	case ns == nil:
		return fmt.Errorf("router: inbox namespace %q is not declared", c.Namespace)
	case ns.HistorySize == 0 || !ns.UserLimited || ns.Payload != PayloadJSON:
		return fmt.Errorf("router: inbox namespace %q must have history, user-limited channels and payload json", c.Namespace)
	case c.MaxMessageBytes < 1 || c.MaxDevices < 1 || c.MaxDevices > MaxInboxDevices || c.DeviceTTL <= 0 || c.Cursors == nil:
		return errors.New("router: inbox: a bound is not positive, or there is no store of cursors")
	}
	return nil
}

// Cursor is how far a device has read an inbox: up to and with message Number of
// the life that Epoch names.
type Cursor struct {
	Number uint64 `json:"number"`
	Epoch  string `json:"epoch,omitempty"`
}

// StoredCursor is a Cursor as it is stored. Seq is 0 when there is none.
type StoredCursor struct {
	Cursor
	Seq  uint64    // of the write, for CursorStore.Put
	Time time.Time // of the write
}

// DeviceCursor is the cursor of one of a user's devices.
type DeviceCursor struct {
	Device string
	StoredCursor
}

// CursorStore keeps the cursors of devices; persistence implements it on
// JetStream. User and device may be any strings, within the bounds above. Errors
// are *Error.
type CursorStore interface {
	// Get returns the cursor as the leader knows it, the zero StoredCursor when there
	// is none.
	Get(ctx context.Context, user, device string) (StoredCursor, error)
	// Put writes c if last is still the Seq of the stored one (0: there is none), else
	// it fails with CodeConflict. After CodeUnavailable it may have been written.
	Put(ctx context.Context, user, device string, c Cursor, last uint64) error
	// List returns all cursors of user, in any order; it may lag.
	List(ctx context.Context, user string) ([]DeviceCursor, error)
	// Forget removes a cursor unless it was written after seq.
	Forget(ctx context.Context, user, device string, seq uint64) error
}

// Inbox gives every user an inbox: messages from wherever are stored under the
// next number, reach the user's sessions that are subscribed, and each device has
// a cursor of its own. All methods are safe for concurrent use.
type Inbox struct {
	n    *Node
	cfg  InboxConfig
	acks ackTurns
}

// Inbox returns the inboxes of the node, nil when there are none.
func (n *Node) Inbox() *Inbox { return n.inbox }

func newInbox(n *Node, cfg *InboxConfig) (*Inbox, error) {
	if cfg == nil {
		return nil, nil
	}
	if err := cfg.validate(n.namespaces); err != nil {
		return nil, err
	}
	return &Inbox{n: n, cfg: *cfg}, nil
}

// Channel returns the channel of user's inbox, or an *Error for a user that cannot
// have one.
func (b *Inbox) Channel(user string) (string, error) {
	switch {
	case user == "":
		return "", Errorf(CodeInvalid, "user is empty")
	case len(user) > MaxInboxUser || !utf8.ValidString(user):
		return "", Errorf(CodeInvalid, "user must be UTF-8 of at most %d bytes", MaxInboxUser)
	case strings.Contains(user, userBoundary) || strings.Contains(user, userSeparator):
		// In a user-limited channel's name these end one user and begin another.
		return "", Errorf(CodeInvalid, "a user id with %s or %s has no inbox", userBoundary, userSeparator)
	}
	return Channel{Namespace: b.cfg.Namespace, Name: userBoundary + user}.String(), nil
}

// target is an inbox that a method is about.
type target struct {
	user    string
	channel string
	key     string
	ns      *Namespace
	log     Log
}

func (b *Inbox) target(user string) (target, error) {
	channel, err := b.Channel(user)
	if err != nil {
		return target{}, err
	}
	ch, ns, log, err := b.n.resolveLog(channel)
	return target{user, channel, ch.Key(), ns, log}, err
}

func checkDevice(device string) error {
	if device == "" || len(device) > MaxDevice || !utf8.ValidString(device) {
		return Errorf(CodeInvalid, "device must be UTF-8 of 1 to %d bytes", MaxDevice)
	}
	return nil
}

// Clear removes all messages of user's inbox. Numbers go on, cursors stay.
func (b *Inbox) Clear(ctx context.Context, user string) error {
	t, err := b.target(user)
	if err != nil {
		return err
	}
	_, err = t.log.Clear(ctx, t.key)
	return err
}

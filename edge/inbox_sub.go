package edge

import (
	"context"
	"encoding/json"

	"github.com/centrifugal/protocol"

	"github.com/headrace/headrace/router"
)

// deviceOf returns the device that a subscription to an inbox names, "" when it
// names none.
func (s *session) deviceOf(req *protocol.SubscribeRequest) (string, error) {
	if !s.srv.cfg.Inbox.isInbox(req.Channel) || len(req.Data) == 0 {
		return "", nil
	}
	var data inboxDeviceRequest
	if err := strictJSON(req.Data, &data); err != nil {
		return "", router.Errorf(router.CodeInvalid, `the data of a subscription to an inbox is {"device": …}: %s`, err.Error())
	}
	if data.Device == "" {
		return "", nil
	}
	own, err := s.srv.cfg.Inbox.Service.Channel(s.user())
	if err != nil || own != req.Channel {
		return "", router.Errorf(router.CodeDenied, "a device has a cursor in the inbox of its own user only")
	}
	return data.Device, nil
}

// resumed is what the client is told with a subscription that names its device.
type resumed struct {
	Device string `json:"device"`
	Cursor uint64 `json:"cursor"`
	New    bool   `json:"new,omitempty"`
	Gone   bool   `json:"gone,omitempty"`
}

// maxResumes bounds how often a subscription starts over because the inbox lost
// its oldest message meanwhile.
const maxResumes = 4

// resuming is a subscription to an inbox that goes on where the device stands: at
// the client's position if it has one, else at the stored cursor. When what
// follows is no longer all stored, it begins with the oldest that is and says so.
type resuming struct {
	s      *session
	cmd    *protocol.Command
	state  *channelState
	in     invitation
	user   string
	tell   resumed
	tries  int
	strict bool // the client would rather get an error
}

func (s *session) resume(cmd *protocol.Command, state *channelState, in invitation, device string) {
	req := cmd.Subscribe
	r := &resuming{s: s, cmd: cmd, state: state, in: in, user: s.user(), strict: req.Recover && req.Flag&flagRejectUnrecovered != 0}
	r.wait(func(ctx context.Context) error {
		at, err := s.srv.cfg.Inbox.Service.Resume(ctx, r.user, device)
		if err != nil {
			return err
		}
		r.tell = resumed{Device: device, Cursor: at.Cursor.Number, New: at.New}
		from := router.Position{Offset: at.Cursor.Number, Epoch: at.Cursor.Epoch}
		if req.Recover {
			from = router.Position{Offset: req.Offset, Epoch: req.Epoch}
		}
		r.subscribe(from)
		return nil
	})
}

// wait runs f off the goroutines that must not block. An error answers the client.
func (r *resuming) wait(f func(context.Context) error) {
	r.s.begin()
	r.s.srv.calls.Go(func() {
		defer r.s.end()
		ctx, cancel := context.WithTimeout(r.s.srv.ctx, callTimeout)
		defer cancel()
		if err := f(ctx); err != nil {
			r.s.fail(r.cmd, err)
			r.s.release(r.state)
		}
	})
}

func (r *resuming) subscribe(from router.Position) {
	data, err := json.Marshal(r.tell)
	if err == nil {
		r.in.data = data
	}
	r.in.gone = r.tell.Gone
	r.s.subscribeFrom(r.cmd, r.state, r.in, router.SubscribeRequest{
		Recover: true, Position: from, Recoverable: true, Positioned: true, JoinLeave: r.cmd.Subscribe.JoinLeave, RejectUnrecovered: true,
	}, func(err error) bool { return r.again(from, err) })
}

// again starts over from the oldest message, after the subscription failed. It is
// false when the client is to get the error.
func (r *resuming) again(from router.Position, err error) bool {
	r.tries++
	if router.CodeOf(err) != router.CodeUnrecoverable || r.strict || r.tries > maxResumes {
		return false
	}
	r.tell.Gone = true
	r.wait(func(ctx context.Context) error {
		oldest, err := r.s.srv.cfg.Inbox.Service.Oldest(ctx, r.user, from)
		if err == nil {
			r.subscribe(oldest)
		}
		return err
	})
	return true
}

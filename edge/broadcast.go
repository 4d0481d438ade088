package edge

import "github.com/headrace/headrace/router"

// encoders make the frame of a batch, one per slot of its cache: see
// session.batchFrame.
type encoders [router.MaxFrameKinds]func(*router.Batch) []byte

// makeEncoders fills e with what writes publications in the form wire.
func (s *Server) makeEncoders(e *encoders, wire wireForm) {
	for k := range numKinds {
		e[k] = func(b *router.Batch) []byte {
			frame := k.batchFrame(b, wire, func() { s.metrics.drop(dropEncoding, 1) })
			if frame == nil {
				frame = []byte{} // nothing to send, and no reason to encode it again
			}
			return frame
		}
	}
	s.compressed(e)
}

// batchFrame returns the frame of b for s, made once for all sessions that get the
// same bytes. It is empty when there is nothing to send.
func (s *session) batchFrame(b *router.Batch, e *encoders) []byte {
	slot := int(s.kind)
	if s.deflate {
		slot = deflatedSlot[s.kind]
	}
	return b.Frame(slot, e[slot])
}

// send sends a frame for this session alone.
func (s *session) send(frame []byte) {
	if s.deflate {
		frame = s.srv.deflater.frame(frame)
	}
	s.t.Send(frame)
}

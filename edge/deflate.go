package edge

import (
	"net/http"
	"runtime"
	"strings"

	"github.com/klauspost/compress/flate"

	"github.com/headrace/headrace/router"
)

// permessage-deflate (RFC 7692) without context takeover: a compressed frame depends
// on no other, so one frame serves all who get the same bytes, and an idle connection
// holds no compressor. gorilla negotiates and inflates; it would compress for each
// connection, in fragments, so that is done here.

// rsv1 marks the first frame of a compressed message (RFC 7692 section 6).
const rsv1 = 0x40

// deflatedSlot is the slot of the encoders for compressed frames, behind those of the
// kinds; 0 where there are none.
var deflatedSlot = [numKinds]int{jsonWS: int(numKinds), protobufWS: int(numKinds) + 1, uniWS: int(numKinds) + 2}

// A compile-time check: the frame cache of a batch has room for them.
var _ [router.MaxFrameKinds - int(numKinds) - 3]struct{}

// deflater compresses frames.
type deflater struct {
	minBytes int // payloads below it stay as they are
	metrics  *metrics
	// writers are lent out one at a time, nil until first used: about 0.9 MB each, so
	// there are as many as can run. Who finds none waits for one that is running.
	writers chan *flate.Writer
}

func newDeflater(minBytes int, m *metrics) *deflater {
	d := &deflater{minBytes: minBytes, metrics: m, writers: make(chan *flate.Writer, runtime.GOMAXPROCS(0))}
	for range cap(d.writers) {
		d.writers <- nil
	}
	return d
}

// frame returns the compressed form of a sealed data frame, or the frame itself when
// it is small or would not become smaller.
func (d *deflater) frame(frame []byte) []byte {
	if len(frame) < d.minBytes {
		return frame
	}
	payload := framePayload(frame)
	if len(payload) < d.minBytes {
		return frame
	}
	out := frameWriter{newFrame(len(payload) / 3)}
	w := <-d.writers
	if w == nil {
		w, _ = flate.NewWriter(nil, flate.BestSpeed) // fails for unknown levels only
	}
	w.Reset(&out)
	w.Write(payload) //nolint:errcheck // frameWriter does not fail
	w.Flush()        //nolint:errcheck // likewise
	d.writers <- w
	b := out.b[:len(out.b)-len(flushMark)]
	d.metrics.reduced.deflateIn.Add(float64(len(payload)))
	if len(b)-frameHead >= len(payload) {
		d.metrics.reduced.deflateOut.Add(float64(len(payload)))
		return frame
	}
	d.metrics.reduced.deflateOut.Add(float64(len(b) - frameHead))
	return sealFrame(frame[0]|rsv1, b)
}

// flushMark ends what a flush writes; a message leaves it out (RFC 7692 section
// 7.2.1).
const flushMark = "\x00\x00\xff\xff"

// frameWriter appends to the payload of a frame.
type frameWriter struct{ b []byte }

func (w *frameWriter) Write(p []byte) (int, error) {
	w.b = append(w.b, p...)
	return len(p), nil
}

// compressed adds to e what compresses the frames of the WebSocket kinds.
func (s *Server) compressed(e *encoders) {
	for k, slot := range deflatedSlot {
		if slot == 0 {
			continue
		}
		e[slot] = func(b *router.Batch) []byte {
			frame := b.Frame(k, e[k])
			if len(frame) == 0 {
				return frame
			}
			return s.deflater.frame(frame)
		}
	}
}

// offersDeflate reports whether the client offers permessage-deflate in a form that
// can be accepted: gorilla accepts every offer without looking at its parameters, and
// does not tell whether it did. So this must be true only where gorilla accepts too
// (compared in a fuzz test), and where its answer, no context takeover and windows of
// 32 KiB, suits the offer.
func offersDeflate(h http.Header) bool {
	for _, value := range h["Sec-Websocket-Extensions"] {
		for offer := range strings.SplitSeq(value, ",") {
			ok, well := checkOffer(offer)
			if ok {
				return true
			}
			if !well {
				break
			}
		}
	}
	return false
}

// checkOffer reports whether one offer of an extension can be accepted, and whether
// it is well-formed: what follows another one does not count.
func checkOffer(offer string) (ok, well bool) {
	for i, part := range strings.Split(offer, ";") {
		name, value, _ := strings.Cut(strings.Trim(part, " \t"), "=")
		if !isToken(name) || value != "" && !isToken(value) || i == 0 && strings.Contains(part, "=") {
			return false, false
		}
		switch {
		case i == 0:
			ok = name == "permessage-deflate"
		case name != "client_max_window_bits" && name != "client_no_context_takeover" && name != "server_no_context_takeover":
			ok = false // server_max_window_bits: the client could not inflate
		}
	}
	return ok, true
}

// isToken reports whether s is a token of letters, digits, - and _ (a part of what
// RFC 7230 section 3.2.6 allows).
func isToken(s string) bool {
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return s != ""
}

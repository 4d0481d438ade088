package edge

import (
	"encoding/binary"
	"unicode/utf8"

	"github.com/gorilla/websocket"
)

// frameHead is the largest header of an unmasked WebSocket frame: two bytes and a
// 64-bit length (RFC 6455 section 5.2).
const frameHead = 10

// Opcodes of server frames, FIN set.
const (
	opText   = 0x80 | websocket.TextMessage
	opBinary = 0x80 | websocket.BinaryMessage
	opClose  = 0x80 | websocket.CloseMessage
	opPong   = 0x80 | websocket.PongMessage
)

// newFrame returns a buffer to append a payload to, with room in front for the
// header that sealFrame writes.
func newFrame(size int) []byte { return make([]byte, frameHead, frameHead+size) }

// sealFrame writes the header in front of the payload and returns the frame. A
// server frame is unmasked, so one slice serves all receivers.
func sealFrame(op byte, b []byte) []byte {
	n := len(b) - frameHead
	switch {
	case n < 126:
		b[8], b[9] = op, byte(n)
		return b[8:]
	case n < 1<<16:
		b[6], b[7] = op, 126
		binary.BigEndian.PutUint16(b[8:], uint16(n))
		return b[6:]
	default:
		b[0], b[1] = op, 127
		binary.BigEndian.PutUint64(b[2:], uint64(n))
		return b
	}
}

// framePayload returns the payload of a frame made by sealFrame.
func framePayload(frame []byte) []byte {
	switch frame[1] {
	case 126:
		return frame[4:]
	case 127:
		return frame[10:]
	default:
		return frame[2:]
	}
}

// closeFrame returns a close frame. Codes that must not stand in a frame
// (RFC 6455 section 7.4.1) give an empty one.
func closeFrame(d disconnect) []byte {
	b := newFrame(2 + len(d.reason))
	if d.code != websocket.CloseNoStatusReceived && d.code != websocket.CloseAbnormalClosure {
		reason := d.reason
		for len(reason) > 123 || !utf8.ValidString(reason) {
			reason = reason[:len(reason)-1]
		}
		b = binary.BigEndian.AppendUint16(b, d.code)
		b = append(b, reason...)
	}
	return sealFrame(opClose, b)
}

package edge

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"unicode/utf8"

	"github.com/centrifugal/protocol"

	"github.com/headrace/headrace/router"
)

// kind is an encoding on a transport. It indexes the frame cache of a
// router.Batch, so kinds are below router.MaxFrameKinds.
type kind uint8

const (
	jsonWS         kind = iota // JSON lines in a text frame
	protobufWS                 // length-prefixed messages in a binary frame
	jsonStream                 // JSON lines in the body of a response
	protobufStream             // length-prefixed messages in the body of a response
	sse                        // Server-Sent Events with JSON
	uniWS                      // one way: pushes, as JSON lines in a text frame
	uniSSE                     // one way: named Server-Sent Events, see uni_sse.go
	numKinds
)

func (k kind) String() string {
	if k.protobuf() {
		return "protobuf"
	}
	return "json"
}

// protobuf reports whether data is carried as it is, and not as JSON.
func (k kind) protobuf() bool { return k == protobufWS || k == protobufStream }

// stream reports whether frames make up the body of a response.
func (k kind) stream() bool { return k == jsonStream || k == protobufStream || k == sse || k == uniSSE }

// oneWay reports whether the client sends nothing after it has connected.
func (k kind) oneWay() bool { return k == uniWS || k == uniSSE }

// emulated reports whether commands come in requests of their own, see
// emulation.go.
func (k kind) emulated() bool { return k.stream() && k != uniSSE }

// transportNames are the kinds' transports, for metrics.
var transportNames = [numKinds]string{
	jsonWS: "websocket", protobufWS: "websocket", jsonStream: "http_stream", protobufStream: "http_stream",
	sse: "sse", uniWS: "uni_websocket", uniSSE: "uni_sse",
}

// pingFrames are the empty replies that the protocol uses as pings. Plain
// EventSource clients get a comment.
var pingFrames = [numKinds][]byte{
	jsonWS:         sealFrame(opText, append(newFrame(2), "{}"...)),
	protobufWS:     sealFrame(opBinary, append(newFrame(1), 0)),
	jsonStream:     []byte("{}\n"),
	protobufStream: {0},
	sse:            []byte("data: {}\n\n"),
	uniWS:          sealFrame(opText, append(newFrame(2), "{}"...)),
	uniSSE:         []byte(": ping\n\n"),
}

var errEmptyFrame = errors.New("edge: empty frame")

// decodeCommands calls f for every command in data until f returns false. The
// strings of JSON commands point into data, which must not change afterwards.
func (k kind) decodeCommands(data []byte, f func(*protocol.Command) bool) error {
	if len(data) == 0 {
		return errEmptyFrame
	}
	if k.oneWay() {
		cmd, err := oneWayConnect(data)
		if err == nil {
			f(cmd)
		}
		return err
	}
	var dec protocol.CommandDecoder
	if k.protobuf() {
		dec = protocol.NewProtobufCommandDecoder(data)
	} else {
		dec = protocol.NewJSONCommandDecoder(data)
	}
	for {
		cmd, err := dec.Decode()
		if cmd != nil && (err == nil || errors.Is(err, io.EOF)) && !f(cmd) {
			return nil
		}
		switch {
		case errors.Is(err, io.EOF) && cmd != nil:
			return nil
		case errors.Is(err, io.EOF): // a truncated length prefix
			return io.ErrUnexpectedEOF
		case err != nil:
			return err
		}
	}
}

// appendReply appends r to the payload b of a frame. first is whether nothing
// was appended yet. It fails when r holds invalid JSON for a JSON kind; b is then
// returned as it was.
func (k kind) appendReply(b []byte, r *protocol.Reply) ([]byte, error) {
	if k.protobuf() {
		size := r.SizeVT()
		out := binary.AppendUvarint(b, uint64(size))
		start := len(out)
		out = append(out, make([]byte, size)...)
		if _, err := r.MarshalToSizedBufferVT(out[start:]); err != nil {
			return b, err
		}
		return out, nil
	}
	if k.oneWay() {
		return k.appendOneWay(b, r)
	}
	enc, err := protocol.DefaultJsonReplyEncoder.Encode(r)
	if err != nil {
		return b, err
	}
	return k.appendLine(b, enc), nil
}

// appendLine appends one JSON value without line feeds as k delimits it. In events a
// carriage return ends a line, too (WHATWG HTML section 9.2.5); in JSON it can only
// stand between values, where a space means the same.
func (k kind) appendLine(b, line []byte) []byte {
	switch {
	case k == jsonStream:
		return append(append(b, line...), '\n')
	case k == sse || k == uniSSE:
		b = append(append(b, "data: "...), line...)
		for rest := b[len(b)-len(line):]; ; {
			i := bytes.IndexByte(rest, '\r')
			if i < 0 {
				return append(b, "\n\n"...)
			}
			rest[i] = ' '
			rest = rest[i+1:]
		}
	case len(b) > frameHead:
		b = append(b, '\n')
	}
	return append(b, line...)
}

// seal makes a frame of the payload collected by appendReply.
func (k kind) seal(b []byte) []byte {
	switch {
	case k.stream():
		return b[frameHead:]
	case k.protobuf():
		return sealFrame(opBinary, b)
	}
	return sealFrame(opText, b)
}

// farewell is the last frame of a connection: a close frame, or what stands for
// one in a stream.
func (k kind) farewell(d disconnect) []byte {
	if !k.stream() {
		return closeFrame(d)
	}
	frame, err := k.frame(&protocol.Reply{Push: &protocol.Push{Disconnect: &protocol.Disconnect{
		Code: uint32(d.code), Reason: d.reason, Reconnect: d.code < 3500 || d.code >= 4000 && d.code < 4500}}})
	if err != nil {
		return nil // never: both are the server's own
	}
	return frame
}

// frame encodes one reply as a frame.
func (k kind) frame(r *protocol.Reply) ([]byte, error) {
	b, err := k.appendReply(newFrame(128), r)
	if err != nil {
		return nil, err
	}
	return k.seal(b), nil
}

// batchFrame encodes all pushes of b as one frame, nil when none can be encoded.
// failed is called for each push that cannot be.
func (k kind) batchFrame(b *router.Batch, wire wireForm, failed func()) []byte {
	size := 0
	for i := range b.Pushes {
		if p := b.Pushes[i].Pub; p != nil {
			size += len(p.Data)
		}
		size += 64 + len(b.Channel)
	}
	buf := newFrame(size)
	for i := range b.Pushes {
		var err error
		if buf, err = k.appendReply(buf, &protocol.Reply{Push: k.wirePush(b.Channel, &b.Pushes[i], wire)}); err != nil {
			failed()
		}
	}
	if len(buf) == frameHead {
		return nil
	}
	return k.seal(buf)
}

// wireForm is how a publication is written for a kind: kind.wirePublication or
// kind.deltaPublication.
type wireForm func(kind, *router.Publication) *protocol.Publication

func (k kind) wirePush(channel string, p *router.Push, wire wireForm) *protocol.Push {
	w := &protocol.Push{Channel: channel}
	switch {
	case p.Pub != nil:
		w.Pub = wire(k, p.Pub)
	case p.Join != nil:
		w.Join = &protocol.Join{Info: k.wireInfo(p.Join)}
	case p.Leave != nil:
		w.Leave = &protocol.Leave{Info: k.wireInfo(p.Leave)}
	}
	return w
}

// wirePublication is p as clients of kind k can take it: JSON clients get what is
// not JSON as a base64 string and a tag that says so (router.PayloadAny).
func (k kind) wirePublication(p *router.Publication) *protocol.Publication {
	if !k.protobuf() && (p.Key == "" || len(p.Data) > 0) && !p.Delta && !jsonOnOneLine(p.Data) {
		p = jsonPublication(p)
	}
	return &protocol.Publication{
		Data: p.Data, Info: k.wireInfo(p.Info), Offset: p.Offset, Epoch: p.Epoch, Tags: p.Tags, Time: p.Time,
		Key: p.Key, Removed: p.Removed, Version: p.Version,
	}
}

func (k kind) wirePublications(ps []*router.Publication) []*protocol.Publication {
	if len(ps) == 0 {
		return nil
	}
	out := make([]*protocol.Publication, len(ps))
	for i, p := range ps {
		out[i] = k.wirePublication(p)
	}
	return out
}

// jsonOnOneLine reports whether a JSON client gets b as it is.
func jsonOnOneLine(b []byte) bool { return validJSON(b) && bytes.IndexByte(b, '\n') < 0 }

// jsonPublication returns p with its data as JSON on one line.
func jsonPublication(p *router.Publication) *router.Publication {
	q := *p
	var line bytes.Buffer
	if utf8.Valid(p.Data) && json.Compact(&line, p.Data) == nil {
		q.Data = line.Bytes()
		return &q
	}
	q.Data, _ = json.Marshal(p.Data) // a byte slice always encodes, as base64
	q.Tags = maps.Clone(p.Tags)
	if q.Tags == nil {
		q.Tags = make(map[string]string, 1)
	}
	q.Tags["encoding"] = "base64"
	return &q
}

// validJSON also refuses bytes that are not UTF-8, which json.Valid lets pass
// within strings: browsers drop a connection over one such text frame, and would
// get it again from the history when they recover.
func validJSON(b []byte) bool { return utf8.Valid(b) && json.Valid(b) }

func (k kind) wireInfo(i *router.ClientInfo) *protocol.ClientInfo {
	if i == nil {
		return nil
	}
	return &protocol.ClientInfo{User: i.User, Client: i.Client, ConnInfo: k.wireBytes(i.ConnInfo), ChanInfo: k.wireBytes(i.ChanInfo)}
}

// wireBytes is b as clients of kind k can take it: what tokens carry may be any
// bytes (b64info), and for a JSON client they become a base64 string. Left as they
// are, they would cost it the whole publication.
func (k kind) wireBytes(b []byte) []byte {
	if k.protobuf() {
		return b
	}
	if line, err := jsonLine(b); err == nil {
		return line // a newline would end the reply
	}
	b, _ = json.Marshal(b) // a byte slice always encodes
	return b
}

package router

import (
	"bytes"
	"encoding/json"
	"fmt"
	"unicode/utf8"
)

// ClientInfo is what subscribers may know about a client. ConnInfo and ChanInfo
// are opaque bytes from the tokens, JSON unless the application chose otherwise.
type ClientInfo struct {
	Client   string
	User     string
	ConnInfo []byte
	ChanInfo []byte
}

// Publication is a message in a channel as subscribers get it. It is shared by
// all of them: nobody changes it or its slices.
type Publication struct {
	Offset uint64 // 0 in channels without history
	Epoch  string // set on the first publication of a life only
	Time   int64  // when stored, Unix milliseconds; 0 without history
	Data   []byte
	Info   *ClientInfo // who published it; nil for the server API
	Tags   map[string]string

	// In maps: the key that changed, its version, and whether it was removed.
	Key     string
	Version uint64
	Removed bool
	// Delta: Data is what changed, for those who have the publication before. Nothing
	// in this package sets it; subscribers make such publications for themselves.
	Delta bool
	// Was is what the tags of the value before were, when they were others: a key may
	// leave what a filter wants. nil when they were the same, or there was no value.
	Was *map[string]string
}

// Meta is what travels beside a payload. It is one header value in NATS, as JSON
// in ASCII: names and accents of users would change or break as header lines
// (rule W4).
type Meta struct {
	Info *ClientInfo
	Tags map[string]string
	Was  *map[string]string // see Publication.Was
}

type metaJSON struct {
	User     string             `json:"user,omitempty"`
	Client   string             `json:"client,omitempty"`
	ConnInfo json.RawMessage    `json:"info,omitempty"`
	ConnRaw  []byte             `json:"info_b64,omitempty"` // when not JSON
	ChanInfo json.RawMessage    `json:"chan_info,omitempty"`
	ChanRaw  []byte             `json:"chan_info_b64,omitempty"`
	Tags     map[string]string  `json:"tags,omitempty"`
	Was      *map[string]string `json:"was_tags,omitempty"`
}

// Encode returns m as a header value, or nil when there is nothing to say.
func (m Meta) Encode() []byte {
	if m.Info == nil && len(m.Tags) == 0 && m.Was == nil {
		return nil
	}
	w := metaJSON{Tags: m.Tags, Was: m.Was}
	if i := m.Info; i != nil {
		w.User, w.Client = i.User, i.Client
		w.ConnInfo, w.ConnRaw = splitJSON(i.ConnInfo)
		w.ChanInfo, w.ChanRaw = splitJSON(i.ChanInfo)
	}
	b, err := json.Marshal(w)
	if err != nil { // cannot happen: raw parts were checked by splitJSON
		panic(fmt.Sprintf("router: encode meta: %v", err))
	}
	return asciiJSON(b)
}

// DecodeMeta is the inverse of Meta.Encode. An empty value is an empty Meta.
func DecodeMeta(b []byte) (Meta, error) {
	if len(b) == 0 {
		return Meta{}, nil
	}
	var w metaJSON
	if err := json.Unmarshal(b, &w); err != nil {
		return Meta{}, fmt.Errorf("decode meta: %w", err)
	}
	m := Meta{Tags: w.Tags, Was: w.Was}
	if w.User != "" || w.Client != "" || w.ConnInfo != nil || w.ConnRaw != nil || w.ChanInfo != nil || w.ChanRaw != nil {
		m.Info = &ClientInfo{Client: w.Client, User: w.User, ConnInfo: w.ConnInfo, ChanInfo: w.ChanInfo}
		if w.ConnRaw != nil {
			m.Info.ConnInfo = w.ConnRaw
		}
		if w.ChanRaw != nil {
			m.Info.ChanInfo = w.ChanRaw
		}
	}
	return m, nil
}

func splitJSON(b []byte) (valid json.RawMessage, other []byte) {
	switch {
	case len(b) == 0:
		return nil, nil
	case json.Valid(b):
		return b, nil
	default:
		return nil, b
	}
}

// asciiJSON escapes non-ASCII characters of valid JSON. They can only stand in
// strings, so \u escapes keep the meaning.
func asciiJSON(b []byte) []byte {
	for i := 0; i < len(b); i++ {
		if b[i] >= utf8.RuneSelf {
			var out bytes.Buffer
			for _, r := range string(b) {
				switch {
				case r < utf8.RuneSelf:
					out.WriteByte(byte(r))
				case r > 0xffff:
					r -= 0x10000
					fmt.Fprintf(&out, `\u%04x\u%04x`, 0xd800+(r>>10), 0xdc00+(r&0x3ff))
				default:
					fmt.Fprintf(&out, `\u%04x`, r)
				}
			}
			return out.Bytes()
		}
	}
	return b
}

// checkPayload refuses payloads that a namespace does not carry and returns the
// payload as it is stored. Newlines separate messages in the JSON protocol, so
// JSON is stored without them (rule W6).
func checkPayload(kind Payload, data []byte) ([]byte, error) {
	if kind != PayloadJSON {
		return data, nil
	}
	// encoding/json lets other bytes through in strings; browsers drop the
	// connection for them.
	if !json.Valid(data) || !utf8.Valid(data) {
		return nil, Errorf(CodeInvalid, "data is not valid JSON in UTF-8; a namespace with payload: binary or any takes other bytes")
	}
	if bytes.IndexByte(data, '\n') < 0 && bytes.IndexByte(data, '\r') < 0 {
		return data, nil
	}
	var out bytes.Buffer
	if err := json.Compact(&out, data); err != nil {
		return nil, Errorf(CodeInvalid, "data is not valid JSON")
	}
	return out.Bytes(), nil
}

// CheckPayload is checkPayload for the ingest of plain NATS publishes.
func (ns *Namespace) CheckPayload(data []byte) ([]byte, error) { return checkPayload(ns.Payload, data) }

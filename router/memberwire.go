package router

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sort"
)

// member is one who is in a channel, as presence, joins and leaves tell it.
type member struct {
	info   *ClientInfo
	hidden bool // not in presence
	quiet  bool // its coming and going is not told
}

// memberOf returns what s is to others; ok is false when it is nothing.
func memberOf(s *Subscription) (m member, ok bool) {
	return member{info: s.Info, hidden: s.NoPresence, quiet: s.NoJoinLeave}, s.Info != nil && !(s.NoPresence && s.NoJoinLeave)
}

// same reports whether others see no difference between m and o.
func (m member) same(o member) bool {
	a, b := m.info, o.info
	return m.hidden == o.hidden && m.quiet == o.quiet && a.Client == b.Client && a.User == b.User &&
		string(a.ConnInfo) == string(b.ConnInfo) && string(a.ChanInfo) == string(b.ChanInfo)
}

type memberJSON struct {
	Info   json.RawMessage `json:"info"` // Meta
	Hidden bool            `json:"hidden,omitempty"`
	Quiet  bool            `json:"quiet,omitempty"`
}

func (m member) wire() memberJSON {
	return memberJSON{Info: Meta{Info: m.info}.Encode(), Hidden: m.hidden, Quiet: m.quiet}
}

// size is what m takes in a message, about.
func (w *memberJSON) size() int { return len(w.Info) + 48 }

var errNoMember = errors.New("member without info")

func (w *memberJSON) decode() (member, error) {
	meta, err := DecodeMeta(w.Info)
	if err == nil && (meta.Info == nil || meta.Info.Client == "") {
		err = errNoMember
	}
	if err != nil {
		return member{}, err
	}
	return member{info: meta.Info, hidden: w.Hidden, quiet: w.Quiet}, nil
}

// memberChange is a join or a leave.
type memberChange struct {
	join bool
	member
}

// memberMessage is what join/leave subjects carry: what changed in one pass among the
// members that a channel has at one node. Version is the node's newest version of
// the channel, Prev the one before it, so that who follows notices what is missing;
// Prev is 0 when the node had no member there.
type memberMessage struct {
	node    string
	prev    uint64
	version uint64
	changes []memberChange
}

type memberMessageJSON struct {
	Node    string       `json:"node"`
	Prev    uint64       `json:"prev,omitempty"`
	Version uint64       `json:"version"`
	Changes []changeJSON `json:"changes"`
}

type changeJSON struct {
	Join bool `json:"join"`
	memberJSON
}

func decodeMemberMessage(b []byte) (memberMessage, error) {
	var w memberMessageJSON
	if err := json.Unmarshal(b, &w); err != nil {
		return memberMessage{}, fmt.Errorf("decode joins and leaves: %w", err)
	}
	if w.Node == "" || w.Version == 0 || w.Prev >= w.Version {
		return memberMessage{}, errors.New("decode joins and leaves: node or version is missing")
	}
	m := memberMessage{node: w.Node, prev: w.Prev, version: w.Version, changes: make([]memberChange, len(w.Changes))}
	for i := range w.Changes {
		who, err := w.Changes[i].decode()
		if err != nil {
			return memberMessage{}, fmt.Errorf("decode joins and leaves: %w", err)
		}
		m.changes[i] = memberChange{join: w.Changes[i].Join, member: who}
	}
	return m, nil
}

// maxMemberBytes bounds the members in one message, about: a quarter of what NATS
// carries by default.
const maxMemberBytes = 256 << 10

// toldVersion is a node's newest version of the channel with that hash (xxhash).
type toldVersion struct{ hash, version uint64 }

// memberNews is the part of a heartbeat that tells of joins and leaves: the newest
// version of every channel whose newest version is above Since and at most Upto.
// Who has taken in everything up to Since knows everything up to Upto then.
type memberNews struct {
	Since    uint64 `json:"since"`
	Upto     uint64 `json:"upto"`
	Channels []byte `json:"channels,omitempty"` // see encodeTold
}

// encodeTold returns list, sorted by version, as 8 bytes of hash and the distance to
// the version before as a varint each; the first distance is to since.
func encodeTold(list []toldVersion, since uint64) []byte {
	var b []byte
	for _, t := range list {
		b = binary.BigEndian.AppendUint64(b, t.hash)
		b = binary.AppendUvarint(b, t.version-since)
		since = t.version
	}
	return b
}

// decode is the inverse of encodeTold.
func (n *memberNews) decode() ([]toldVersion, error) {
	var list []toldVersion
	version := n.Since
	for b := n.Channels; len(b) > 0; {
		if len(b) < 9 {
			return nil, errors.New("decode heartbeat: a channel is cut off")
		}
		t := toldVersion{hash: binary.BigEndian.Uint64(b)}
		distance, used := binary.Uvarint(b[8:])
		if used <= 0 || version+distance < version || version+distance > n.Upto {
			return nil, errors.New("decode heartbeat: a version is out of range")
		}
		version += distance
		t.version, b = version, b[8+used:]
		list = append(list, t)
	}
	return list, nil
}

// maxNews bounds the channels in one heartbeat: 10 to 20 KB. What is more goes into
// another one.
const maxNews = 1000

// newNews spreads list, in any order, over as many heartbeats as it takes. What is
// above upto waits for the next ones.
func newNews(list []toldVersion, since, upto uint64) []*memberNews {
	list = slices.DeleteFunc(list, func(t toldVersion) bool { return t.version > upto || t.version <= since })
	sort.Slice(list, func(i, j int) bool { return list[i].version < list[j].version })
	var all []*memberNews
	for len(list) > maxNews {
		part := &memberNews{Since: since, Upto: list[maxNews-1].version, Channels: encodeTold(list[:maxNews], since)}
		all = append(all, part)
		since, list = part.Upto, list[maxNews:]
	}
	return append(all, &memberNews{Since: since, Upto: upto, Channels: encodeTold(list, since)})
}

// viewQuestion asks for a node's members of a channel.
type viewQuestion struct {
	Channel string `json:"channel"`
	Version uint64 `json:"version,omitempty"` // what the asker has; 0 is nothing
}

// viewPart is a node's members of a channel, or a part of them.
type viewPart struct {
	Index   int          `json:"i"` // in the question
	Version uint64       `json:"version,omitempty"`
	Same    bool         `json:"same,omitempty"` // nothing changed since the asker's version
	Count   int          `json:"count,omitempty"`
	Members []memberJSON `json:"members,omitempty"` // none when there are more than the asker's limit
}

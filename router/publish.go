package router

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"

	"github.com/nats-io/nats.go"

	"github.com/headrace/headrace/internal/planted"
)

// MetaHeader carries Meta beside an ephemeral publication, and in the log.
const MetaHeader = "Headrace-Meta"

// Publish makes a publication. done is called exactly once, from any goroutine,
// possibly before Publish returns; it must not block. Publications to one channel take
// effect in the order of the calls. The position is zero without history.
func (n *Node) Publish(req PublishRequest, done func(Position, error)) {
	ch, ns, err := n.resolve(req.Channel)
	if err != nil {
		done(Position{}, err)
		return
	}
	switch {
	case ns.Map != nil:
		done(Position{}, errMapChannel)
		return
	case ns.Members != "":
		done(Position{}, Errorf(CodeNotAvailable, "namespace %q shows who is in other channels", ns.Name))
		return
	}
	data, err := checkPayload(ns.Payload, req.Data)
	if err != nil {
		done(Position{}, err)
		return
	}
	meta := Meta{Info: req.Info, Tags: req.Tags}.Encode()
	key := ch.Key()
	n.cfg.Metrics.published.Inc()
	if ns.HistorySize == 0 {
		done(Position{}, n.publishEphemeral(ns, key, meta, data))
		return
	}
	log, ok := n.cfg.Store.Log(ns.Name)
	if !ok {
		done(Position{}, Errorf(CodeInternal, "no log for namespace %q", ns.Name))
		return
	}
	user := ""
	if req.Info != nil {
		user = req.Info.User
	}
	e := NewEntry{ID: dedupID(user, key, req.IdempotencyKey), Meta: meta, Data: data}
	log.Append(key, e, func(a Appended, err error) {
		done(Position{Offset: a.Number, Epoch: a.Epoch}, err)
	})
}

func (n *Node) ephemeralSubject(ns, key string) string {
	return n.cfg.Prefix + ".eph." + ns + "." + key
}

func (n *Node) joinLeaveSubject(ns, key string) string {
	return n.cfg.Prefix + ".ctl.jl." + ns + "." + key
}

func (n *Node) publishEphemeral(ns *Namespace, key string, meta, data []byte) error {
	m := &nats.Msg{Subject: n.ephemeralSubject(ns.Name, key), Data: data}
	if meta != nil {
		m.Header = nats.Header{MetaHeader: []string{string(meta)}}
	}
	if err := n.cfg.Core.PublishMsg(m); err != nil {
		return Unavailable("publishing", err)
	}
	return nil
}

// decodeEphemeral decodes a message on an ephemeral subject. Those may come from
// any NATS client, so the payload is checked here, once per node.
func decodeEphemeral(ns *Namespace, m *nats.Msg) (*Publication, error) {
	data, err := checkPayload(ns.Payload, m.Data)
	if err != nil {
		return nil, err
	}
	meta, err := DecodeMeta([]byte(m.Header.Get(MetaHeader)))
	if err != nil {
		return nil, err
	}
	return &Publication{Data: data, Info: meta.Info, Tags: meta.Tags}, nil
}

// newPublication is the publication that e stores.
func newPublication(e Entry) *Publication {
	p := &Publication{Offset: e.Number, Time: e.Time.UnixMilli(), Data: e.Data}
	// Meta was made by Encode. If something else wrote to the stream, the payload
	// still counts; who sent it is not known.
	if meta, err := DecodeMeta(e.Meta); err == nil {
		p.Info, p.Tags, p.Was = meta.Info, meta.Tags, meta.Was
	}
	if m := e.Mark; m != nil {
		p.Key, p.Version, p.Removed = m.Key, m.Version, m.Removed
	}
	return p
}

// dedupID derives the deduplication id of an append (rule W3): ids are scoped
// to a stream by NATS, so the client's key alone would let one user's guess
// swallow another's message. "" stays "".
func dedupID(user, key, idempotencyKey string) string {
	if idempotencyKey == "" || planted.Bug(planted.ForgetIdempotent) {
		return ""
	}
	if planted.Bug(planted.ClientsOwnID) {
		return "i" + idempotencyKey
	}
	h := sha256.New()
	for _, part := range []string{user, key, idempotencyKey} {
		// The length in front keeps ("a", "bc") and ("ab", "c") apart.
		var size [8]byte
		binary.BigEndian.PutUint64(size[:], uint64(len(part)))
		h.Write(size[:])
		h.Write([]byte(part))
	}
	return "i" + base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:18])
}

var errMapChannel = Errorf(CodeNotAvailable, "the channel is a map: set its keys")

package persistence

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/cespare/xxhash/v2"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headrace/headrace/persistence/internal/jet"
	"github.com/headrace/headrace/router"
)

// keyStore is the state of the maps of one namespace. The log of a channel, its
// feed, is the truth: an entry is a change of a key. The key store is its image, one
// subject per key, so that a key is found without a walk. docs/decisions/0020-state.md
// tells why.
//
// The invariant: every entry of a feed except possibly the newest is in the image.
// Whoever appends brings the newest into the image first, and answers only when its
// own is there too.
type keyStore struct {
	ns    router.Namespace
	parts []*keyPart // one for each partition of the log
}

// keyPart is one partition.
type keyPart struct {
	ns   *router.Namespace
	feed *stream // the log: changes in order
	keys *stream // the image: the newest versions of each key
	// known has what was last known of channels, current what was last known of
	// keys: hints that a generation and the compare-and-set keep from harm.
	known   *lru.Cache[string, channelState]
	current *keyCache
	// settled has the newest entries that readers found in the image.
	settled *lru.Cache[string, settled]
	expiry  *expiryQueue
	tails   tails
}

// The image's subjects: heads + channel + two digits of the key's hash + key, the
// channel and the key as one token each. The digits let a channel of any size be read
// in parts by indexed requests.
// (None of them can be a lease, which is one token: see scanner.)
func (p *keyPart) heads(channel string) string {
	return p.keys.subjects + strings.ReplaceAll(channel, ".", "%2E") + "."
}

const hexDigits = "0123456789abcdef"

func bucketOf(key string) byte { return byte(xxhash.Sum64String(key)) }

func (p *keyPart) place(channel, key string) string {
	b := bucketOf(key)
	return p.heads(channel) + string([]byte{hexDigits[b>>4], '.', hexDigits[b&15], '.'}) + router.EncodeToken(key)
}

func (s *Store) keysConfig(ns *router.Namespace, partition int) jetstream.StreamConfig {
	storage := jetstream.FileStorage
	if ns.MemoryStorage {
		storage = jetstream.MemoryStorage
	}
	return jetstream.StreamConfig{
		Name:              fmt.Sprintf("%s_KEYS_%s_%d", strings.ToUpper(s.cfg.Prefix), ns.Name, partition),
		Description:       "Headrace: state of namespace " + ns.Name,
		Subjects:          []string{s.cfg.Prefix + ".key." + ns.Name + "." + strconv.Itoa(partition) + ".>"},
		MaxMsgsPerSubject: int64(ns.Map.KeyHistory),
		Storage:           storage,
		Replicas:          s.cfg.Replicas,
		Discard:           jetstream.DiscardOld,
		AllowDirect:       true,
		// Changes that were stored together in the feed enter the image together.
		AllowAtomicPublish: true,
		Metadata: map[string]string{
			jet.MetaVersion:     strconv.Itoa(jet.ConfigVersion),
			jet.MetaIncarnation: jet.NewID(),
			jet.MetaPartitions:  strconv.Itoa(ns.Partitions),
		},
	}
}

// openKeys provisions the image of a namespace whose feed is l.
func (s *Store) openKeys(ctx context.Context, ns *router.Namespace, l *numberedLog) error {
	ks := &keyStore{ns: *ns}
	for i, feed := range l.streams {
		keys, err := s.openKeyStream(ctx, ns, i, feed.budget)
		if err != nil {
			return err
		}
		known, err := lru.New[string, channelState](s.cfg.HeadCache)
		if err != nil {
			panic(err) // the size is positive: Config.validate
		}
		read, err := lru.New[string, settled](s.cfg.HeadCache)
		if err != nil {
			panic(err)
		}
		p := &keyPart{ns: &ks.ns, feed: feed, keys: keys, known: known, settled: read, current: newKeyCache(), expiry: newExpiryQueue()}
		p.tails.nc, p.tails.byChannel = s.nc, make(map[string]*tail)
		ks.parts = append(ks.parts, p)
		s.streams = append(s.streams, keys)
	}
	l.keys = ks
	s.keys[ns.Name] = ks
	return nil
}

func (s *Store) openKeyStream(ctx context.Context, ns *router.Namespace, partition int, b *budget) (*stream, error) {
	have, err := s.provision.Ensure(ctx, s.keysConfig(ns, partition))
	if err != nil {
		return nil, err
	}
	p := &stream{
		cfg: &s.cfg, log: s.cfg.Log.With("stream", have.Name), req: s.req, metrics: s.metrics, budget: b,
		name:          have.Name,
		subjects:      strings.TrimSuffix(have.Subjects[0], ">"),
		subjectMsgGet: "$JS.API.STREAM.MSG.GET." + have.Name,
		subjectDirect: "$JS.API.DIRECT.GET." + have.Name,
		replicated:    have.Replicas > 1,
		incarnation:   have.Metadata[jet.MetaIncarnation],
		heads:         newHeads(1), // not used
		queues:        make(map[string]*keyQueue),
	}
	if err := p.reach(ctx); err != nil {
		return nil, fmt.Errorf("persistence: reach stream %s: %w", p.name, err)
	}
	return p, nil
}

// of returns the partition of channel.
func (ks *keyStore) of(channel string) *keyPart {
	return ks.parts[partitionOf(channel, len(ks.parts))]
}

// Keys returns the state of a namespace whose channels are maps.
func (s *Store) Keys(namespace string) (router.KeyStore, bool) {
	ks, ok := s.keys[namespace]
	return ks, ok
}

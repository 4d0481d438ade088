package edge

import (
	"slices"
	"strconv"
	"strings"
	"unique"

	"github.com/centrifugal/protocol"

	"github.com/headrace/headrace/router"
)

// Bounds of a tags filter: it is evaluated for every publication of a channel.
const (
	maxFilterNodes = 64 // values of in and nin included
	maxFilterDepth = 8
	maxFilterBytes = 4096
)

// filter says by the tags of a publication whether a subscriber wants it (FilterNode
// of the protocol). A nil filter wants everything.
type filter struct {
	root *filterNode
	// key is the same for the same filter of any subscriber, so that each is
	// evaluated once per batch. See router.Batch.Part.
	key filterKey
}

type filterKey struct{ unique.Handle[string] }

// filterNode is a checked protocol.FilterNode.
type filterNode struct {
	op    string // and, or, not; "" is a comparison
	nodes []*filterNode
	key   string
	cmp   string
	val   string
	vals  []string
	num   number // of val, for the comparisons of numbers
}

// newFilter checks tf and returns its filter. A nil tf is a nil filter. The error is
// an *router.Error that says what is wrong.
func newFilter(tf *protocol.FilterNode) (*filter, error) {
	if tf == nil {
		return nil, nil
	}
	if n := tf.SizeVT(); n > maxFilterBytes {
		return nil, router.Errorf(router.CodeLimit, "the tags filter has %d bytes, more than %d", n, maxFilterBytes)
	}
	left := maxFilterNodes
	root, err := checkFilter(tf, maxFilterDepth, &left)
	if err != nil {
		return nil, err
	}
	wire, err := tf.MarshalVT() // no maps in it: the same filter gives the same bytes
	if err != nil {
		return nil, router.Errorf(router.CodeInvalid, "the tags filter is not valid")
	}
	return &filter{root: root, key: filterKey{unique.Make(string(wire))}}, nil
}

func checkFilter(tf *protocol.FilterNode, depth int, left *int) (*filterNode, error) {
	bad := func(text string) (*filterNode, error) {
		return nil, router.Errorf(router.CodeInvalid, "the tags filter is not valid: %s", text)
	}
	if tf == nil {
		return bad("a node is missing")
	}
	*left -= 1 + len(tf.Vals)
	switch {
	case depth == 0:
		return nil, router.Errorf(router.CodeLimit, "the tags filter is nested deeper than %d", maxFilterDepth)
	case *left < 0:
		return nil, router.Errorf(router.CodeLimit, "the tags filter has more than %d nodes and values", maxFilterNodes)
	}
	f := &filterNode{op: tf.Op, key: tf.Key, cmp: tf.Cmp, val: tf.Val, vals: tf.Vals}
	switch tf.Op {
	case "":
		return checkComparison(f, len(tf.Nodes))
	case "and", "or":
		if len(tf.Nodes) == 0 {
			return bad(tf.Op + " needs nodes")
		}
	case "not":
		if len(tf.Nodes) != 1 {
			return bad("not needs one node")
		}
	default:
		return bad("op is not one of and, or, not")
	}
	for _, n := range tf.Nodes {
		child, err := checkFilter(n, depth-1, left)
		if err != nil {
			return nil, err
		}
		f.nodes = append(f.nodes, child)
	}
	return f, nil
}

func checkComparison(f *filterNode, nodes int) (*filterNode, error) {
	problem := ""
	switch {
	case nodes > 0:
		problem = "nodes need an op"
	case f.key == "":
		problem = "key is missing"
	}
	switch f.cmp {
	case "in", "nin":
		if len(f.vals) == 0 {
			problem = f.cmp + " needs vals"
		}
	case "lt", "lte", "gt", "gte":
		var ok bool
		if f.num, ok = parseNumber(f.val); !ok {
			problem = f.cmp + " needs a number"
		}
	case "eq", "neq", "ex", "nex", "sw", "ew", "ct":
	default:
		problem = "cmp is not one of eq, neq, in, nin, ex, nex, sw, ew, ct, lt, lte, gt, gte"
	}
	if problem != "" {
		return nil, router.Errorf(router.CodeInvalid, "the tags filter is not valid: %s", problem)
	}
	return f, nil
}

// match reports whether tags are as f says. A missing tag is not equal to anything
// and in no list, and does not compare.
func (f *filterNode) match(tags map[string]string) bool {
	switch f.op {
	case "and":
		for _, n := range f.nodes {
			if !n.match(tags) {
				return false
			}
		}
		return true
	case "or":
		for _, n := range f.nodes {
			if n.match(tags) {
				return true
			}
		}
		return false
	case "not":
		return !f.nodes[0].match(tags)
	}
	v, there := tags[f.key]
	switch f.cmp {
	case "neq":
		return !there || v != f.val
	case "nin":
		return !there || !slices.Contains(f.vals, v)
	case "nex":
		return !there
	}
	return there && f.compare(v)
}

func (f *filterNode) compare(v string) bool {
	switch f.cmp {
	case "eq":
		return v == f.val
	case "in":
		return slices.Contains(f.vals, v)
	case "sw":
		return strings.HasPrefix(v, f.val)
	case "ew":
		return strings.HasSuffix(v, f.val)
	case "ct":
		return strings.Contains(v, f.val)
	case "ex":
		return true
	}
	n, ok := parseNumber(v)
	if !ok {
		return false
	}
	c := n.compare(f.num)
	switch f.cmp {
	case "lt":
		return c < 0
	case "lte":
		return c <= 0
	case "gt":
		return c > 0
	default: // gte
		return c >= 0
	}
}

// number is a decimal number: exact as a 64-bit integer if it is one, else as near
// as a float64 gets.
type number struct {
	whole bool
	i     int64
	f     float64
}

func parseNumber(s string) (n number, ok bool) {
	if i, err := strconv.ParseInt(s, 10, 64); err == nil {
		return number{true, i, float64(i)}, true
	}
	if strings.Trim(s, "+-.0123456789eE") != "" { // ParseFloat takes NaN, Inf, hex and underscores too
		return n, false
	}
	f, err := strconv.ParseFloat(s, 64)
	return number{f: f}, err == nil
}

func (n number) compare(m number) int {
	switch {
	case n.whole && m.whole && n.i < m.i, (!n.whole || !m.whole) && n.f < m.f:
		return -1
	case n.whole && m.whole && n.i > m.i, (!n.whole || !m.whole) && n.f > m.f:
		return 1
	default:
		return 0
	}
}

// wants reports whether the subscriber gets p. A removal says nothing of what it
// removes, so everybody gets it.
func (f *filter) wants(p *router.Publication) bool {
	return f == nil || p.Removed || f.root.match(p.Tags)
}

// show returns what the subscriber gets of p: p, nothing, or the removal of a key
// whose tags were such as it wants and are no more.
func (f *filter) show(p *router.Publication) *router.Publication {
	switch {
	case f.wants(p):
		return p
	case p.Was != nil && f.root.match(*p.Was):
		return &router.Publication{Offset: p.Offset, Epoch: p.Epoch, Time: p.Time, Key: p.Key, Version: p.Version, Removed: true}
	default:
		return nil
	}
}

// pick returns those of pubs that the subscriber gets.
func (f *filter) pick(pubs []*router.Publication) []*router.Publication {
	if f == nil {
		return pubs
	}
	var out []*router.Publication
	for _, p := range pubs {
		if p := f.show(p); p != nil {
			out = append(out, p)
		}
	}
	return out
}

// part returns what the subscriber gets of b, nil for nothing.
func (f *filter) part(b *router.Batch) *router.Batch {
	part := &router.Batch{Channel: b.Channel}
	whole := true
	for _, p := range b.Pushes {
		shown := p.Pub
		if p.Pub != nil {
			shown = f.show(p.Pub)
			whole = whole && shown == p.Pub
		}
		if p.Pub == nil || shown != nil {
			part.Pushes = append(part.Pushes, router.Push{Pub: shown, Join: p.Join, Leave: p.Leave})
		}
	}
	switch {
	case whole:
		return b // the same frame serves
	case len(part.Pushes) == 0:
		return nil
	}
	return part
}

// filteredSub is the subscriber of a subscription with a filter. Those without have
// nothing to do with it.
type filteredSub struct {
	s *session
	f *filter
}

// Deliver implements router.Subscriber.
func (v *filteredSub) Deliver(sub *router.Subscription, b *router.Batch) {
	if part := b.Part(v.f.key, v.f.part); part != nil {
		v.s.Deliver(sub, part)
	}
}

// Dropped implements router.Subscriber.
func (v *filteredSub) Dropped(sub *router.Subscription, reason router.UnsubscribeReason) {
	v.s.Dropped(sub, reason)
}

// subscriber is who takes the deliveries of a subscription of the client's.
func (s *session) subscriber(in *invitation) router.Subscriber {
	switch {
	case in.filter != nil:
		return &filteredSub{s, in.filter}
	case in.delta && in.ns.Map != nil:
		return &mapDelta{s: s, text: in.ns.Payload != router.PayloadBinary}
	case in.delta:
		return &streamDelta{s: s, text: in.ns.Payload != router.PayloadBinary}
	default:
		return s
	}
}

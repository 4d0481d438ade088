package router

import "encoding/json"

// viewAnswers gathers the answers of nodes to a question for members, by node.
type viewAnswers map[string]*nodeViews

// nodeViews is a node's answer.
type nodeViews struct {
	upto  uint64 // the node's version when it looked; 0 from older nodes
	views map[int]*viewAnswer
	whole bool
	bad   bool

	older []member // what a node answers that does not know of views
}

// viewAnswer is what a node says of its members of a channel.
type viewAnswer struct {
	upto    uint64
	version uint64
	same    bool
	count   int
	members []member // fewer than count: there are too many
}

// view returns the answer for the channel with index i. One that was not mentioned
// was empty as of upto. What older nodes have is not followed: membership knows them.
func (a *nodeViews) view(i int) viewAnswer {
	if v := a.views[i]; v != nil {
		return *v
	}
	return viewAnswer{upto: a.upto, version: a.upto}
}

func (all viewAnswers) take(p answerPart) {
	a := all[p.Node]
	if a == nil {
		a = &nodeViews{upto: p.Upto, views: make(map[int]*viewAnswer)}
		all[p.Node] = a
	}
	a.whole = !p.More
	if p.Upto == 0 {
		for _, raw := range p.Members {
			w := memberJSON{Info: raw}
			who, err := w.decode()
			a.bad = a.bad || err != nil
			a.older = append(a.older, who)
		}
		return
	}
	for i := range p.Views {
		w := &p.Views[i]
		v := a.views[w.Index]
		if v == nil {
			v = &viewAnswer{upto: a.upto, version: w.Version, same: w.Same, count: w.Count}
			a.views[w.Index] = v
		}
		for j := range w.Members {
			who, err := w.Members[j].decode()
			a.bad = a.bad || err != nil
			v.members = append(v.members, who)
		}
	}
}

// whole returns the answers that came in full, and how many were malformed.
func (all viewAnswers) whole() (got map[string]*nodeViews, bad int) {
	got = make(map[string]*nodeViews, len(all))
	for node, a := range all {
		switch {
		case a.bad:
			bad++
		case a.whole:
			got[node] = a
		}
	}
	return got, bad
}

// olderAnswer answers the question for presence of nodes from before there were
// views: their joins and leaves and ours are not told to each other, but who is there
// is known.
func olderAnswer(infos []*ClientInfo) []answerPart {
	parts := []answerPart{{}}
	for _, info := range infos {
		p := &parts[len(parts)-1]
		if len(p.Members) == maxAnswerItems {
			parts = append(parts, answerPart{})
			p = &parts[len(parts)-1]
		}
		p.Members = append(p.Members, json.RawMessage(Meta{Info: info}.Encode()))
	}
	return parts
}

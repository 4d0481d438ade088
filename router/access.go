package router

import (
	"regexp"
	"strings"
)

// Ops is a set of operations.
type Ops uint8

// OpsOf returns the set of ops.
func OpsOf(ops ...Op) (set Ops) {
	for _, op := range ops {
		set |= 1 << op
	}
	return set
}

// Has reports whether op is in o.
func (o Ops) Has(op Op) bool { return o&(1<<op) != 0 }

// grant reports whether tokens with o let somebody do op. Who may publish to a map
// may set a key to nothing, so the same grant removes keys.
func (o Ops) grant(op Op) bool { return o.Has(op) || op == OpRemove && o.Has(OpPublish) }

// Allow returns nil when who may do op in channel by the namespace's rules or by
// what the tokens grant, else an *Error. Nothing that allows it means no.
func (n *Node) Allow(op Op, channel string, who Access) error {
	ch, ns, err := n.resolve(channel)
	if err != nil {
		return err
	}
	if ns.nameRule != nil && !ns.nameRule.MatchString(ch.Name) {
		return Errorf(CodeInvalid, "channels of namespace %q have names of another form", ns.Name)
	}
	if who.Insecure || who.Invited.grant(op) || ns.allows(op, ch.Name, who) {
		return nil
	}
	return Errorf(CodeDenied, "permission denied")
}

// allows decides by rules and capabilities, which reach over the border of a
// user-limited channel for none but the users it names. A subscriber is inside:
// somebody who could has let it in.
func (ns *Namespace) allows(op Op, name string, who Access) bool {
	limited, named := ns.userLimit(name, who.User)
	outside := limited && !named
	rule := func(clients, anonymous, subscribers bool) bool {
		return !outside && clients && (who.User != "" || anonymous) || subscribers && who.Subscribed
	}
	if !outside && who.Granted.grant(op) {
		return true
	}
	switch op {
	case OpSubscribe:
		return named || rule(ns.AllowSubscribe, ns.AllowSubscribeAnonymous, false)
	case OpPublish:
		return rule(ns.AllowPublish, ns.AllowPublishAnonymous, ns.AllowPublishSubscriber)
	case OpHistory:
		return rule(ns.AllowHistory, ns.AllowHistoryAnonymous, ns.AllowHistorySubscriber)
	case OpPresence:
		return rule(ns.AllowPresence, ns.AllowPresenceAnonymous, ns.AllowPresenceSubscriber)
	case OpRemove:
		return ns.Map != nil && rule(ns.Map.AllowRemove, false, ns.Map.AllowRemoveSubscriber)
	default:
		return false
	}
}

// The border between a channel's name and the users it is limited to, and what
// separates them. User ids with these characters cannot be named.
const (
	userBoundary  = "#"
	userSeparator = ","
)

// userLimit tells whether the channel is limited to users, and whether user is
// one of them. A name with two borders names nobody: which part is the list of
// users would be a matter of opinion.
func (ns *Namespace) userLimit(name, user string) (limited, named bool) {
	if !ns.UserLimited {
		return false, false
	}
	_, users, limited := strings.Cut(name, userBoundary)
	if !limited || user == "" || strings.Contains(users, userBoundary) {
		return limited, false
	}
	for u := range strings.SplitSeq(users, userSeparator) {
		if u == user {
			return true, true
		}
	}
	return true, false
}

// compileNameRule returns nil for "".
func compileNameRule(expr string) (*regexp.Regexp, error) {
	if expr == "" {
		return nil, nil
	}
	if _, err := regexp.Compile(expr); err != nil { // alone: "a)|(b" is wrong
		return nil, err
	}
	return regexp.Compile(`^(?:` + expr + `)$`)
}

package router

// Allow returns nil when who may do op in channel by the namespace's rules, else
// an *Error. No rule that allows it means no.
func (n *Node) Allow(op Op, channel string, who Access) error {
	_, ns, err := n.resolve(channel)
	if err != nil {
		return err
	}
	if who.Insecure || ns.allows(op, who) {
		return nil
	}
	return Errorf(CodeDenied, "permission denied")
}

func (ns *Namespace) allows(op Op, who Access) bool {
	known := who.User != ""
	switch op {
	case OpSubscribe:
		return ns.AllowSubscribe && (known || ns.AllowSubscribeAnonymous)
	case OpPublish:
		return ns.AllowPublish && (known || ns.AllowPublishAnonymous) || ns.AllowPublishSubscriber && who.Subscribed
	case OpHistory:
		return ns.AllowHistory && (known || ns.AllowHistoryAnonymous) || ns.AllowHistorySubscriber && who.Subscribed
	case OpPresence:
		return ns.AllowPresence && (known || ns.AllowPresenceAnonymous) || ns.AllowPresenceSubscriber && who.Subscribed
	default:
		return false
	}
}

package router

import "strings"

// queueNamespace is what the channels of workers begin with. No namespace of the
// configuration can have that name.
const queueNamespace = "queue"

// QueueChannel returns the channel that the workers of a queue subscribe to. What
// tokens grant in it they grant for the queue.
func QueueChannel(queue string) string { return queueNamespace + ":" + queue }

// QueueOf returns the queue that a channel belongs to.
func QueueOf(channel string) (queue string, ok bool) {
	return strings.CutPrefix(channel, queueNamespace+":")
}

// Allow returns nil when who may do op with the queue, else an *Error: OpPublish is
// to push jobs, OpSubscribe to work on them, OpDeadLetters to look at dead letters
// and to redrive them.
func (q *Queue) Allow(op Op, who Access) error {
	rule := func(clients, anonymous bool) bool { return clients && (who.User != "" || anonymous) }
	allowed := who.Insecure || who.Invited.Has(op) || who.Granted.Has(op)
	switch op {
	case OpPublish:
		allowed = allowed || rule(q.AllowPush, q.AllowPushAnonymous)
	case OpSubscribe:
		allowed = allowed || rule(q.AllowWork, q.AllowWorkAnonymous)
	case OpDeadLetters: // tokens only
	default:
		return Errorf(CodeNotAvailable, "queues do not offer this")
	}
	if !allowed {
		return Errorf(CodeDenied, "permission denied")
	}
	return nil
}

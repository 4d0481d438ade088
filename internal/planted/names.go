package planted

// Variable is the environment variable that names the bug to plant.
const Variable = "PLANTED_BUG"

// Name names a bug.
type Name string

// The bugs, with the rule of the design that each breaks.
const (
	SkipTailChecks     Name = "skip-tail-checks"     // J1: neither suspicion nor sweep compares heads
	TrustReplica       Name = "trust-replica"        // J2: the head comes from whatever replica answers
	SkipGaps           Name = "skip-gaps"            // L1: what follows a gap is delivered as if nothing was missed
	NoFloor            Name = "no-floor"             // L2: a batch is not split for who joined inside it
	RecoverAnyEpoch    Name = "recover-any-epoch"    // R1: the epoch of a position does not matter
	RecoverTooOld      Name = "recover-too-old"      // R1: a run that begins after the position counts as complete
	DoubleAfterTimeout Name = "double-after-timeout" // W2: a timeout counts as failure, and the repetition is a new message
	ClientsOwnID       Name = "clients-own-id"       // W3: the client's key alone deduplicates
	RestartNumbers     Name = "restart-numbers"      // W5: a removal purges everything, and the life goes on at 1
	AckBeforeStore     Name = "ack-before-store"     // P1: the publisher is answered before the store has answered
	StaleRing          Name = "stale-ring"           // L2: a ring outlives the interest that fed it
	PartialPresence    Name = "partial-presence"     // presence is answered without the nodes that are slow
	DeadMembers        Name = "dead-members"         // presence keeps the members of sessions that ended
	LeakConnections    Name = "leak-connections"     // a goroutine stays behind for each connection
)

// All lists the bugs.
var All = []Name{
	SkipTailChecks, TrustReplica, SkipGaps, NoFloor, RecoverAnyEpoch, RecoverTooOld, DoubleAfterTimeout,
	ClientsOwnID, RestartNumbers, AckBeforeStore, StaleRing, PartialPresence, DeadMembers, LeakConnections,
}

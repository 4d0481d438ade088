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
	StaleBase          Name = "stale-base"           // E9: deltas are made to the first publication a client got, not to the last
	GuessBase          Name = "guess-base"           // E9: every client of a map is taken to have the value before
	RecoverAnyEpoch    Name = "recover-any-epoch"    // R1: the epoch of a position does not matter
	RecoverTooOld      Name = "recover-too-old"      // R1: a run that begins after the position counts as complete
	DoubleAfterTimeout Name = "double-after-timeout" // W2: a timeout counts as failure, and the repetition is a new message
	ClientsOwnID       Name = "clients-own-id"       // W3: the client's key alone deduplicates
	RestartNumbers     Name = "restart-numbers"      // W5: a removal purges everything, and the life goes on at 1
	AckBeforeStore     Name = "ack-before-store"     // P1: the publisher is answered before the store has answered
	StaleRing          Name = "stale-ring"           // L2: a ring outlives the interest that fed it
	PartialPresence    Name = "partial-presence"     // presence is answered without the nodes that are slow
	DeadMembers        Name = "dead-members"         // presence keeps the members of sessions that ended
	NoCrashLeaves      Name = "no-crash-leaves"      // R4: the members at a node that is gone stay
	SkipMemberNews     Name = "skip-member-news"     // R4: versions of joins and leaves are not compared
	LeakConnections    Name = "leak-connections"     // a goroutine stays behind for each connection

	PushBeforeStore   Name = "push-before-store"   // Q1: a job is acknowledged before the store has answered
	RetryAfterAck     Name = "retry-after-ack"     // Q1: the attempt is ended before its retry is stored
	EarlySchedule     Name = "early-schedule"      // Q1: due times are cut to seconds
	AttemptFromHeader Name = "attempt-from-header" // Q2: deliveries that nobody answered do not count
	TwoDeadLetters    Name = "two-dead-letters"    // Q3: nothing keeps a dead letter from being stored again
	DeadAfterTerm     Name = "dead-after-term"     // Q3: the job is ended before its dead letter is stored
	LowStarves        Name = "low-starves"         // Q4: the highest priority that has something gets all
	TooManyCredits    Name = "too-many-credits"    // Q4: what a worker holds does not count
	ForeignTokens     Name = "foreign-tokens"      // Q4: whoever knows an ack subject can settle, at any queue
	AckWithoutAnswer  Name = "ack-without-answer"  // a worker's ack is acknowledged before the store has it
	ForgetsOnDelivery Name = "forgets-on-delivery" // a job is ended when it is given out
	HeadersLost       Name = "headers-lost"        // a retry does not have the headers of the job

	SkipForeignHead  Name = "skip-foreign-head"  // another edge's newest change is not brought into the image before the next one
	SkipOwnHead      Name = "skip-own-head"      // every fourth change is answered, and followed by others, without being in the image
	ExpectAnyLife    Name = "expect-any-life"    // S2: an expected version is compared without its life
	CachedBelowSeen  Name = "cached-below-seen"  // S3: what the reader has seen does not matter
	RestartVersions  Name = "restart-versions"   // a removed key begins at version 1 again, in the same life
	OldImageWins     Name = "old-image-wins"     // the image is written whatever lies there
	PositionLate     Name = "position-late"      // the position of a page is taken after it was read
	ShowExpired      Name = "show-expired"       // S1: what has expired is a value until it is removed
	ForgetIdempotent Name = "forget-idempotency" // W3: the key of a repeated change does not count
)

// All lists the bugs.
var All = []Name{
	SkipTailChecks, TrustReplica, SkipGaps, NoFloor, StaleBase, GuessBase, RecoverAnyEpoch, RecoverTooOld, DoubleAfterTimeout,
	ClientsOwnID, RestartNumbers, AckBeforeStore, StaleRing, PartialPresence, DeadMembers, NoCrashLeaves, SkipMemberNews, LeakConnections,
	PushBeforeStore, RetryAfterAck, EarlySchedule, AttemptFromHeader, TwoDeadLetters, DeadAfterTerm,
	LowStarves, TooManyCredits, ForeignTokens, AckWithoutAnswer, ForgetsOnDelivery, HeadersLost,
	SkipForeignHead, SkipOwnHead, ExpectAnyLife, CachedBelowSeen, RestartVersions, OldImageWins, PositionLate,
	ShowExpired, ForgetIdempotent,
}

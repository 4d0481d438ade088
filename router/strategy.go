package router

import "time"

// Strategy says what becomes of a change that meets another one.
type Strategy string

// The strategies.
const (
	// StrategyReject applies a change when what it expects is current, or when it
	// expects nothing.
	StrategyReject Strategy = "reject"
	// StrategyLastWriteWins applies a change unless what is stored was made later by
	// the clients' clocks. Without both times, the later arrival is the later change.
	StrategyLastWriteWins Strategy = "lastWriteWins"
	// StrategyMerge applies a change as a JSON merge patch (RFC 7396) to what is
	// current, whatever its version.
	StrategyMerge Strategy = "merge"
	// StrategyCustom lets a back end decide.
	StrategyCustom Strategy = "custom"
)

// MinKeyTTL is the shortest time to live of a key.
const MinKeyTTL = time.Second

func (s Strategy) check() error {
	switch s {
	case StrategyReject, StrategyLastWriteWins, StrategyMerge, StrategyCustom:
		return nil
	}
	return Errorf(CodeInvalid, "unknown strategy %q; it is one of reject, lastWriteWins, merge, custom", s)
}

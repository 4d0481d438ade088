package router

import (
	"strconv"
	"strings"
)

// Position is a place in a channel's history: the offset of the last publication
// seen and the epoch it belongs to. Offsets are comparable within one epoch only.
type Position struct {
	Offset uint64
	Epoch  string
}

// LifeEpoch is the epoch of a key that has a head: stream incarnation and life.
func LifeEpoch(incarnation, life string) string { return incarnation + "." + life }

// EmptyEpoch is the epoch told for a key without entries: stream incarnation and
// a sequence the stream had reached when the key was seen empty. With it a
// position taken before the first publication is recoverable (rule R1).
func EmptyEpoch(incarnation string, seq uint64) string {
	return incarnation + "~" + strconv.FormatUint(seq, 36)
}

// parseEmptyEpoch is the inverse of EmptyEpoch.
func parseEmptyEpoch(epoch string) (incarnation string, seq uint64, ok bool) {
	i := strings.LastIndexByte(epoch, '~')
	if i < 0 {
		return "", 0, false
	}
	seq, err := strconv.ParseUint(epoch[i+1:], 36, 64)
	return epoch[:i], seq, err == nil
}

//go:build race

package natstest

import "runtime"

// oneThread keeps Go code to one thread until the returned function is called. With
// more, a timer channel that is polled and the bubble's own loop may run timers at the
// same moment, both in the race detector's context of the bubble, and that crashes the
// race detector (go1.26.8 runtime/time.go, unlockAndRun: bubble.timers.raceCtx; met
// once in about a hundred runs of all tests).
func oneThread() (undo func()) {
	n := runtime.GOMAXPROCS(1)
	return func() { runtime.GOMAXPROCS(n) }
}

//go:build race

package test

// raceEnabled: everything is five to ten times slower.
const raceEnabled = true

//go:build !planted

// Package planted holds bugs on purpose, so that the chaos runner (test/chaos) can
// show that it would notice them. They exist only in binaries built with the tag
// planted; elsewhere Bug is the constant false and the compiler removes them.
package planted

// Bug reports whether the bug is planted: never, in this build.
func Bug(Name) bool { return false }

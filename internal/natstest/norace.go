//go:build !race

package natstest

func oneThread() (undo func()) { return func() {} }

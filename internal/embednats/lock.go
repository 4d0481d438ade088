package embednats

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
)

// LockedError tells that another process uses the data directory.
type LockedError struct {
	Path string // of the lock file
	PID  string // of the holder, "" when unknown
}

func (e *LockedError) Error() string {
	who := "another process"
	if e.PID != "" {
		who = "process " + e.PID
	}
	return fmt.Sprintf("data directory is in use by %s (lock file %s); stop it or choose another directory with --data", who, e.Path)
}

// dirLock holds a lock file. The kernel frees it when the process dies, however
// it dies, so there are no stale locks.
type dirLock struct {
	once sync.Once
	file *os.File
}

// lockDir takes the lock at path, or fails with *LockedError.
func lockDir(path string) (*dirLock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock file: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		pid := make([]byte, 20)
		n, _ := f.ReadAt(pid, 0)
		return nil, &LockedError{Path: path, PID: strings.TrimSpace(string(pid[:n]))}
	}
	// The pid is for people; the lock does not depend on it.
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0)
	}
	return &dirLock{file: f}, nil
}

func (l *dirLock) release() { l.once.Do(func() { l.file.Close() }) }

package main

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is one real process that is started, killed and frozen. Its methods may
// be called from any goroutine; faults on the same process overlap.
type process struct {
	name    string
	command func() *exec.Cmd
	logFile string

	// died is told when the process ends although nobody ended it.
	died func(name string)

	life   sync.Mutex // held while it is being taken down or brought up
	mu     sync.Mutex // guards the fields below
	cmd    *exec.Cmd  // nil while it is down
	ended  chan struct{}
	ending bool // somebody is ending it
	frozen int
}

// up starts the process unless it runs.
func (p *process) up() error {
	p.life.Lock()
	defer p.life.Unlock()
	return p.start()
}

func (p *process) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		return nil
	}
	out, err := os.OpenFile(p.logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := p.command()
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = childOfOurs()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	ended := make(chan struct{})
	p.cmd, p.ended, p.frozen, p.ending = cmd, ended, 0, false
	go func() {
		cmd.Wait() //nolint:errcheck // killed, nearly always
		p.mu.Lock()
		unasked := !p.ending
		p.cmd = nil
		p.mu.Unlock()
		close(ended)
		if unasked {
			p.died(p.name)
		}
	}()
	return nil
}

// restart ends the process with sig and starts it again after a while. A process
// that does not end on SIGTERM within the bound is killed, and that is an error.
func (p *process) restart(sig syscall.Signal, down time.Duration, stopped func()) error {
	p.life.Lock()
	defer p.life.Unlock()
	err := p.end(sig)
	if stopped != nil {
		stopped()
	}
	time.Sleep(down) // how long it stays down
	if startErr := p.start(); startErr != nil {
		return startErr
	}
	return err
}

// stopBound is how long a process may take to end on SIGTERM.
const stopBound = 40 * time.Second

func (p *process) end(sig syscall.Signal) error {
	p.mu.Lock()
	cmd, ended := p.cmd, p.ended
	if cmd == nil {
		p.mu.Unlock()
		return nil
	}
	if p.frozen > 0 && sig != syscall.SIGKILL {
		sig = syscall.SIGKILL // it could not hear anything else
	}
	p.ending = true
	cmd.Process.Signal(sig) //nolint:errcheck // it may have ended by itself
	p.mu.Unlock()
	select {
	case <-ended:
		return nil
	case <-time.After(stopBound):
	}
	cmd.Process.Kill() //nolint:errcheck // as above
	<-ended
	return fmt.Errorf("%s did not end within %v of %v", p.name, stopBound, sig)
}

// freeze stops the process where it is, for a while.
func (p *process) freeze(d time.Duration) {
	p.mu.Lock()
	cmd := p.cmd
	if cmd != nil {
		p.frozen++
		cmd.Process.Signal(syscall.SIGSTOP) //nolint:errcheck // it may have ended
	}
	p.mu.Unlock()
	time.Sleep(d) // how long it stays frozen
	p.mu.Lock()
	defer p.mu.Unlock()
	if cmd == nil || p.cmd != cmd {
		return // it was killed meanwhile
	}
	if p.frozen--; p.frozen == 0 {
		cmd.Process.Signal(syscall.SIGCONT) //nolint:errcheck // as above
	}
}

// whenEnded calls f when the process ends, unless stop was called before.
func (p *process) whenEnded(f func()) (stop func()) {
	p.mu.Lock()
	ended := p.ended
	p.mu.Unlock()
	enough := make(chan struct{})
	go func() {
		select {
		case <-ended:
			f()
		case <-enough:
		}
	}()
	return func() { close(enough) }
}

// held returns the process's resident bytes and open descriptors.
func (p *process) held() (bytes int64, descriptors int, err error) {
	p.mu.Lock()
	cmd := p.cmd
	p.mu.Unlock()
	if cmd == nil {
		return 0, 0, fmt.Errorf("%s is not running", p.name)
	}
	proc := "/proc/" + strconv.Itoa(cmd.Process.Pid)
	status, err := os.ReadFile(proc + "/status")
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			bytes = kb << 10
		}
	}
	fds, err := os.ReadDir(proc + "/fd")
	return bytes, len(fds), err
}

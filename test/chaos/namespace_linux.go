package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

const namespaceEnv = "CHAOS_NAMESPACE"

// inOwnNamespace runs this command again in a mount namespace of its own, so that
// the small disks it mounts are nobody else's and vanish with it. again is true in
// the outer process, when all is over. Where that is not allowed, disks are not
// filled, and the report says so.
func inOwnNamespace() (again bool, err error) {
	if os.Getenv(namespaceEnv) != "" {
		// Mounts made here must not reach the namespace we came from.
		if err := syscall.Mount("none", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
			os.Unsetenv(namespaceEnv) //nolint:errcheck // a valid name
		}
		return false, nil
	}
	self, err := os.Executable()
	if err != nil {
		return false, nil //nolint:nilerr // goes on without
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), namespaceEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	signal.Ignore(os.Interrupt) // the child hears it too, and ends
	if err := cmd.Start(); err != nil {
		signal.Reset(os.Interrupt)
		fmt.Fprintln(os.Stderr, "chaos: no mount namespace, so disks will not be filled:", err)
		return false, nil
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		os.Exit(max(exit.ExitCode(), 1))
	}
	return true, err
}

// mountDisk mounts a disk of a few bytes at dir. It is false where that is not
// possible.
func mountDisk(dir string, bytes int64) bool {
	if os.Getenv(namespaceEnv) == "" {
		return false
	}
	return syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", bytes)) == nil
}

func unmountDisk(dir string) {
	syscall.Unmount(dir, syscall.MNT_DETACH) //nolint:errcheck // vanishes with the namespace at the latest
}

// childOfOurs makes a process that ends with this one.
func childOfOurs() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
